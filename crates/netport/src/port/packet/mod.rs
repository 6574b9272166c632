//! Packet sockets (`packet(7)`): the frames of an interface that the host has.

mod port;
mod socket;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

pub use port::PacketPort;
use socket::Socket;

use super::interface::{Interface, InterfaceError};
use super::{NetDevice, NetPort};

/// The kernel's limit for the sockets of a fanout group was 256 until 5.12.
const QUEUES_MAX: u32 = 256;

/// Why an interface's frames cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// There is no such interface, or it says nothing of itself.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// This process may not.
    #[error(
        "no right to packet sockets on {name}: they take CAP_NET_RAW (run as root, or: setcap cap_net_raw+ep PROGRAM); a tap needs no rights"
    )]
    NoRights {
        /// The interface.
        name: String,
    },
    /// It has no more queues.
    #[error("the interface {name} is used by {queues} queues already")]
    NoMoreQueues {
        /// The interface.
        name: String,
        /// How many there may be.
        queues: u32,
    },
    /// The kernel refuses a setting.
    #[error("the packet socket on {name} refuses {setting}")]
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

/// An interface that the host has, whose frames the guest gets and which the guest's frames leave by: `--net packet=eth0`. The
/// interface is made promiscuous for as long as a queue is open.
///
/// The guest sees what is on the wire. It and the host itself do not see one another on that interface, as with a macvtap: what either
/// sends goes out, and not up. Give it an interface without addresses of the host's, or use a bridge and a tap.
#[derive(Debug)]
pub struct PacketDevice {
    interface: Interface,
    queues: Arc<Mutex<Queues>>,
}

/// The fanout group, which all queues are in, so that one frame comes to one of them.
#[derive(Debug, Default)]
struct Queues {
    open: u32,
    group: Option<u16>,
}

/// Says that a queue is in use, until it is dropped.
#[derive(Debug)]
struct Lease {
    queues: Arc<Mutex<Queues>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.open = queues.open.saturating_sub(1);
        if queues.open == 0 {
            // A group goes away with its last socket.
            queues.group = None;
        }
    }
}

impl PacketDevice {
    /// An interface of this process's network namespace. Takes CAP_NET_RAW.
    ///
    /// # Errors
    ///
    /// [`PacketError`], each a line that tells the user what to do.
    pub fn open(name: &str) -> Result<Self, PacketError> {
        let interface = Interface::find(name)?;
        // Whether we may is to be known now.
        Socket::open(&interface)?;
        Ok(Self {
            interface,
            queues: Arc::default(),
        })
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// One more queue, as [`NetDevice::open_queue`] gives it. The kernel keeps both ways of a flow on one queue, by a hash.
    ///
    /// # Errors
    ///
    /// [`PacketError`]: there are too many, or the interface is gone.
    pub fn queue(&self) -> Result<PacketPort, PacketError> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.open >= QUEUES_MAX {
            return Err(PacketError::NoMoreQueues {
                name: self.interface.name().to_owned(),
                queues: QUEUES_MAX,
            });
        }
        let socket = Socket::open(&self.interface)?;
        socket.bind(&self.interface)?;
        queues.group = Some(socket.join(&self.interface, queues.group)?);
        // What came before it was in the group came to all.
        socket.drain();
        queues.open += 1;
        let lease = Lease {
            queues: self.queues.clone(),
        };
        Ok(PacketPort::new(socket, lease))
    }
}

impl NetDevice for PacketDevice {
    fn queues_max(&self) -> u32 {
        QUEUES_MAX
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

#[cfg(test)]
mod tests;
