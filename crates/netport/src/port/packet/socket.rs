//! A packet socket's calls (`packet(7)`, `linux/if_packet.h`).

// UNSAFETY: they exist only as C functions.
#![expect(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::PacketError;
use crate::port::interface::Interface;

/// The header before a frame: `struct virtio_net_hdr`, which is the first 10 bytes of the one that a tap has.
pub(super) const HEADER_LEN: usize = 10;
/// A VLAN tag, which the kernel takes out of a frame.
pub(super) const TAG_LEN: usize = 4;

const PACKET_FANOUT: c_int = 18;
const PACKET_IGNORE_OUTGOING: c_int = 23;
const FANOUT_HASH: c_int = 0;
const FANOUT_FLAG_UNIQUEID: c_int = 0x2000;
const FANOUT_FLAG_IGNORE_OUTGOING: c_int = 0x4000;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
/// As many bytes of frames as wait for the reader, as far as the process may.
const WAITING_MAX: c_int = 4 << 20;
/// As many frames as are thrown away when a queue is opened.
const STALE_MAX: u32 = 65_536;

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// A frame of that many bytes, the header included, and the VLAN tag that was taken out of it.
    Frame {
        len: usize,
        tag: Option<[u8; TAG_LEN]>,
    },
    /// One that this host sent itself.
    Echo,
    /// More than there was room for, or a signal came between.
    Lost,
    /// Nothing waits.
    Nothing,
}

/// A packet socket, to be bound to an interface.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// Room for the kernel's notes on a frame, where they may lie.
#[repr(C, align(8))]
struct Control([u8; 64]);

impl Socket {
    /// A socket that gets nothing yet, with a virtio header before each frame, and with the VLAN tags beside it.
    pub(super) fn open(interface: &Interface) -> Result<Self, PacketError> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is concerned.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            let source = io::Error::last_os_error();
            let name = interface.name().to_owned();
            return Err(match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => PacketError::NoRights { name },
                _ => PacketError::Refused {
                    name,
                    setting: "AF_PACKET",
                    source,
                },
            });
        }
        // SAFETY: it was just opened, and is nobody else's.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let refused = refuse(interface);
        socket
            .set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)
            .map_err(refused("PACKET_VNET_HDR"))?;
        socket
            .set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1)
            .map_err(refused("PACKET_AUXDATA"))?;
        // Kernels before 4.20 do not know it; a frame says as well which way it goes.
        let _ = socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1);
        let forced = socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &WAITING_MAX);
        if forced.is_err() {
            // As much as the host allows everybody.
            let _ = socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &WAITING_MAX);
        }
        Ok(socket)
    }

    /// Binds it to the interface, and makes that promiscuous for as long as the socket is open.
    pub(super) fn bind(&self, interface: &Interface) -> Result<(), PacketError> {
        let index = interface.index()?;
        // SAFETY: the structure is plain numbers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or_default();
        let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default();
        address.sll_protocol = all.to_be();
        address.sll_ifindex = index;
        let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
        // SAFETY: the address is a live `sockaddr_ll` of that length.
        let result = unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), len) };
        checked(result).map_err(refuse(interface)("bind"))?;
        // SAFETY: as above.
        let mut membership: libc::packet_mreq = unsafe { std::mem::zeroed() };
        membership.mr_ifindex = index;
        membership.mr_type = libc::c_ushort::try_from(libc::PACKET_MR_PROMISC).unwrap_or_default();
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
            .map_err(refuse(interface)("PACKET_MR_PROMISC"))
    }

    /// Joins the group of that number, or makes one. Returns its number.
    pub(super) fn join(
        &self,
        interface: &Interface,
        group: Option<u16>,
    ) -> Result<u16, PacketError> {
        let fanout = |flags: c_int| {
            let kind = FANOUT_HASH | flags | group.map_or(FANOUT_FLAG_UNIQUEID, |_| 0);
            let value = c_int::from(group.unwrap_or(0)) | (kind << 16);
            self.set(libc::SOL_PACKET, PACKET_FANOUT, &value)
        };
        // Kernels before 4.20 again.
        fanout(FANOUT_FLAG_IGNORE_OUTGOING)
            .or_else(|_| fanout(0))
            .map_err(refuse(interface)("PACKET_FANOUT"))?;
        if let Some(group) = group {
            return Ok(group);
        }
        let mut value: c_int = 0;
        let mut len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
        // SAFETY: PACKET_FANOUT is an int, and so long.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_FANOUT,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        checked(result).map_err(refuse(interface)("PACKET_FANOUT"))?;
        let [low, high, ..] = value.to_le_bytes();
        Ok(u16::from_le_bytes([low, high]))
    }

    /// Throws away what waits.
    pub(super) fn drain(&self) {
        for _ in 0..STALE_MAX {
            if rustix::io::read(&self.0, &mut [0; HEADER_LEN]).is_err() {
                break;
            }
        }
    }

    /// Reads a frame with its header.
    pub(super) fn receive(&self, into: &mut [u8]) -> io::Result<Came> {
        // SAFETY: plain numbers and addresses, for which zero is a value; so is the address that the kernel fills in.
        let (mut message, mut from): (libc::msghdr, libc::sockaddr_ll) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut control = Control([0; 64]);
        let mut iov = libc::iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = libc::socklen_t::try_from(size_of_val(&from)).unwrap_or_default();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        // Of another type in each C library.
        message.msg_controllen = 64;
        // SAFETY: all that the message names is alive, and so long.
        let read =
            unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let Ok(len) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Came::Nothing),
                io::ErrorKind::Interrupted => Ok(Came::Lost),
                _ => Err(error),
            };
        };
        if from.sll_pkttype == libc::PACKET_OUTGOING {
            return Ok(Came::Echo);
        }
        if message.msg_flags & libc::MSG_TRUNC != 0 {
            return Ok(Came::Lost);
        }
        let tag = tag(&message);
        Ok(Came::Frame { len, tag })
    }

    fn set<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        let len = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
        let value: *const c_void = std::ptr::from_ref(value).cast();
        // SAFETY: the value is alive, and so long; each option above is given the type that it takes.
        checked(unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, value, len) })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The VLAN tag that the kernel took out of a frame.
fn tag(message: &libc::msghdr) -> Option<[u8; TAG_LEN]> {
    // SAFETY: the kernel has filled in the message's control part and its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: a pointer that CMSG_FIRSTHDR or CMSG_NXTHDR gave is to a whole header in the control part, which is aligned for it.
        let header = unsafe { *next };
        if header.cmsg_level == libc::SOL_PACKET && header.cmsg_type == libc::PACKET_AUXDATA {
            // SAFETY: the kernel's own note of that type is so long; it may lie at any address.
            let notes: libc::tpacket_auxdata =
                unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(next).cast()) };
            if notes.tp_status & TP_STATUS_VLAN_VALID == 0 {
                return None;
            }
            let [t0, t1] = if notes.tp_status & TP_STATUS_VLAN_TPID_VALID != 0 {
                notes.tp_vlan_tpid.to_be_bytes()
            } else {
                [0x81, 0]
            };
            let [v0, v1] = notes.tp_vlan_tci.to_be_bytes();
            return Some([t0, t1, v0, v1]);
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    None
}

fn refuse(interface: &Interface) -> impl Fn(&'static str) -> Box<dyn Fn(io::Error) -> PacketError> {
    let name = interface.name().to_owned();
    move |setting| {
        let name = name.clone();
        Box::new(move |source| PacketError::Refused {
            name: name.clone(),
            setting,
            source,
        })
    }
}

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
