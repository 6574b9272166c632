//! The tun driver's calls (`linux/if_tun.h`).

// UNSAFETY: they exist only as C functions.
#![expect(unsafe_code)]

use std::ffi::{c_int, c_uint, c_ulong};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use super::TapError;
use crate::Offloads;
use crate::port::interface;
use crate::vnet::VNET_HDR_LEN;

/// The driver's file.
pub(super) const TUN: &str = "/dev/net/tun";

/// Whether a tap has one queue or several; a tap is made as one or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Multi,
}

impl Kind {
    /// The other one.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Single => Self::Multi,
            Self::Multi => Self::Single,
        }
    }
}

/// A queue of the tap of that name, of that kind or else the other; with it, which it was. A tap is made where there is none.
pub(super) fn attach_any(name: &str, first: Kind) -> Result<(File, Kind), TapError> {
    match attach(name, first) {
        // What the driver says where the kinds differ, and where the interface is none of its own.
        Err(TapError::Refused {
            setting: "TUNSETIFF",
            source,
            ..
        }) if source.raw_os_error() == Some(libc::EINVAL) => {
            let kind = first.other();
            Ok((attach(name, kind)?, kind))
        }
        attached => Ok((attached?, first)),
    }
}

/// A queue of the tap of that name and kind. A tap is made where there is none.
pub(super) fn attach(name: &str, kind: Kind) -> Result<File, TapError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN)
        .map_err(TapError::Driver)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if kind == Kind::Multi {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    set_flags(&file, name, libc::TUNSETIFF, flags).map_err(|source| {
        let name = name.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TapError::NoRights { name },
            Some(libc::EBUSY) => TapError::Busy { name },
            Some(libc::E2BIG) => TapError::NoMoreQueues {
                name,
                queues: QUEUES_MAX,
            },
            _ => TapError::Refused {
                name,
                setting: "TUNSETIFF",
                source,
            },
        }
    })?;
    let size = c_int::try_from(VNET_HDR_LEN).unwrap_or(c_int::MAX);
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
    checked(result).map_err(|source| TapError::Refused {
        name: name.to_owned(),
        setting: "TUNSETVNETHDRSZ",
        source,
    })?;
    Ok(file)
}

/// The driver's limit (`MAX_TAP_QUEUES`).
pub(super) const QUEUES_MAX: u32 = 256;

/// Leaves the device its queue's frames no more: it gets none, and can send none.
pub(super) fn set_aside(file: &File) -> io::Result<()> {
    set_flags(file, "", libc::TUNSETQUEUE, libc::IFF_DETACH_QUEUE)
}

/// What the whole device may leave to its reader.
pub(super) fn set_offloads(file: &File, offloads: Offloads) -> io::Result<()> {
    let mut flags: c_uint = 0;
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
    // SAFETY: TUNSETOFFLOAD takes a number.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(flags)) };
    checked(result)
}

/// The whole device's link light. Kernels before 5.0 do not know it: their taps have none.
pub(super) fn set_carrier(file: &File, up: bool) {
    let up = c_int::from(up);
    // SAFETY: TUNSETCARRIER reads an int.
    let _ = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETCARRIER, &raw const up) };
}

fn set_flags(file: &File, name: &str, number: libc::Ioctl, flags: c_int) -> io::Result<()> {
    let mut request = interface::request(name);
    let [low, high, ..] = flags.to_le_bytes();
    request.ifr_ifru.ifru_flags = libc::c_short::from_le_bytes([low, high]);
    // SAFETY: the numbers used here, TUNSETIFF and TUNSETQUEUE, take a live `ifreq`.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), number, &raw mut request) })
}

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
