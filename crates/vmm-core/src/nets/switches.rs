//! Switches that guests of this process share.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cantle_netport::NetDevice;
use cantle_switch::{
    Counters, DropReason, IpPrefix, Limit, Limits, MacAddr, Mirror, PortOptions, SpoofFilter,
    Switch, SwitchOptions, SwitchPort,
};

use super::config::NetIdentity;
use super::open;
use crate::devices::{chain, named};

/// How a switch is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    /// For people, and for configurations that mean the same one.
    pub name: String,
    /// How long a learned address is believed after its last frame.
    pub age: Duration,
    /// Broadcasts a second that each port may send, and so many at once; any number where `None`.
    pub broadcast_limit: Option<NonZeroU32>,
    /// Ports that get copies of all that others send, by their names: `GUEST.N` for a guest's Nth interface.
    pub mirrors: Vec<String>,
    /// Where it leads to.
    pub uplinks: Vec<Uplink>,
}

impl SwitchConfig {
    /// One with the usual settings, that leads nowhere.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            age: SwitchOptions::default().age,
            broadcast_limit: None,
            mirrors: Vec::new(),
            uplinks: Vec::new(),
        }
    }
}

/// Where a switch leads to beside its guests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Uplink {
    /// A tap device, made where it does not exist.
    Tap(String),
    /// An interface of the host (`AF_PACKET`).
    Packet(String),
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(name) => write!(f, "tap {name}"),
            Self::Packet(name) => write!(f, "interface {name}"),
        }
    }
}

/// A switch cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("switch {switch}: {why}")]
pub struct SwitchSetupError {
    /// Its name.
    pub switch: String,
    /// Why not.
    pub why: String,
}

/// An uplink, and what it leads to, which stays open for as long.
type Led = (cantle_switch::Uplink, Box<dyn NetDevice>);

/// A switch of this process. Guests that are given the same one reach each other by it.
pub struct HostSwitch {
    config: SwitchConfig,
    switch: Arc<Switch>,
    uplinks: Vec<Led>,
    /// Held while ports come, so that mirrors miss none.
    coming: Mutex<()>,
}

impl fmt::Debug for HostSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostSwitch")
            .field("name", &self.config.name)
            .finish_non_exhaustive()
    }
}

impl HostSwitch {
    /// Makes a switch, and opens what it leads to.
    ///
    /// # Errors
    ///
    /// [`SwitchSetupError`]: an uplink cannot be had.
    pub fn new(config: SwitchConfig) -> Result<Arc<Self>, SwitchSetupError> {
        let switch = Switch::new(SwitchOptions {
            age: config.age,
            ..SwitchOptions::default()
        });
        let mut made = Self {
            config,
            switch,
            uplinks: Vec::new(),
            coming: Mutex::new(()),
        };
        for uplink in made.config.uplinks.clone() {
            let port = made.open_uplink(&uplink).map_err(|why| SwitchSetupError {
                switch: made.config.name.clone(),
                why: format!("{uplink}: {why}"),
            })?;
            made.uplinks.push(port);
        }
        Ok(Arc::new(made))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The switch itself, for who looks at its ports and addresses.
    #[must_use]
    pub fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }

    /// How it was asked for.
    #[must_use]
    pub fn config(&self) -> &SwitchConfig {
        &self.config
    }

    /// What its uplinks have counted, by their names.
    #[must_use]
    pub fn uplink_counters(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let ports = self.config.uplinks.iter().zip(&self.uplinks);
        ports
            .map(|(to, (uplink, _))| (to.to_string(), counters(&uplink.port().counters())))
            .collect()
    }

    fn open_uplink(&self, uplink: &Uplink) -> Result<Led, String> {
        let device = open::host(uplink)?;
        let options = self.options(PortOptions::named(uplink.to_string()));
        let far = device.open_queue().map_err(|error| chain(&error))?;
        let port = self.switch.add_uplink(far, options);
        Ok((port.map_err(|error| chain(&error))?, device))
    }

    /// A port for a guest's interface.
    pub(super) fn add_port(
        &self,
        options: &PortOptions,
        filter: bool,
        whose: &NetIdentity,
    ) -> Result<SwitchPort, String> {
        let mut options = options.clone();
        options.name = format!("{}.{}", whose.guest, whose.index);
        if filter {
            options.filter = Some(spoof_filter(whose));
        }
        self.add(options)
    }

    fn add(&self, options: PortOptions) -> Result<SwitchPort, String> {
        let _coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        let options = self.options(options);
        let port = self.switch.add_port(options).map_err(|e| chain(&e))?;
        self.set_mirrors().map_err(|e| chain(&e))?;
        Ok(port)
    }

    /// With what the switch says of its ports.
    fn options(&self, mut options: PortOptions) -> PortOptions {
        if self.config.mirrors.contains(&options.name) {
            options.mirror = Some(Mirror::default());
        }
        if let Some(rate) = self.config.broadcast_limit.map(NonZeroU32::get) {
            let limit = Limit {
                per_second: rate,
                burst: rate,
            };
            options.limits = Limits {
                broadcast: Some(limit),
                ..options.limits
            };
        }
        options
    }

    /// Each mirror gets what all others send, which is each frame once.
    fn set_mirrors(&self) -> Result<(), cantle_switch::SwitchError> {
        let (mirrors, others): (Vec<_>, Vec<_>) = self
            .switch
            .ports()
            .into_iter()
            .partition(|port| port.options.mirror.is_some());
        for mirror in mirrors {
            let options = PortOptions {
                mirror: Some(Mirror {
                    received: others.iter().map(|port| port.id).collect(),
                    sent: Vec::new(),
                }),
                ..PortOptions::clone(&mirror.options)
            };
            match self.switch.set_options(mirror.id, options) {
                // It went meanwhile.
                Err(cantle_switch::SwitchError::NoPort { .. }) => {}
                done => done?,
            }
        }
        Ok(())
    }
}

/// Only the interface's own hardware address; and only its own addresses, where there are any.
fn spoof_filter(whose: &NetIdentity) -> SpoofFilter {
    let addresses = || whose.ip.iter().map(|ip| IpPrefix::from(*ip)).collect();
    SpoofFilter {
        macs: Some(vec![MacAddr(whose.mac)]),
        addresses: (!whose.ip.is_empty()).then(addresses),
    }
}

/// A port's counters by their names. `rx` is what the switch had from it.
pub(super) fn counters(counters: &Counters) -> BTreeMap<String, u64> {
    let mut all = named(&[
        ("port_rx_packets", counters.rx_packets),
        ("port_rx_bytes", counters.rx_bytes),
        ("port_tx_packets", counters.tx_packets),
        ("port_tx_bytes", counters.tx_bytes),
        ("port_moves", counters.moves),
        ("port_flaps", counters.flaps),
        ("port_unlearned", counters.unlearned),
        ("port_errors", counters.errors),
    ]);
    for reason in DropReason::ALL {
        let dropped = counters.dropped(*reason);
        if dropped != 0 {
            let reason = reason
                .to_string()
                .replace([' ', '-'], "_")
                .replace('\'', "");
            all.insert(format!("port_dropped_{reason}"), dropped);
        }
    }
    all
}
