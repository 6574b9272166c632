//! A tap as a whole: as many queues as are wanted.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::queue::{checked, existing, start};
use super::tun::{self, Kind, QUEUES_MAX};
use super::{Tap, TapError};
use crate::port::interface::Interface;
use crate::port::{NetDevice, NetPort};

/// As many frames as are thrown away when a queue is taken up again: more than a tap keeps (its `txqueuelen`, 1000).
const STALE_MAX: u32 = 4096;

/// A tap, which stays attached for as long as this lives: no other program gets a single queue meanwhile, and a tap that was made here
/// stays, with its place in a bridge, while a guest is away. The kernel keeps a flow on one queue: the one that its last frame
/// was sent by.
#[derive(Debug)]
pub struct TapDevice {
    interface: Interface,
    kind: Kind,
    /// Of a tap with one queue: it. Of one with several: a queue that is set aside.
    anchor: Arc<File>,
    /// How many queues are in use.
    open: Arc<Mutex<u32>>,
}

/// Says that a queue is in use, until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    open: Arc<Mutex<u32>>,
    anchor: Arc<File>,
    kind: Kind,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = open.saturating_sub(1);
        if *open == 0 && self.kind == Kind::Single {
            // Nobody reads any more, but the tap stays attached. (One that is set aside gets no frames anyway.)
            tun::set_carrier(&self.anchor, false);
        }
    }
}

impl TapDevice {
    /// An existing tap of this process's network namespace. Works without privileges where the tap belongs to the user.
    ///
    /// # Errors
    ///
    /// [`TapError`], each a line that tells the user what to do.
    pub fn open(name: &str) -> Result<Self, TapError> {
        existing(name)?;
        Self::attach(name)
    }

    /// Makes a tap with several queues that goes away when this and all its queues are dropped, or takes an existing one. Making one
    /// takes CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn create(name: &str) -> Result<Self, TapError> {
        checked(name)?;
        Self::attach(name)
    }

    /// The interface, for its MTU, its bridge and to bring it up.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// One more queue, as [`NetDevice::open_queue`] gives it.
    ///
    /// # Errors
    ///
    /// [`TapError::NoMoreQueues`], or the tap is gone.
    pub fn queue(&self) -> Result<Tap, TapError> {
        let name = self.interface.name();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if *open >= self.queues_max() {
            return Err(TapError::NoMoreQueues {
                name: name.to_owned(),
                queues: self.queues_max(),
            });
        }
        let file = match self.kind {
            Kind::Multi => tun::attach(name, Kind::Multi)?,
            Kind::Single => {
                tun::set_carrier(&self.anchor, true);
                let file = self.anchor.try_clone().map_err(TapError::Driver)?;
                for _ in 0..STALE_MAX {
                    // A frame that is cut short is gone as well.
                    if rustix::io::read(&file, &mut [0; 64]).is_err() {
                        break;
                    }
                }
                file
            }
        };
        if *open == 0 {
            start(name, &file)?;
        }
        *open += 1;
        let lease = Lease {
            open: self.open.clone(),
            anchor: self.anchor.clone(),
            kind: self.kind,
        };
        Ok(Tap::of(file, name, Some(lease)))
    }

    fn attach(name: &str) -> Result<Self, TapError> {
        let (anchor, kind) = tun::attach_any(name, Kind::Multi)?;
        let interface = existing(name)?;
        if kind == Kind::Multi {
            tun::set_aside(&anchor).map_err(|source| TapError::Refused {
                name: name.to_owned(),
                setting: "TUNSETQUEUE",
                source,
            })?;
        }
        Ok(Self {
            interface,
            kind,
            anchor: Arc::new(anchor),
            open: Arc::default(),
        })
    }
}

impl NetDevice for TapDevice {
    fn queues_max(&self) -> u32 {
        match self.kind {
            Kind::Single => 1,
            // One is set aside.
            Kind::Multi => QUEUES_MAX - 1,
        }
    }

    fn open_queue(&self) -> io::Result<Box<dyn NetPort>> {
        let queue = self.queue().map_err(io::Error::other)?;
        Ok(Box::new(queue))
    }

    fn mtu(&self) -> Option<u16> {
        let mtu = self.interface.mtu().ok()?;
        Some(u16::try_from(mtu).unwrap_or(u16::MAX))
    }
}
