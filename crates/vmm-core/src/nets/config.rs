//! What a network interface is to be.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use cantle_netback::BackendOptions;
use cantle_netport::NetDevice;
use cantle_switch::PortOptions;

use super::switches::HostSwitch;
use crate::error::SetupError;

/// Interfaces that a guest can have at a time.
pub const MAX_NETS: usize = 128;

/// A network interface.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// What its packets leave by.
    pub link: NetLink,
    /// The guest's hardware address; one in Xen's range, derived from the guest's name and the interface's number, where `None`.
    pub mac: Option<[u8; 6]>,
    /// How it is served: queues, packet size, rates. Where there is no packet size, the link's is taken.
    pub options: BackendOptions,
    /// Addresses that are the guest's, for whoever looks in xenstore. That it uses no others is the link's to see to.
    pub ip: Vec<IpAddr>,
    /// A file in pcap's format for all that goes through the interface; it is made anew.
    pub capture: Option<PathBuf>,
}

impl NetConfig {
    /// The queues that there may be.
    pub const QUEUES: RangeInclusive<u32> = 1..=16;
    /// The packet sizes that there may be: what IPv4 needs at least, and the longest IP packet.
    pub const MTU: RangeInclusive<u16> = 68..=65_535;

    /// An interface with the usual settings.
    #[must_use]
    pub fn new(link: NetLink) -> Self {
        Self {
            link,
            mac: None,
            options: BackendOptions::default(),
            ip: Vec::new(),
            capture: None,
        }
    }

    /// An interface on a tap device, which is made where it does not exist.
    #[must_use]
    pub fn tap(name: &str) -> Self {
        Self::new(NetLink::Tap {
            name: Some(name.to_owned()),
            bridge: None,
        })
    }

    pub(crate) fn check(&self) -> Result<(), SetupError> {
        let BackendOptions {
            queues_max, mtu, ..
        } = self.options;
        let complaint = if !Self::QUEUES.contains(&queues_max) {
            let (least, most) = (Self::QUEUES.start(), Self::QUEUES.end());
            format!("{queues_max} queues: an interface has {least} to {most}")
        } else if let Some(mtu) = mtu.filter(|mtu| !Self::MTU.contains(mtu)) {
            let (least, most) = (Self::MTU.start(), Self::MTU.end());
            format!("an mtu of {mtu}: it is {least} to {most}")
        } else {
            return Ok(());
        };
        Err(SetupError::Net {
            name: self.link.to_string(),
            why: complaint,
        })
    }
}

/// What an interface's packets leave by.
#[derive(Clone)]
#[non_exhaustive]
pub enum NetLink {
    /// A tap device, made where it does not exist. It is up, and in the bridge if there is one.
    Tap {
        /// Its name; one by the guest's name and the interface's number where `None`.
        name: Option<String>,
        /// The bridge that it is to be in.
        bridge: Option<String>,
    },
    /// An interface of the host, whose cable the guest shares (`AF_PACKET`).
    Packet {
        /// Its name.
        interface: String,
    },
    /// User-mode networking: `passt`, started for this interface, and ended with it.
    User {
        /// Options for it, as its manual has them.
        options: Vec<String>,
    },
    /// A Unix socket that speaks frames with their lengths before them, as `passt` and QEMU do.
    Stream {
        /// Its path.
        socket: PathBuf,
    },
    /// A switch of this process.
    Switch {
        /// Which; guests that have the same one share it.
        switch: Arc<HostSwitch>,
        /// How its port is to be. It is called by its guest and the interface's number.
        port: PortOptions,
        /// Whether it may send by its own hardware address alone and, where [`NetConfig::ip`] has any, by its own addresses.
        filter: bool,
    },
    /// Something of the caller's.
    Device {
        /// What it is called, in xenstore and in messages.
        name: String,
        /// How it is opened, each time that a machine is made of the configuration.
        open: OpenDevice,
    },
    /// A cable that ends nowhere.
    Nowhere,
}

/// Opens a device.
pub type OpenDevice = Arc<dyn Fn(&NetIdentity) -> Result<Box<dyn NetDevice>, String> + Send + Sync>;

/// Whose interface it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetIdentity {
    /// The guest's name.
    pub guest: String,
    /// The interface's number.
    pub index: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses, where they are known.
    pub ip: Vec<IpAddr>,
}

impl fmt::Debug for NetLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for NetLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap { name, .. } => {
                write!(f, "tap {}", name.as_deref().unwrap_or("(named by itself)"))
            }
            Self::Packet { interface } => write!(f, "interface {interface}"),
            Self::User { .. } => f.write_str("passt"),
            Self::Stream { socket } => write!(f, "socket {}", socket.display()),
            Self::Switch { switch, .. } => write!(f, "switch {}", switch.name()),
            Self::Device { name, .. } => f.write_str(name),
            Self::Nowhere => f.write_str("nowhere"),
        }
    }
}
