//! The switches of this process, by their names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use cantle_vmm_core::net::{HostSwitch, SwitchConfig};
use cantle_vmm_core::{GuestConfig, NetConfig, NetLink};

use crate::config::Guest;
use crate::config::net::Net;

/// Switches, which are made when they are first named.
pub(crate) struct Switches(Mutex<BTreeMap<String, Arc<HostSwitch>>>);

impl Switches {
    /// Those that the guests' files and the options describe.
    pub(crate) fn new(guests: &[Guest]) -> Result<Self> {
        let mut described = BTreeMap::<&str, &SwitchConfig>::new();
        for config in guests.iter().flat_map(|guest| &guest.switches) {
            match described.insert(&config.name, config) {
                Some(other) if other != config => {
                    bail!("switch {}: described twice, and differently", config.name)
                }
                _ => {}
            }
        }
        let switches = described
            .into_values()
            .map(|config| Ok((config.name.clone(), HostSwitch::new(config.clone())?)))
            .collect::<Result<_>>()?;
        Ok(Self(Mutex::new(switches)))
    }

    /// The guest, with its interfaces at their switches.
    pub(crate) fn resolve(&self, guest: &Guest) -> Result<GuestConfig> {
        let nets = guest.nets.iter().cloned();
        let nets: Result<_, String> = nets.map(|net| self.connect(net)).collect();
        Ok(GuestConfig {
            nets: nets.map_err(anyhow::Error::msg)?,
            ..guest.config.clone()
        })
    }

    /// An interface with its switch.
    pub(crate) fn connect(&self, net: Net) -> Result<NetConfig, String> {
        let mut config = net.config;
        if let Some(at) = net.switch {
            config.link = NetLink::Switch {
                switch: self.get(&at.name)?,
                port: at.port,
                filter: at.filter,
            };
        }
        Ok(config)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Arc<HostSwitch>> + use<> {
        let switches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        switches.values().cloned().collect::<Vec<_>>().into_iter()
    }

    fn get(&self, name: &str) -> Result<Arc<HostSwitch>, String> {
        let mut switches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(switch) = switches.get(name) {
            return Ok(switch.clone());
        }
        let made = HostSwitch::new(SwitchConfig::new(name)).map_err(|error| error.to_string())?;
        switches.insert(name.to_owned(), made.clone());
        Ok(made)
    }
}
