//! A guest's event channels as plain data, for saving and moving a domain.

use cantle_abi::event_channel::EVTCHN_FIFO_MAX_QUEUES;
use cantle_abi::{DomId, Port, VcpuId};

use crate::{Abi, PortState};

/// All of a guest's channels, between two moments of its life ([`GuestDomain::snapshot`](crate::GuestDomain::snapshot)).
///
/// Pending and mask bits, event words and control blocks are in guest memory and not here; where the guest placed its `vcpu_info`,
/// control blocks and event array pages the VMM knows. Nothing in here is trusted when it comes back
/// ([`GuestDomain::restore`](crate::GuestDomain::restore)): whatever it says, it can do no more than the guest itself could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The interface in use.
    pub abi: Abi,
    /// Port numbers that the guest may use.
    pub max_ports: u32,
    /// The ports that are open, from the lowest.
    pub ports: Vec<SavedPort>,
    /// Ports that are closed and still on one of the guest's queues, so that their numbers are not used yet.
    pub resting: Vec<Port>,
    /// FIFO: the last port on each of each vCPU's queues, 0 for none. A vCPU that is missing has none.
    pub tails: Vec<[u32; EVTCHN_FIFO_MAX_QUEUES]>,
}

/// One open port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedPort {
    /// Its number.
    pub port: Port,
    /// What it is bound to. [`PortState::Closed`] is refused.
    pub state: PortState,
    /// Where it is delivered.
    pub queue: SavedQueue,
    /// FIFO: the queue that it was last put on.
    pub last: SavedQueue,
    /// FIFO: an event waits for the port's event word.
    pub waiting: bool,
    /// The host made the port for the guest.
    pub given: bool,
}

/// A vCPU's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedQueue {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// The priority, 0 to 15.
    pub priority: u32,
}

/// Why channels were not restored. Nothing has been changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The domain is no guest that has just been added: it has ports, uses FIFO, or has ended.
    #[error("the domain has channels already, or has ended")]
    NotNew,
    /// A limit that no domain can have.
    #[error("a domain cannot have {0} ports")]
    BadLimit(u32),
    /// A number that is no port of the interface in use, or stands there twice.
    #[error("port {0} cannot be, or is there twice")]
    BadPort(Port),
    /// The port is bound to what cannot be: closed, no such interrupt, one that is bound already or to another vCPU.
    #[error("port {0} is bound to what cannot be")]
    BadBinding(Port),
    /// The port is on a vCPU or of a priority that there is not.
    #[error("port {0} is delivered where there is nothing")]
    BadQueue(Port),
    /// More vCPUs have queues than the domain has, or a queue ends with what is no port.
    #[error("the queues cannot be")]
    BadTails,
    /// The port's other end was in a domain that is not there.
    #[error("port {0} waits for domain {1}, which is not there")]
    NoDomain(Port, DomId),
}
