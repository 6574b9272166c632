//! A network interface of the host, by its name.

// UNSAFETY: the interface ioctls of `netdevice(7)` exist only as C functions.
#![expect(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

// The requests of `linux/sockios.h`: those that libc has are of another type in each C library.
const SIOCBRADDIF: libc::Ioctl = 0x89a2;
const SIOCGIFFLAGS: libc::Ioctl = 0x8913;
const SIOCSIFFLAGS: libc::Ioctl = 0x8914;
const SIOCGIFMTU: libc::Ioctl = 0x8921;
const SIOCSIFMTU: libc::Ioctl = 0x8922;
const SIOCGIFINDEX: libc::Ioctl = 0x8933;

/// Why something could not be done with an interface.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// It cannot be an interface's name.
    #[error("{name:?} is not an interface name: 1 to 15 bytes, no slash, space or NUL")]
    BadName {
        /// The name asked for.
        name: String,
    },
    /// No interface of that name.
    #[error("there is no interface {name} (`ip link` lists them)")]
    NoDevice {
        /// The name asked for.
        name: String,
    },
    /// No bridge of that name.
    #[error("there is no bridge {bridge} (make it with: ip link add {bridge} type bridge)")]
    NoBridge {
        /// The name asked for.
        bridge: String,
    },
    /// The interface is in a bridge, and may not be in a second.
    #[error(
        "the interface {name} is in another bridge (take it out with: ip link set dev {name} nomaster)"
    )]
    InBridge {
        /// The interface.
        name: String,
    },
    /// This process may not do it.
    #[error("this takes CAP_NET_ADMIN (as root: {command})")]
    NoRights {
        /// What does the same.
        command: String,
    },
    /// The kernel refuses a setting.
    #[error("the interface {name} refuses {setting}")]
    Refused {
        /// The interface.
        name: String,
        /// Which setting, as the kernel calls it.
        setting: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// An interface of the network namespace that it was found in.
#[derive(Debug)]
pub struct Interface {
    name: String,
    /// Any socket: what is asked of it is answered for its namespace.
    control: OwnedFd,
}

impl Interface {
    /// An interface that exists.
    ///
    /// # Errors
    ///
    /// [`InterfaceError`]: there is none of that name, or it is none.
    pub fn find(name: &str) -> Result<Self, InterfaceError> {
        if !is_name(name) {
            return Err(InterfaceError::BadName {
                name: name.to_owned(),
            });
        }
        let control = socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        );
        let name = name.to_owned();
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                return Err(InterfaceError::Refused {
                    name,
                    setting: "a socket to ask by",
                    source: error.into(),
                });
            }
        };
        let interface = Self { name, control };
        interface.index()?;
        Ok(interface)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number (`SIOCGIFINDEX`).
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn index(&self) -> Result<c_int, InterfaceError> {
        let mut request = request(&self.name);
        self.ask("SIOCGIFINDEX", SIOCGIFINDEX, &mut request, "ip link")?;
        // SAFETY: SIOCGIFINDEX filled in this field.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    /// The largest IP packet that it carries, in bytes (`SIOCGIFMTU`).
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn mtu(&self) -> Result<u32, InterfaceError> {
        let mut request = request(&self.name);
        self.ask("SIOCGIFMTU", SIOCGIFMTU, &mut request, "ip link")?;
        // SAFETY: SIOCGIFMTU filled in this field.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    /// Sets it (`SIOCSIFMTU`). Takes CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// [`InterfaceError`]: no right to, or the interface cannot have that one.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), InterfaceError> {
        let mut request = request(&self.name);
        request.ifr_ifru.ifru_mtu = c_int::try_from(mtu).unwrap_or(c_int::MAX);
        let command = format!("ip link set dev {} mtu {mtu}", self.name);
        self.ask("SIOCSIFMTU", SIOCSIFMTU, &mut request, &command)
    }

    /// Brings it up, where it is not (`SIOCSIFFLAGS`, `IFF_UP`). Takes CAP_NET_ADMIN only where it is not.
    ///
    /// # Errors
    ///
    /// [`InterfaceError`]: it is down, and no right to change that.
    pub fn bring_up(&self) -> Result<(), InterfaceError> {
        let mut request = request(&self.name);
        self.ask("SIOCGIFFLAGS", SIOCGIFFLAGS, &mut request, "ip link")?;
        // SAFETY: SIOCGIFFLAGS filled in this field.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let up = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
        if flags & up != 0 {
            return Ok(());
        }
        request.ifr_ifru.ifru_flags = flags | up;
        let command = format!("ip link set dev {} up", self.name);
        self.ask("SIOCSIFFLAGS", SIOCSIFFLAGS, &mut request, &command)
    }

    /// Puts it into a bridge, where it is not in it (`SIOCBRADDIF`; the `bridge=` of a `vif`). Takes CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// [`InterfaceError`]: no such bridge, in another one, or no right to.
    pub fn join_bridge(&self, bridge: &str) -> Result<(), InterfaceError> {
        let no_bridge = || InterfaceError::NoBridge {
            bridge: bridge.to_owned(),
        };
        if !is_name(bridge) {
            return Err(no_bridge());
        }
        let mut request = request(bridge);
        request.ifr_ifru.ifru_ifindex = self.index()?;
        let Err(source) = self.ioctl(SIOCBRADDIF, &mut request) else {
            return Ok(());
        };
        let name = self.name.clone();
        Err(match source.raw_os_error() {
            _ if self.is_in(bridge) => return Ok(()),
            Some(libc::ENODEV | libc::EOPNOTSUPP) => no_bridge(),
            Some(libc::EBUSY) => InterfaceError::InBridge { name },
            Some(libc::EPERM) => InterfaceError::NoRights {
                command: format!("ip link set dev {name} master {bridge}"),
            },
            _ => InterfaceError::Refused {
                name,
                setting: "SIOCBRADDIF",
                source,
            },
        })
    }

    /// Whether it is in that bridge, by what sysfs says, which is of the namespace that it was mounted in.
    fn is_in(&self, bridge: &str) -> bool {
        let master = std::fs::read_link(format!("/sys/class/net/{}/master", self.name));
        master.is_ok_and(|path| path.file_name().is_some_and(|name| name == bridge))
    }

    fn ask(
        &self,
        setting: &'static str,
        number: libc::Ioctl,
        request: &mut libc::ifreq,
        command: &str,
    ) -> Result<(), InterfaceError> {
        self.ioctl(number, request).map_err(|source| {
            let name = self.name.clone();
            match source.raw_os_error() {
                Some(libc::ENODEV) => InterfaceError::NoDevice { name },
                Some(libc::EPERM) => InterfaceError::NoRights {
                    command: command.to_owned(),
                },
                _ => InterfaceError::Refused {
                    name,
                    setting,
                    source,
                },
            }
        })
    }

    fn ioctl(&self, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: all the numbers used here take an `ifreq`, to be read and filled in.
        let result = unsafe {
            libc::ioctl(
                self.control.as_raw_fd(),
                number,
                std::ptr::from_mut(request),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Whether an interface can be called that (`dev_valid_name`'s rules, and no pattern for the kernel to fill in).
pub(super) fn is_name(name: &str) -> bool {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    let odd = |c: char| c == '/' || c == '%' || c == ':' || c == '\0' || c.is_whitespace();
    fits && name != "." && name != ".." && !name.contains(odd)
}

/// An `ifreq` for an interface, all else zero. The name must be one ([`is_name`]); what is too long of it is left out.
pub(super) fn request(name: &str) -> libc::ifreq {
    // SAFETY: the structure is plain numbers and addresses, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = name.bytes().take(libc::IFNAMSIZ - 1);
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}
