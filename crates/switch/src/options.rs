//! What a switch and its ports are told.

use std::sync::Arc;
use std::time::Duration;

use crate::port::PortId;
use crate::{Clock, Limit, MonotonicClock, SpoofFilter, Vlans};

/// How a switch is to be.
#[derive(Clone, Debug)]
pub struct SwitchOptions {
    /// How many addresses are learned in all. What comes beyond is not learned; nothing is evicted for it.
    pub addresses_max: usize,
    /// How long a learned address is believed after its last frame; in whole seconds, at least 1.
    pub age: Duration,
    /// How often in a second an address may move from port to port; more moves are counted, and not believed.
    pub moves_max: u32,
    /// How many ports there may be; at most 65536.
    pub ports_max: usize,
    /// Whether frames to the link-local groups (01:80:c2:00:00:00 to 0f) are forwarded, as no bridge does.
    pub forward_link_local: bool,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Default for SwitchOptions {
    fn default() -> Self {
        Self {
            addresses_max: 8192,
            age: Duration::from_secs(300),
            moves_max: 5,
            ports_max: 4096,
            forward_link_local: false,
            clock: Arc::new(MonotonicClock::default()),
        }
    }
}

/// How a port is to be. It may be changed while frames pass ([`SwitchPort::set_options`](crate::SwitchPort::set_options)).
#[derive(Clone, Debug, PartialEq)]
pub struct PortOptions {
    /// For people; the switch does not use it.
    pub name: String,
    /// Its part in the VLANs.
    pub vlans: Vlans,
    /// Isolated ports do not reach each other, only others.
    pub isolated: bool,
    /// What it may send, where that is to be checked.
    pub filter: Option<SpoofFilter>,
    /// How much of what it sends may go to many.
    pub limits: Limits,
    /// Whether its frames' source addresses are learned.
    pub learn: bool,
    /// Whether it gets frames to addresses that nobody has.
    pub flood_unknown: bool,
    /// How many addresses are learned behind it.
    pub addresses_max: usize,
    /// Only receives copies of other ports' frames.
    pub mirror: Option<Mirror>,
    /// The largest IP packet it is to carry, for whoever asks its [`NetDevice`](cantle_netport::NetDevice); not enforced.
    pub mtu: Option<u16>,
}

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            vlans: Vlans::default(),
            isolated: false,
            filter: None,
            limits: Limits::default(),
            learn: true,
            flood_unknown: true,
            addresses_max: 1024,
            mirror: None,
            mtu: None,
        }
    }
}

impl PortOptions {
    /// The default, with a name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// How much of what a port sends may go to many ports; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// To everybody.
    pub broadcast: Option<Limit>,
    /// To other groups.
    pub multicast: Option<Limit>,
    /// To one station that nobody knows.
    pub unknown: Option<Limit>,
}

/// Which frames a port receives copies of. Such a port is in no VLAN, and what it sends is dropped.
///
/// A copy of what a guest sends is made from the same pages as the frame itself: a guest that writes there meanwhile
/// may make the two differ beyond their headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// Ports whose frames are copied as they send them, also those that are dropped.
    pub received: Vec<PortId>,
    /// Ports of which each frame is copied that is sent to them, taken or not.
    pub sent: Vec<PortId>,
}
