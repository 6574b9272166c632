//! Event channels on a real Xen host, by way of its kernel: `/dev/xen/evtchn` (Linux's `include/uapi/xen/evtchn.h`).

// UNSAFETY: ioctls.
#![expect(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cantle_abi::{DomId, Port};

use crate::{Channel, EventChannels, EvtchnError};

/// Where the device is.
pub const DEVICE: &str = "/dev/xen/evtchn";

/// `struct ioctl_evtchn_bind_interdomain`.
#[repr(C)]
struct BindInterdomain {
    remote_domain: u32,
    remote_port: u32,
}

/// `struct ioctl_evtchn_bind_unbound_port`.
#[repr(C)]
struct BindUnboundPort {
    remote_domain: u32,
}

/// `struct ioctl_evtchn_notify`.
#[repr(C)]
struct Notify {
    port: u32,
}

/// `_IOC(_IOC_NONE, 'E', nr, size)`.
const fn request(nr: u64, size: usize) -> u64 {
    (size as u64) << 16 | (b'E' as u64) << 8 | nr
}

const BIND_INTERDOMAIN: u64 = request(1, size_of::<BindInterdomain>());
const BIND_UNBOUND_PORT: u64 = request(2, size_of::<BindUnboundPort>());
const NOTIFY: u64 = request(4, size_of::<Notify>());

const _: () = assert!(BIND_INTERDOMAIN == 0x0008_4501 && NOTIFY == 0x0004_4504);

/// The [`EventChannels`] of a program in a domain of a real Xen host, by its kernel's device.
///
/// Each channel opens the device anew, so that its descriptor is readable for its own signals alone. What the kernel says is its
/// caller's to trust.
#[derive(Clone, Debug)]
pub struct EvtchnDevice {
    path: PathBuf,
}

impl EvtchnDevice {
    /// Looks whether the device can be opened.
    ///
    /// # Errors
    ///
    /// Those of opening a file: not found where this is no Xen host.
    pub fn open() -> io::Result<Self> {
        Self::open_at(Path::new(DEVICE))
    }

    /// As [`open`](Self::open), where the device has another name.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_at(path: &Path) -> io::Result<Self> {
        file(path)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    fn channel<T>(
        &self,
        remote: DomId,
        remote_port: Port,
        number: u64,
        mut argument: T,
    ) -> Result<Box<dyn Channel>, EvtchnError> {
        let refused = |error| refusal(&error, remote, remote_port);
        let device = file(&self.path).map_err(refused)?;
        let port = ioctl(&device, number, &mut argument).map_err(refused)?;
        Ok(Box::new(DeviceChannel {
            device,
            port: Port(port),
        }))
    }
}

impl EventChannels for EvtchnDevice {
    fn bind_interdomain(
        &self,
        remote: DomId,
        remote_port: Port,
    ) -> Result<Box<dyn Channel>, EvtchnError> {
        let argument = BindInterdomain {
            remote_domain: remote.0.into(),
            remote_port: remote_port.0,
        };
        self.channel(remote, remote_port, BIND_INTERDOMAIN, argument)
    }

    fn alloc_unbound(&self, remote: DomId) -> Result<Box<dyn Channel>, EvtchnError> {
        let argument = BindUnboundPort {
            remote_domain: remote.0.into(),
        };
        self.channel(remote, Port(0), BIND_UNBOUND_PORT, argument)
    }
}

/// A port, and the device that was opened for it. Closing that unbinds it.
struct DeviceChannel {
    device: File,
    port: Port,
}

impl Channel for DeviceChannel {
    fn port(&self) -> Port {
        self.port
    }

    fn notify(&self) -> Result<(), EvtchnError> {
        let mut argument = Notify { port: self.port.0 };
        ioctl(&self.device, NOTIFY, &mut argument)
            .map(drop)
            .map_err(|error| refusal(&error, DomId::SELF, self.port))
    }

    fn eventfd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn take(&self) -> bool {
        let mut port = [0; 4];
        // The kernel masks a port when it hands it out; writing it back unmasks it, before the caller looks for work.
        let taken = (&self.device).read(&mut port).is_ok_and(|read| read == 4);
        taken && (&self.device).write_all(&port).is_ok()
    }
}

fn file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Makes a call of the device; its answer is a port or 0.
fn ioctl<T>(device: &File, number: u64, argument: &mut T) -> io::Result<u32> {
    // SAFETY: the descriptor is open, and each of the numbers above goes with a structure of the type that is passed, which
    // the kernel only reads.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), number, std::ptr::from_mut(argument)) };
    u32::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// What a refusal of the kernel's means.
fn refusal(error: &io::Error, remote: DomId, port: Port) -> EvtchnError {
    match error.raw_os_error() {
        Some(libc::ESRCH) => EvtchnError::NoDomain(remote),
        Some(libc::EPERM | libc::EACCES) => EvtchnError::Denied(remote),
        Some(libc::EINVAL) => EvtchnError::BadPort(port),
        Some(libc::ENOSPC) => EvtchnError::NoFreePort,
        other => EvtchnError::Eventfd(other.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_told() {
        let error = |errno| refusal(&io::Error::from_raw_os_error(errno), DomId(3), Port(7));
        assert_eq!(error(libc::ESRCH), EvtchnError::NoDomain(DomId(3)));
        assert_eq!(error(libc::EINVAL), EvtchnError::BadPort(Port(7)));
        assert_eq!(error(libc::ENXIO), EvtchnError::Eventfd(libc::ENXIO));
        let none = EvtchnDevice::open_at(Path::new("/dev/null/none"));
        assert!(none.is_err());
        // A file that is no such device refuses each call.
        let null = EvtchnDevice::open_at(Path::new("/dev/null")).expect("it is there");
        let refused = null.bind_interdomain(DomId(1), Port(1)).err();
        assert_eq!(refused, Some(EvtchnError::Eventfd(libc::ENOTTY)));
    }

    /// A channel to ourselves, where there is a Xen to make it.
    #[test]
    fn xen_loopback() {
        let Ok(device) = EvtchnDevice::open() else {
            eprintln!("skipped: no {DEVICE} here");
            return;
        };
        let near = device.alloc_unbound(DomId::SELF).expect("a port is free");
        let far = device
            .bind_interdomain(DomId::SELF, near.port())
            .expect("it is unbound");
        near.take();
        far.take();
        near.notify().expect("it is connected");
        let begin = std::time::Instant::now();
        while !far.take() {
            assert!(begin.elapsed().as_secs() < 10, "the signal is lost");
        }
    }
}
