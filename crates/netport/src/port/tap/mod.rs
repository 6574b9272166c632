//! A Linux tap device, with the virtio header that carries offloads.

mod device;
mod queue;
mod ring;
mod tun;

use std::io;

pub use device::TapDevice;
pub use queue::Tap;

/// Why a tap could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The tun driver's own file cannot be opened.
    #[error("cannot open {} (is the `tun` module there?)", tun::TUN)]
    Driver(#[source] io::Error),
    /// No interface of that name.
    #[error(
        "there is no interface {name} (make it with: ip tuntap add dev {name} mode tap multi_queue vnet_hdr user $USER)"
    )]
    NoDevice {
        /// The name asked for.
        name: String,
    },
    /// It cannot be an interface's name.
    #[error("{name:?} is not an interface name: 1 to 15 bytes, no slash, space or NUL")]
    BadName {
        /// The name asked for.
        name: String,
    },
    /// This user may not use it.
    #[error(
        "no right to use the tap {name}: it must belong to this user or group (ip tuntap add dev {name} mode tap multi_queue vnet_hdr user $USER), or the process have CAP_NET_ADMIN"
    )]
    NoRights {
        /// The name asked for.
        name: String,
    },
    /// Another program has it open.
    #[error("the tap {name} is in use by another program")]
    Busy {
        /// The name asked for.
        name: String,
    },
    /// It has no more queues.
    #[error(
        "the tap {name} has no queue left of its {queues} (several take: ip tuntap add dev {name} mode tap multi_queue vnet_hdr user $USER)"
    )]
    NoMoreQueues {
        /// The name asked for.
        name: String,
        /// How many it has.
        queues: u32,
    },
    /// The kernel refuses a setting; for `TUNSETIFF` the interface is no tap.
    #[error("the interface {name} refuses {setting}")]
    Refused {
        /// The name asked for.
        name: String,
        /// Which setting, as the kernel calls it.
        setting: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;
