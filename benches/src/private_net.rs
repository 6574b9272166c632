//! A network namespace of one's own, taps in it, and what feeds them.

// UNSAFETY: namespaces, interfaces and packet sockets are changed by C functions only.
#![expect(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{AddressFamily, SocketType, socket};

/// Bytes of the virtio header before a tap's frames.
pub(crate) const HEADER: usize = 12;
/// Of it, what a packet socket wants.
const PACKET_HEADER: usize = 10;
/// Frames that a tap keeps for its reader: the bench puts that many in before they are read.
const QUEUE_LEN: libc::c_int = 16384;
/// Bytes of an int.
const INT_LEN: libc::socklen_t = 4;

/// Moves the calling thread, and those that it starts from now on, to a network namespace without any interface but its own.
pub(crate) fn enter() -> Result<()> {
    // SAFETY: takes a flag; what it changes are the calling thread's interfaces.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("needs root, for a network namespace");
    }
    // No frames but ours: the kernel would look for routers. Where there is no IPv6, there is nothing to turn off.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    Ok(())
}

/// Takes an interface of this thread's namespace up, with a queue that holds what is put into it at once.
pub(crate) fn set_up(name: &str) -> Result<()> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut longer = request(name);
    longer.ifr_ifru.ifru_metric = QUEUE_LEN;
    ioctl(&any, libc::SIOCSIFTXQLEN, &mut longer)
        .with_context(|| format!("cannot make the queue of {name} longer"))?;
    let mut up = request(name);
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    up.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
    ioctl(&any, libc::SIOCSIFFLAGS, &mut up).with_context(|| format!("cannot take {name} up"))
}

/// A queue of a tap with the virtio header, to be written to and read without anything in between.
#[derive(Debug)]
pub(crate) struct BareTap(File);

impl BareTap {
    /// Makes a tap of so many queues, which gives and takes packets unsegmented and with blank checksums; it goes when all of them are
    /// dropped.
    pub(crate) fn create(name: &str, queues: usize) -> Result<Vec<Self>> {
        let taps: Vec<_> = (0..queues)
            .map(|_| Self::queue(name, queues > 1))
            .collect::<Result<_>>()?;
        set_up(name)?;
        Ok(taps)
    }

    fn queue(name: &str, several: bool) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .context("no /dev/net/tun")?;
        let mut request = request(name);
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if several {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
        ioctl(&file, libc::TUNSETIFF, &mut request).context("cannot make a tap")?;
        let mut size = libc::c_int::try_from(HEADER)?;
        ioctl(&file, libc::TUNSETVNETHDRSZ, &mut size).context("no virtio header")?;
        let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        // SAFETY: TUNSETOFFLOAD takes a number.
        let result =
            unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, u64::from(offloads)) };
        ensure!(result == 0, "no offloads: {}", io::Error::last_os_error());
        Ok(Self(file))
    }

    /// Makes a tap for another program: it stays when nobody has it open, for as long as the namespace is there.
    pub(crate) fn leave(name: &str) -> Result<()> {
        let tap = Self::queue(name, false)?;
        // SAFETY: TUNSETPERSIST takes a number.
        let result = unsafe { libc::ioctl(tap.0.as_raw_fd(), libc::TUNSETPERSIST, 1_u64) };
        ensure!(
            result == 0,
            "no lasting tap: {}",
            io::Error::last_os_error()
        );
        set_up(name)
    }

    /// Writes a frame behind its virtio header.
    pub(crate) fn write(&self, header: &[u8; HEADER], frame: &[u8]) -> Result<()> {
        let parts = [IoSlice::new(header), IoSlice::new(frame)];
        let written = (&self.0).write_vectored(&parts)?;
        ensure!(written == HEADER + frame.len(), "a frame is cut");
        Ok(())
    }

    /// Reads a frame, its virtio header apart; returns its length, and none where no frame waits.
    pub(crate) fn read(&self, into: &mut [u8]) -> Result<Option<usize>> {
        let mut header = [0; HEADER];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(into)];
        match (&self.0).read_vectored(&mut parts) {
            Ok(read) => Ok(Some(read.saturating_sub(HEADER))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("a tap cannot be read"),
        }
    }
}

/// Puts frames into an interface from the kernel's side, as a bridge would: at once, without a queueing discipline in between.
#[derive(Debug)]
pub(crate) struct Feeder(OwnedFd);

impl Feeder {
    /// One for an interface of this thread's namespace, which is up.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let mut index = request(name);
        ioctl(&any, libc::SIOCGIFINDEX, &mut index).with_context(|| format!("no {name}"))?;
        // No protocol: it receives nothing.
        let socket = socket(AddressFamily::PACKET, SocketType::RAW, None)?;
        for (option, what) in [
            (libc::PACKET_VNET_HDR, "virtio headers"),
            (
                libc::PACKET_QDISC_BYPASS,
                "a way past the queueing discipline",
            ),
        ] {
            set_option(&socket, option).with_context(|| format!("no {what} on a packet socket"))?;
        }
        // SAFETY: SIOCGIFINDEX has written this field, and any bytes are a number.
        let index = unsafe { index.ifr_ifru.ifru_ifindex };
        bind(&socket, index)?;
        Ok(Self(socket))
    }

    /// Puts `count` frames in, taking turns among `frames`.
    pub(crate) fn feed(
        &self,
        header: &[u8; HEADER],
        frames: &[Vec<u8>],
        count: usize,
    ) -> Result<()> {
        for frame in frames.iter().cycle().take(count) {
            let parts = [IoSlice::new(&header[..PACKET_HEADER]), IoSlice::new(frame)];
            let sent = rustix::io::writev(&self.0, &parts).context("a tap takes no more")?;
            ensure!(sent == PACKET_HEADER + frame.len(), "a frame is cut");
        }
        Ok(())
    }
}

fn set_option(socket: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the options used here are ints, and the length is that of one.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const one).cast(),
            INT_LEN,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Binds a packet socket to an interface.
fn bind(socket: &OwnedFd, index: libc::c_int) -> Result<()> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET)?;
    address.sll_ifindex = index;
    // SAFETY: the address is one of a packet socket, and the length is its.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?,
        )
    };
    if result < 0 {
        bail!(
            "cannot bind to an interface: {}",
            io::Error::last_os_error()
        );
    }
    Ok(())
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
    // SAFETY: each request used here reads, or writes, what `value` is: an `ifreq` or an int.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, std::ptr::from_mut(value)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
