//! A Linux tap device, with the virtio header that carries offloads.

// UNSAFETY: the tap's ioctls, and vectored reads and writes of memory that may change, exist only as C functions.
#![expect(unsafe_code)]

use std::ffi::{CString, c_int, c_uint, c_ulong};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::{Frame, NetPort, Received};
use crate::vnet::{self, VNET_HDR_LEN};
use crate::{Offloads, PartMut};

const TUN: &str = "/dev/net/tun";
/// The kernel's limit for one call; a frame has far fewer parts.
const IOV_MAX: usize = 1024;

/// Why a tap could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The tun driver's own file cannot be opened.
    #[error("cannot open {TUN}")]
    Driver(#[source] io::Error),
    /// No interface of that name.
    #[error(
        "there is no interface {name} (make it with: ip tuntap add dev {name} mode tap user $USER vnet_hdr)"
    )]
    NoDevice {
        /// The name asked for.
        name: String,
    },
    /// It cannot be an interface's name.
    #[error("{name:?} is not an interface name: 1 to 15 bytes, no slash, space or NUL")]
    BadName {
        /// The name asked for.
        name: String,
    },
    /// This user may not use it.
    #[error(
        "no right to use the tap {name}: it must belong to this user or group, or the process have CAP_NET_ADMIN"
    )]
    NoRights {
        /// The name asked for.
        name: String,
    },
    /// Another program has it open.
    #[error("the tap {name} is in use by another program")]
    Busy {
        /// The name asked for.
        name: String,
    },
    /// The kernel refuses a setting; for `TUNSETIFF` the interface is no tap, or one with several queues.
    #[error("the interface {name} refuses {setting}")]
    Refused {
        /// The name asked for.
        name: String,
        /// Which setting, as the kernel calls it.
        setting: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// One queue of a tap device, opened by its name.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    /// Reused for each frame: its header and parts.
    iov: Vec<Iovec>,
}

/// An `iovec` that is only used within the call that filled it in.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Iovec(libc::iovec);

// SAFETY: the addresses are never used after the call that wrote them: each call starts by clearing the vector.
unsafe impl Send for Iovec {}

impl std::fmt::Debug for Iovec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Iovec({} bytes)", self.0.iov_len)
    }
}

impl Tap {
    /// Attaches to an existing tap of this process's network namespace. Works without privileges where the tap belongs to the user.
    ///
    /// # Errors
    ///
    /// [`TapError`], each a line that tells the user what to do.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let checked = Self::checked(name)?;
        // SAFETY: a NUL-terminated string.
        if unsafe { libc::if_nametoindex(checked.as_ptr()) } == 0 {
            return Err(TapError::NoDevice {
                name: name.to_owned(),
            });
        }
        Self::attach(name, &checked)
    }

    /// Makes a tap that goes away when it is closed, or attaches to an existing one. Making one takes CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn create(name: &str) -> Result<Self, TapError> {
        Self::attach(name, &Self::checked(name)?)
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn checked(name: &str) -> Result<CString, TapError> {
        let fits = (1..libc::IFNAMSIZ).contains(&name.len());
        let clean = !name.contains(|c: char| c == '/' || c == '%' || c.is_whitespace());
        let checked = CString::new(name).ok().filter(|_| fits && clean);
        checked.ok_or_else(|| TapError::BadName {
            name: name.to_owned(),
        })
    }

    fn attach(name: &str, checked: &CString) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(TUN)
            .map_err(TapError::Driver)?;
        let mut request: libc::ifreq = {
            // SAFETY: the structure is plain numbers and addresses, for which zero is a value.
            unsafe { std::mem::zeroed() }
        };
        for (to, from) in request.ifr_name.iter_mut().zip(checked.as_bytes()) {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or(libc::c_short::MAX);
        // SAFETY: the request is a live `ifreq`, as TUNSETIFF wants.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result < 0 {
            let source = io::Error::last_os_error();
            let name = name.to_owned();
            return Err(match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TapError::NoRights { name },
                Some(libc::EBUSY) => TapError::Busy { name },
                _ => TapError::Refused {
                    name,
                    setting: "TUNSETIFF",
                    source,
                },
            });
        }
        let tap = Self {
            file,
            name: name.to_owned(),
            iov: Vec::new(),
        };
        let size = c_int::try_from(VNET_HDR_LEN).unwrap_or(c_int::MAX);
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        let result =
            unsafe { libc::ioctl(tap.file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
        tap.refused("TUNSETVNETHDRSZ", result)?;
        tap.set_offloads(0)
            .map_err(|source| tap.refusal("TUNSETOFFLOAD", source))?;
        Ok(tap)
    }

    fn refused(&self, setting: &'static str, result: c_int) -> Result<(), TapError> {
        if result < 0 {
            return Err(self.refusal(setting, io::Error::last_os_error()));
        }
        Ok(())
    }

    fn refusal(&self, setting: &'static str, source: io::Error) -> TapError {
        TapError::Refused {
            name: self.name.clone(),
            setting,
            source,
        }
    }

    fn set_offloads(&self, flags: c_uint) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes a number.
        let result = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                c_ulong::from(flags),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Writes one frame; false where the kernel refuses it.
    fn write(&mut self, frame: &Frame<'_>) -> bool {
        let mut header = vnet::emit(&frame.offload);
        self.iov.clear();
        self.iov.push(Iovec(libc::iovec {
            iov_base: header.as_mut_ptr().cast(),
            iov_len: VNET_HDR_LEN,
        }));
        let parts = frame.parts.iter().map(|part| Iovec(part.iovec()));
        self.iov.extend(parts.take(IOV_MAX - 1));
        let count = c_int::try_from(self.iov.len()).unwrap_or(0);
        // SAFETY: each element is the header or a part, valid for reads during this call; `Iovec` is laid out as `iovec`.
        let written =
            unsafe { libc::writev(self.file.as_raw_fd(), self.iov.as_ptr().cast(), count) };
        self.iov.clear();
        // A tap takes a frame whole or not at all.
        written >= 0
    }
}

impl NetPort for Tap {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        for frame in batch {
            frame.taken = self.write(frame);
        }
    }

    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        let mut header = [0; VNET_HDR_LEN];
        self.iov.clear();
        self.iov.push(Iovec(libc::iovec {
            iov_base: header.as_mut_ptr().cast(),
            iov_len: VNET_HDR_LEN,
        }));
        let parts = into.iter().map(|part| Iovec(part.iovec()));
        self.iov.extend(parts.take(IOV_MAX - 1));
        let room: usize = self.iov.iter().map(|part| part.0.iov_len).sum();
        let count = c_int::try_from(self.iov.len()).unwrap_or(0);
        // SAFETY: each element is the header or a part, valid for writes during this call, since `into` is borrowed alone.
        let read = unsafe { libc::readv(self.file.as_raw_fd(), self.iov.as_ptr().cast(), count) };
        self.iov.clear();
        let Ok(read) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Received::Nothing),
                io::ErrorKind::Interrupted => Ok(Received::Lost),
                _ => Err(error),
            };
        };
        // A frame that fills all the room was most likely cut off.
        let Some(len) = read.checked_sub(VNET_HDR_LEN).filter(|_| read < room) else {
            return Ok(Received::Lost);
        };
        Ok(match vnet::parse(&header) {
            Some(offload) => Received::Frame { len, offload },
            None => Received::Lost,
        })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        let mut flags = 0;
        // The kernel knows large packets only together with blank checksums.
        if offloads.checksum {
            flags |= libc::TUN_F_CSUM;
            if offloads.tso_v4 {
                flags |= libc::TUN_F_TSO4;
            }
            if offloads.tso_v6 {
                flags |= libc::TUN_F_TSO6;
            }
        }
        self.set_offloads(flags)
    }

    fn set_link(&mut self, up: bool) {
        let up = c_int::from(up);
        // SAFETY: TUNSETCARRIER reads an int. Kernels before 5.0 do not know it: their taps have no link light.
        let _ = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETCARRIER, &raw const up) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_said_to_be_missing() {
        assert!(matches!(
            Tap::open("cantle-none0"),
            Err(TapError::NoDevice { name }) if name == "cantle-none0"
        ));
    }

    #[test]
    fn impossible_names_are_refused() {
        for name in ["", "a-name-of-16-byt", "a/b", "a b", "a\0b", "tap%d"] {
            assert!(
                matches!(Tap::open(name), Err(TapError::BadName { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn what_is_no_tap_is_refused() {
        let refused = Tap::open("lo");
        assert!(
            matches!(
                refused,
                Err(TapError::Refused { .. } | TapError::NoRights { .. } | TapError::Driver(_))
            ),
            "{refused:?}"
        );
    }
}
