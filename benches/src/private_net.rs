//! A network namespace of one's own, and taps in it.

// UNSAFETY: namespaces and interfaces are changed by C functions only.
#![expect(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, socket};

/// Moves the calling thread, and those that it starts from now on, to a network namespace without any interface but its own.
pub(crate) fn enter() -> Result<()> {
    // SAFETY: takes a flag; what it changes are the calling thread's interfaces.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("needs root, for a network namespace");
    }
    Ok(())
}

/// Takes an interface of this thread's namespace up.
pub(crate) fn set_up(name: &str) -> Result<()> {
    let mut request = request(name);
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    ioctl(&any, libc::SIOCSIFFLAGS, &mut request).with_context(|| format!("cannot take {name} up"))
}

/// A tap with the virtio header, to be written to without anything in between.
#[derive(Debug)]
pub(crate) struct BareTap(File);

impl BareTap {
    /// Makes a tap; it goes when this is dropped.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context("no /dev/net/tun")?;
        let mut request = request(name);
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
        ioctl(&file, libc::TUNSETIFF, &mut request).context("cannot make a tap")?;
        let mut size: libc::c_int = 12;
        ioctl(&file, libc::TUNSETVNETHDRSZ, &mut size).context("no virtio header")?;
        set_up(name)?;
        Ok(Self(file))
    }

    /// Writes a frame behind its virtio header.
    pub(crate) fn write(&self, header: &[u8; 12], frame: &[u8]) -> Result<()> {
        let parts = [IoSlice::new(header), IoSlice::new(frame)];
        let written = (&self.0).write_vectored(&parts)?;
        ensure!(written == 12 + frame.len(), "a frame is cut");
        Ok(())
    }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: plain numbers and addresses, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let last = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..last].iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}

fn ioctl<T>(fd: &impl AsFd, request: libc::Ioctl, value: &mut T) -> io::Result<()> {
    // SAFETY: each request used here reads what `value` is: an `ifreq` or an int. What TUNSETIFF writes back (the name) fits.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, std::ptr::from_mut(value)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
