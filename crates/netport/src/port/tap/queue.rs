//! One queue of a tap.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::TapError;
use super::device::Lease;
use super::ring::WriteRing;
use super::tun::{self, Kind};
use crate::port::interface::{Interface, InterfaceError, is_name};
use crate::port::vectored::{Read, Vectored};
use crate::port::{Frame, NetPort, Received};
use crate::vnet::{self, VNET_HDR_LEN};
use crate::{Offloads, PartMut};

/// From so many frames on, one call that writes them all costs less than one for each.
const RING_FROM: usize = 4;

/// One queue of a tap device. By itself, it is opened by the tap's name; a [`TapDevice`](super::TapDevice) opens as many as are wanted.
///
/// Offloads and the link light are the whole device's: what is last said on any queue counts for all.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    vectored: Vectored,
    /// Where the kernel has io_uring for us.
    ring: Option<WriteRing>,
    /// Says that a device's queue is used.
    _lease: Option<Lease>,
}

impl Tap {
    /// Attaches to an existing tap of this process's network namespace. Works without privileges where the tap belongs to the user.
    ///
    /// # Errors
    ///
    /// [`TapError`], each a line that tells the user what to do.
    pub fn open(name: &str) -> Result<Self, TapError> {
        existing(name)?;
        Self::attach(name)
    }

    /// Makes a tap that goes away when it is closed, or attaches to an existing one. Making one takes CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn create(name: &str) -> Result<Self, TapError> {
        checked(name)?;
        Self::attach(name)
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn attach(name: &str) -> Result<Self, TapError> {
        let (file, _) = tun::attach_any(name, Kind::Single)?;
        start(name, &file)?;
        Ok(Self::of(file, name, None))
    }

    /// Writes each frame by a system call of its own, for a process that may not use io_uring.
    #[must_use]
    pub fn without_ring(mut self) -> Self {
        self.ring = None;
        self
    }

    #[cfg(test)]
    pub(super) fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    pub(super) fn of(file: File, name: &str, lease: Option<Lease>) -> Self {
        let ring = WriteRing::new(file.as_fd()).inspect_err(|error| {
            tracing::debug!(name, %error, "no io_uring for this tap: frames are written one by one");
        });
        Self {
            ring: ring.ok(),
            file,
            name: name.to_owned(),
            vectored: Vectored::default(),
            _lease: lease,
        }
    }
}

/// A port starts with no offloads.
pub(super) fn start(name: &str, file: &File) -> Result<(), TapError> {
    tun::set_offloads(file, Offloads::NONE).map_err(|source| TapError::Refused {
        name: name.to_owned(),
        setting: "TUNSETOFFLOAD",
        source,
    })
}

pub(super) fn checked(name: &str) -> Result<(), TapError> {
    if !is_name(name) {
        return Err(TapError::BadName {
            name: name.to_owned(),
        });
    }
    Ok(())
}

pub(super) fn existing(name: &str) -> Result<Interface, TapError> {
    checked(name)?;
    Interface::find(name).map_err(|error| match error {
        InterfaceError::Refused {
            name,
            setting,
            source,
        } => TapError::Refused {
            name,
            setting,
            source,
        },
        _ => TapError::NoDevice {
            name: name.to_owned(),
        },
    })
}

impl NetPort for Tap {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        if batch.len() >= RING_FROM
            && let Some(ring) = &mut self.ring
        {
            ring.write(self.file.as_fd(), batch);
            return;
        }
        for frame in batch {
            let header = vnet::emit(&frame.offload);
            // What the kernel refuses is lost.
            let written = self.vectored.write(self.file.as_fd(), &header, frame.parts);
            frame.taken = written.is_ok();
        }
    }

    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        let mut header = [0; VNET_HDR_LEN];
        let read = self.vectored.read(self.file.as_fd(), &mut header, into)?;
        let Read::Bytes(len) = read else {
            return Ok(match read {
                Read::Nothing => Received::Nothing,
                _ => Received::Lost,
            });
        };
        let offload = vnet::parse(&header);
        Ok(match (len.checked_sub(VNET_HDR_LEN), offload) {
            (Some(len), Some(offload)) => Received::Frame { len, offload },
            _ => Received::Lost,
        })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        tun::set_offloads(&self.file, offloads)
    }

    fn set_link(&mut self, up: bool) {
        tun::set_carrier(&self.file, up);
    }
}
