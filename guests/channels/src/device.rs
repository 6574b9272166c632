//! `/dev/xen/evtchn`: Linux's way to event channels for programs.
//!
//! A port that was signalled can be read from the file, as a number of 32 bits; it is masked from then on until it is written back.

// UNSAFETY: the file's ioctls.
#![expect(unsafe_code)]

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::ioctl::{Direction, Ioctl, IoctlOutput, Opcode, ioctl, opcode};

const PATH: &str = "/dev/xen/evtchn";
/// The ioctls' letter.
const GROUP: u8 = b'E';
/// As many ports are read or written at a time: a page of them, as the kernel moves them.
const AT_A_TIME: usize = 1024;

/// The file.
pub(crate) struct Device(File);

/// `struct ioctl_evtchn_bind_interdomain`.
#[repr(C)]
struct BindInterdomain {
    remote_domain: u32,
    remote_port: u32,
}

/// An ioctl with this argument, which the kernel only reads; it returns a number.
struct Call<T> {
    number: u8,
    argument: T,
}

// SAFETY: the opcode names the argument's size, and the argument lives as long as the call.
unsafe impl<T> Ioctl for Call<T> {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        // The header gives the size although nothing is said of a direction.
        opcode::from_components(Direction::None, GROUP, self.number, size_of::<T>())
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.argument).cast()
    }

    unsafe fn output_from_ptr(result: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        u32::try_from(result).map_err(|_| rustix::io::Errno::RANGE)
    }
}

impl Device {
    pub(crate) fn open() -> io::Result<Self> {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nonblocking)
            .open(PATH)?;
        Ok(Self(file))
    }

    fn call<T>(&self, number: u8, argument: T) -> io::Result<u32> {
        // SAFETY: numbers and arguments are those of Linux's `xen/evtchn.h`, by the methods below.
        Ok(unsafe { ioctl(&self.0, Call { number, argument }) }?)
    }

    /// Connects to a domain's port; our own port.
    pub(crate) fn bind_interdomain(&self, domain: u32, port: u32) -> io::Result<u32> {
        let argument = BindInterdomain {
            remote_domain: domain,
            remote_port: port,
        };
        self.call(1, argument)
    }

    /// A new port that a domain may connect to.
    pub(crate) fn bind_unbound_port(&self, domain: u32) -> io::Result<u32> {
        self.call(2, domain)
    }

    /// Signals the other end of a port.
    pub(crate) fn notify(&self, port: u32) -> io::Result<()> {
        self.call(4, port).map(drop)
    }

    /// Ports that were signalled, at most 1024; none where nothing comes for so many milliseconds.
    pub(crate) fn take(&mut self, patience_ms: u32) -> io::Result<Vec<u32>> {
        let mut bytes = [0_u8; AT_A_TIME * 4];
        loop {
            match self.0.read(&mut bytes) {
                Ok(len) => {
                    let words = bytes.get(..len).unwrap_or_default().as_chunks().0;
                    return Ok(words.iter().map(|word| u32::from_ne_bytes(*word)).collect());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
            let patience = Timespec {
                tv_sec: i64::from(patience_ms / 1000),
                tv_nsec: i64::from(patience_ms % 1000) * 1_000_000,
            };
            let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
            if poll(&mut polled, Some(&patience))? == 0 {
                return Ok(Vec::new());
            }
        }
    }

    /// Gives ports back, which may be signalled again from then on.
    pub(crate) fn give_back(&mut self, ports: &[u32]) -> io::Result<()> {
        for ports in ports.chunks(AT_A_TIME) {
            let bytes: Vec<u8> = ports.iter().flat_map(|port| port.to_ne_bytes()).collect();
            self.0.write_all(&bytes)?;
        }
        Ok(())
    }
}
