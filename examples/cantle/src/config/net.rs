//! Network interfaces in words: the option's language, and `xl-network-configuration`'s.

use std::net::IpAddr;
use std::path::PathBuf;

use cantle_vmm_core::net::Rate;
use cantle_vmm_core::net::switch::{PortOptions, VlanId, VlanSet, Vlans};
use cantle_vmm_core::{NetConfig, NetLink};

use super::spec::{interface, mac, name, path, set};

/// What the option takes, for its help.
pub(crate) const HELP: &str = "\
Networks (--net LINK[,…]), where LINK says what an interface's packets leave by:
  tap=NAME                   a tap device, made where it does not exist; tap alone: named GUEST.N
    bridge=BRIDGE            puts the tap into a bridge of the host
  packet=IFACE               an interface of the host, which the guest shares
  user[:OPTIONS]             user-mode networking by passt, without privileges
                             (OPTIONS are passt's own, with spaces: 'user:-t 2222:22')
  stream=SOCKET              a Unix socket, as of a passt that runs already
  switch=NAME                a switch of this process, where its other guests may be too
    vlan=N                   in this VLAN, without tags
    trunk=N+N+…|all          in these VLANs, with tags; native=N: and in this one without
    isolated                 reaches no other port that is isolated
    mac-filter               sends by its own hardware address only, and by those of ip=
  none                       nothing
and for any of them:
  mac=ADDRESS                the guest's hardware address; made of its name unless given
  queues=N                   queues that the guest may use, 1 to 16
  mtu=N                      the largest IP packet, 68 to 65535 bytes
  rate=RATE, rx-rate=RATE    limits of what the guest sends and gets: 10MB/s, 80Mb/s, 10MB/s@50ms
  ip=ADDRESS[+ADDRESS…]      its addresses
  link=up|down               whether its cable is plugged in at first
  pcap=FILE                  keeps all its packets in a file for tcpdump and Wireshark
  script-less                says what is so anyway: no script of the host's is run";

/// What the words for a link are, for refusals.
const LINKS: &str = "tap=NAME, packet=IFACE, user[:OPTIONS], stream=SOCKET, switch=NAME or none";

/// An interface that a guest is to have.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    /// Where a switch is named, its link is nowhere yet.
    pub(crate) config: NetConfig,
    pub(crate) switch: Option<SwitchUse>,
}

/// A port of a switch.
#[derive(Clone, Debug)]
pub(crate) struct SwitchUse {
    pub(crate) name: String,
    pub(crate) port: PortOptions,
    /// Only its own addresses.
    pub(crate) filter: bool,
}

/// What its packets leave by, as far as it has been read.
enum Link {
    Tap(Option<String>),
    Packet(String),
    User(Vec<String>),
    Stream(PathBuf),
    Switch(String),
    None,
}

/// An interface that is being read.
#[derive(Default)]
struct Words {
    link: Option<Link>,
    mac: Option<[u8; 6]>,
    queues: Option<u32>,
    mtu: Option<u16>,
    rate: Option<Rate>,
    rx_rate: Option<Rate>,
    ip: Option<Vec<IpAddr>>,
    up: Option<bool>,
    pcap: Option<PathBuf>,
    bridge: Option<String>,
    vlan: Option<VlanId>,
    trunk: Option<VlanSet>,
    native: Option<VlanId>,
    isolated: bool,
    filter: bool,
}

/// An interface as `--net` has it.
pub(crate) fn option(text: &str) -> Result<Net, String> {
    let mut words = Words::default();
    for part in text.split(',') {
        if !words.part(part)? {
            return Err(format!(
                "unknown part {part:?} of an interface: {LINKS}, mac=ADDRESS and others; --help lists them"
            ));
        }
    }
    words.finish(LINKS)
}

/// An interface as `xl-network-configuration` has it, as far as it can be honoured. Our own words go beside xl's.
pub(super) fn xl(text: &str) -> Result<Net, String> {
    const XL: &str = "vifname=TAP, bridge=BRIDGE, or one of cantle's own";
    let mut words = Words::default();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match part.split_once('=') {
            Some(("vifname", value)) => {
                words.link("vifname", Link::Tap(Some(interface(value)?)))?;
            }
            Some(("type", "vif")) => {}
            Some(("type", value)) => {
                return Err(format!(
                    "type={value} is not supported, only type=vif: there is no emulated card"
                ));
            }
            Some(("model", model)) => {
                say!("cantle: vif: model={model} is ignored: it is of emulated cards");
            }
            // What the script would do is done without it.
            Some(("script", "vif-bridge" | "/etc/xen/scripts/vif-bridge")) => {}
            Some(("script", value)) => {
                return Err(format!(
                    "script={value} is not supported: bridge=BRIDGE does what vif-bridge does, mac-filter with ip= is against spoofing"
                ));
            }
            Some(("backend", "0" | "Domain-0")) => {}
            Some(("backend", value)) => {
                return Err(format!("backend={value} is not supported, only backend=0"));
            }
            Some(("ip", value)) => {
                let list = value.split([' ', '+']).filter(|ip| !ip.is_empty());
                set(&mut words.ip, "ip", addresses(list)?)?;
            }
            _ if words.part(part)? => {}
            _ => {
                return Err(format!(
                    "unknown part {part:?}: mac=ADDRESS, bridge=BRIDGE, vifname=TAP, rate=RATE, mtu=N, ip=ADDRESS, type=vif, \
                     script=vif-bridge, backend=0, or what `cantle run --help` lists under \"Networks\""
                ));
            }
        }
    }
    words.finish(XL)
}

impl Words {
    /// Reads a part; false where it is none of ours.
    fn part(&mut self, part: &str) -> Result<bool, String> {
        if let Some(options) = part.strip_prefix("user:") {
            let options = options.split_whitespace().map(str::to_owned).collect();
            self.link("user", Link::User(options))?;
            return Ok(true);
        }
        match part.split_once('=') {
            Some((key, value)) => self.key(key, value),
            None => self.word(part),
        }
    }

    fn key(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "tap" => self.link(key, Link::Tap(Some(interface(value)?)))?,
            "packet" => self.link(key, Link::Packet(interface(value)?))?,
            "stream" => self.link(key, Link::Stream(path(value)?))?,
            "switch" => self.link(key, Link::Switch(name(value)?))?,
            "bridge" => set(&mut self.bridge, key, interface(value)?)?,
            "mac" => set(&mut self.mac, key, mac(value)?)?,
            "queues" => set(&mut self.queues, key, number(value, NetConfig::QUEUES)?)?,
            "mtu" => set(&mut self.mtu, key, number(value, NetConfig::MTU)?)?,
            "rate" => set(&mut self.rate, key, rate(value)?)?,
            "rx-rate" => set(&mut self.rx_rate, key, rate(value)?)?,
            "ip" => set(&mut self.ip, key, addresses(value.split('+'))?)?,
            "pcap" => set(&mut self.pcap, key, path(value)?)?,
            "vlan" => set(&mut self.vlan, key, vlan(value)?)?,
            "native" => set(&mut self.native, key, vlan(value)?)?,
            "trunk" => {
                let vlans = match value {
                    "all" => VlanSet::all(),
                    _ => value.split('+').map(vlan).collect::<Result<_, _>>()?,
                };
                set(&mut self.trunk, key, vlans)?;
            }
            "link" => {
                let up = match value {
                    "up" => true,
                    "down" => false,
                    _ => return Err(format!("link={value}: up or down")),
                };
                set(&mut self.up, key, up)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn word(&mut self, word: &str) -> Result<bool, String> {
        match word {
            "tap" => self.link(word, Link::Tap(None))?,
            "user" => self.link(word, Link::User(Vec::new()))?,
            "none" => self.link(word, Link::None)?,
            "isolated" => self.isolated = true,
            "mac-filter" => self.filter = true,
            "script-less" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn link(&mut self, what: &str, link: Link) -> Result<(), String> {
        match self.link.replace(link) {
            None => Ok(()),
            Some(_) => Err(format!(
                "{what}: an interface has one link only, of {LINKS}"
            )),
        }
    }

    fn finish(mut self, links: &str) -> Result<Net, String> {
        let link = match self.link.take() {
            Some(link) => link,
            // As for xl, the tap's name is of no interest then.
            None if self.bridge.is_some() => Link::Tap(None),
            None => return Err(format!("a link is missing: {links}")),
        };
        let at_switch = matches!(link, Link::Switch(_));
        for (given, what) in [
            (self.vlan.is_some(), "vlan"),
            (self.trunk.is_some(), "trunk"),
            (self.native.is_some(), "native"),
            (self.isolated, "isolated"),
            (self.filter, "mac-filter"),
        ] {
            if given && !at_switch {
                return Err(format!("{what} goes with switch=NAME"));
            }
        }
        if self.bridge.is_some() && !matches!(link, Link::Tap(_)) {
            return Err("bridge goes with tap=NAME".to_owned());
        }
        let port = self.port()?;
        let (link, switch) = match link {
            Link::Tap(name) => (
                NetLink::Tap {
                    name,
                    bridge: self.bridge,
                },
                None,
            ),
            Link::Packet(interface) => (NetLink::Packet { interface }, None),
            Link::User(options) => (NetLink::User { options }, None),
            Link::Stream(socket) => (NetLink::Stream { socket }, None),
            Link::None => (NetLink::Nowhere, None),
            Link::Switch(name) => {
                let filter = self.filter;
                (NetLink::Nowhere, Some(SwitchUse { name, port, filter }))
            }
        };
        let mut config = NetConfig::new(link);
        config.mac = self.mac;
        config.ip = self.ip.unwrap_or_default();
        config.capture = self.pcap;
        config.options.mtu = self.mtu;
        config.options.tx_rate = self.rate;
        config.options.rx_rate = self.rx_rate;
        config.options.link = self.up.unwrap_or(true);
        if let Some(queues) = self.queues {
            config.options.queues_max = queues;
        }
        Ok(Net { config, switch })
    }

    fn port(&self) -> Result<PortOptions, String> {
        let vlans = match (self.vlan, &self.trunk, self.native) {
            (None, None, None) => Vlans::default(),
            (Some(vlan), None, None) => Vlans::Access(vlan),
            (None, Some(allowed), native) => Vlans::Trunk {
                allowed: allowed.clone(),
                native,
            },
            (Some(_), _, _) => return Err("vlan goes without trunk and native".to_owned()),
            (None, None, Some(_)) => return Err("native goes with trunk".to_owned()),
        };
        Ok(PortOptions {
            vlans,
            isolated: self.isolated,
            mtu: self.mtu,
            ..PortOptions::default()
        })
    }
}

/// `FILE`, of the first interface, or `N=FILE`.
pub(crate) fn pcap(text: &str) -> Result<(usize, PathBuf), String> {
    if let Some((index, file)) = text.split_once('=')
        && let Ok(index) = index.parse()
    {
        return Ok((index, path(file)?));
    }
    Ok((0, path(text)?))
}

fn number<T>(text: &str, limits: std::ops::RangeInclusive<T>) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let number = text.parse().ok().filter(|number| limits.contains(number));
    let (least, most) = (limits.start(), limits.end());
    number.ok_or_else(|| format!("{text:?} is not one of {least} to {most}"))
}

fn rate(text: &str) -> Result<Rate, String> {
    let rate: Result<Rate, _> = text.parse();
    rate.map_err(|error| format!("rate: {error}"))
}

fn vlan(text: &str) -> Result<VlanId, String> {
    let vlan = text.parse().ok().and_then(VlanId::new);
    vlan.ok_or_else(|| format!("{text:?} is no VLAN: 1 to 4094"))
}

fn addresses<'a>(list: impl Iterator<Item = &'a str>) -> Result<Vec<IpAddr>, String> {
    let list: Result<Vec<IpAddr>, String> = list
        .map(|text| {
            text.parse()
                .map_err(|_| format!("{text:?} is no IP address"))
        })
        .collect();
    match list?.as_slice() {
        [] => Err("an IP address is missing".to_owned()),
        list => Ok(list.to_vec()),
    }
}

#[cfg(test)]
mod tests;
