//! What an interface is connected to, opened.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cantle_netport::{
    CaptureDevice, CaptureFile, CaptureOptions, InterfaceError, NetDevice, NetPort, NullPort,
    PacketDevice, PasstDevice, PasstOptions, StreamPort, TapDevice,
};
use cantle_switch::SwitchPort;

use super::config::{NetConfig, NetIdentity, NetLink};
use super::switches::{self, Uplink};
use crate::devices::chain;

/// The longest name of a network interface of the host, in bytes.
const INTERFACE_NAME_MAX: usize = 15;

/// An interface's far side.
pub(super) struct Opened {
    device: Arc<dyn NetDevice>,
    name: String,
    port: Option<SwitchPort>,
    capture: Option<CaptureFile>,
}

impl Opened {
    pub(super) fn device(&self) -> Arc<dyn NetDevice> {
        self.device.clone()
    }

    /// What the host calls it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The largest packet that it carries, where it says so.
    pub(super) fn mtu(&self) -> Option<u16> {
        self.device.mtu()
    }

    /// What it counts itself.
    pub(super) fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = match &self.port {
            Some(port) => switches::counters(&port.counters()),
            None => BTreeMap::new(),
        };
        if let Some(capture) = &self.capture {
            counters.insert("capture_lost".to_owned(), capture.lost());
        }
        counters
    }
}

/// Opens what the interface is to be connected to.
pub(super) fn open(config: &NetConfig, whose: &NetIdentity) -> Result<Opened, String> {
    let mut port = None;
    let (name, device): (_, Box<dyn NetDevice>) = match &config.link {
        NetLink::Tap { name, bridge } => {
            let name = name.clone().unwrap_or_else(|| tap_name(whose));
            let tap = open_tap(&name, bridge.as_deref(), config.options.mtu)?;
            (name, Box::new(tap))
        }
        NetLink::Switch {
            switch,
            port: options,
            filter,
        } => {
            let added = switch.add_port(options, *filter, whose)?;
            port = Some(added.clone());
            (switch.name().to_owned(), Box::new(added))
        }
        NetLink::Packet { interface } => (interface.clone(), Box::new(open_packet(interface)?)),
        NetLink::User { options } => {
            let options = passt_options(options, config)?;
            let passt = PasstDevice::new(options).map_err(|e| chain(&e))?;
            ("passt".to_owned(), Box::new(passt))
        }
        NetLink::Stream { socket } => {
            let device = Stream(socket.clone());
            (socket.display().to_string(), Box::new(device))
        }
        NetLink::Device { name, open } => (name.clone(), open(whose)?),
        NetLink::Nowhere => ("nowhere".to_owned(), Box::new(NullPort)),
    };
    let Some(path) = &config.capture else {
        return Ok(Opened {
            device: device.into(),
            name,
            port,
            capture: None,
        });
    };
    let label = format!("{}.{} ({name})", whose.guest, whose.index);
    let file = CaptureFile::create(path, &label, CaptureOptions::default())
        .map_err(|error| format!("{}: {}", path.display(), chain(&error)))?;
    Ok(Opened {
        device: Arc::new(CaptureDevice::new(device, file.clone())),
        name,
        port,
        capture: Some(file),
    })
}

/// Opens what a switch leads to.
pub(super) fn host(uplink: &Uplink) -> Result<Box<dyn NetDevice>, String> {
    match uplink {
        Uplink::Tap(name) => Ok(Box::new(open_tap(name, None, None)?)),
        Uplink::Packet(name) => Ok(Box::new(open_packet(name)?)),
    }
}

fn open_packet(interface: &str) -> Result<PacketDevice, String> {
    PacketDevice::open(interface).map_err(|e| chain(&e))
}

/// `passt` for an interface: its packet size and addresses are told to it, and by it to the guest.
fn passt_options(more: &[String], config: &NetConfig) -> Result<PasstOptions, String> {
    let v6 = config.ip.iter().filter(|ip| ip.is_ipv6()).count();
    if v6 > 1 || config.ip.len() - v6 > 1 {
        return Err("passt gives one IPv4 and one IPv6 address at most".to_owned());
    }
    Ok(PasstOptions {
        addresses: config.ip.clone(),
        mtu: config.options.mtu,
        more: more.iter().map(OsString::from).collect(),
        ..PasstOptions::default()
    })
}

/// A socket of a program that speaks frames. It is connected to anew with each queue, of which there is one.
struct Stream(PathBuf);

impl NetDevice for Stream {
    fn queues_max(&self) -> u32 {
        1
    }

    fn open_queue(&self) -> io::Result<Box<dyn NetPort>> {
        Ok(Box::new(StreamPort::connect(&self.0)?))
    }
}

/// A tap that is up, in the bridge that it is to be in, and takes packets of the size that the guest is told.
fn open_tap(name: &str, bridge: Option<&str>, mtu: Option<u16>) -> Result<TapDevice, String> {
    let tap = TapDevice::create(name).map_err(|e| chain(&e))?;
    let interface = tap.interface();
    let set_up = || {
        if let Some(mtu) = mtu.map(u32::from)
            && interface.mtu()? != mtu
        {
            interface.set_mtu(mtu)?;
        }
        if let Some(bridge) = bridge {
            interface.join_bridge(bridge)?;
        }
        match interface.bring_up() {
            // A user's own tap is its owner's to bring up, also later.
            Err(error @ InterfaceError::NoRights { .. }) if bridge.is_none() => {
                tracing::warn!(tap = name, %error, "a tap is down, and nothing will pass");
                Ok(())
            }
            done => done,
        }
    };
    set_up().map_err(|e: InterfaceError| chain(&e))?;
    Ok(tap)
}

/// A tap's name by its guest: the same as long as the guest's name is, and another for each guest of this process.
fn tap_name(whose: &NetIdentity) -> String {
    let name = format!("{}.{}", whose.guest, whose.index);
    if name.len() <= INTERFACE_NAME_MAX && name.is_ascii() {
        return name;
    }
    let [a, b, c, d, ..] = crate::devices::name_hash(&whose.guest).to_le_bytes();
    format!("vif{a:02x}{b:02x}{c:02x}{d:02x}.{}", whose.index)
}
#[cfg(test)]
mod tests {
    use cantle_netport::test_utils::{in_netns, ip};

    use super::super::{HostSwitch, SwitchConfig};
    use super::*;

    fn told(arguments: &str) -> String {
        let output = std::process::Command::new("ip")
            .args(arguments.split(' '))
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    #[test]
    fn a_tap_is_made_sized_and_put_into_its_bridge() {
        in_netns(|| {
            ip("link add br0 type bridge");
            let whose = NetIdentity {
                guest: "web".to_owned(),
                index: 0,
                mac: [0; 6],
                ip: Vec::new(),
            };
            let link = |bridge: &str| NetLink::Tap {
                name: None,
                bridge: Some(bridge.to_owned()),
            };
            let mut config = NetConfig::new(link("br0"));
            config.options.mtu = Some(1400);
            let opened = open(&config, &whose).unwrap();
            assert_eq!((opened.name(), opened.mtu()), ("web.0", Some(1400)));
            let shown = told("link show dev web.0");
            for word in ["master br0", "mtu 1400", "UP"] {
                assert!(shown.contains(word), "{word}: {shown}");
            }
            drop(opened);
            assert_eq!(told("link show dev web.0"), "", "it goes with the guest");
            config.link = link("br1");
            let why = open(&config, &whose).err().unwrap();
            assert!(why.contains("br1"), "{why}");
        });
    }

    #[test]
    fn what_leads_out_of_a_switch_is_one_of_its_ports() {
        in_netns(|| {
            let config = SwitchConfig {
                uplinks: vec![Uplink::Tap("up0".to_owned())],
                ..SwitchConfig::new("lan")
            };
            let switch = HostSwitch::new(config).unwrap();
            let ports = switch.switch().ports();
            assert_eq!(ports.len(), 1);
            assert_eq!(ports[0].options.name, "tap up0");
            let counters = switch.uplink_counters();
            assert!(counters["tap up0"].contains_key("port_rx_packets"));
            assert!(told("link show dev up0").contains("UP"));
            let config = SwitchConfig {
                uplinks: vec![Uplink::Packet("nowhere".to_owned())],
                ..SwitchConfig::new("lan")
            };
            let why = HostSwitch::new(config).unwrap_err().to_string();
            assert!(why.starts_with("switch lan: interface nowhere: "), "{why}");
        });
    }

    #[test]
    fn passt_is_told_what_the_guest_is_to_have() {
        let mut config = NetConfig::new(NetLink::Nowhere);
        config.options.mtu = Some(9000);
        config.ip = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let more = ["-t".to_owned(), "2222:22".to_owned()];
        let options = passt_options(&more, &config).unwrap();
        assert_eq!(
            (options.mtu, options.addresses),
            (Some(9000), config.ip.clone())
        );
        assert_eq!(options.more, ["-t", "2222:22"]);
        config.ip.push("10.0.0.3".parse().unwrap());
        assert!(passt_options(&more, &config).is_err());
    }

    #[test]
    fn a_tap_is_called_by_its_guest() {
        let whose = |guest: &str, index| NetIdentity {
            guest: guest.to_owned(),
            index,
            mac: [0; 6],
            ip: Vec::new(),
        };
        assert_eq!(tap_name(&whose("web", 0)), "web.0");
        let long = tap_name(&whose("a-guest-with-a-long-name", 127));
        assert!(long.len() <= INTERFACE_NAME_MAX, "{long}");
        assert_ne!(long, tap_name(&whose("a-guest-with-a-long-nam2", 127)));
    }
}
