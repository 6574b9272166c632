//! What stands of an interface in xenstore, and what a toolstack may say there while it is served.
//!
//! In the back end's directory, where only the host may write: `rate` and `rate-rx` (`BYTES,MICROSECONDS`; nothing: no limit), `mtu`, and
//! `link` (0 or 1). What the guest is to know goes into its own: `mtu`, and `disconnect`, which is 1 while the link is down, as XenServer's
//! drivers for Windows read it.

use std::net::IpAddr;

use cantle_netback::NetControl;
use cantle_netback::credit::Rate;
use cantle_xenstore::prelude::*;
use cantle_xenstore::xenbus::{DeviceId, toolstack};
use cantle_xenstore::{Client, Error, TxId};

use super::config::{NetConfig, NetIdentity, NetLink};
use super::open::Opened;

/// The keys that may be said anew.
pub(super) const WATCHED: [&str; 4] = ["rate", "rate-rx", "mtu", "link"];

/// What was said last of each key of [`WATCHED`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    rate: Option<String>,
    rate_rx: Option<String>,
    mtu: Option<String>,
    link: Option<String>,
}

impl Said {
    /// The packet size, where there is one.
    pub(super) fn mtu(&self) -> Option<u16> {
        self.mtu.as_deref().and_then(|text| parse_mtu(text).ok())
    }

    /// What the directory says now; `None` where it is gone.
    fn read(client: &dyn Client, directory: &str) -> Result<Option<Self>, Error> {
        let read = |key: &str| match client.read_string(TxId::NONE, &format!("{directory}/{key}")) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        };
        if read("state")?.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            rate: read("rate")?,
            rate_rx: read("rate-rx")?,
            mtu: read("mtu")?,
            link: read("link")?,
        }))
    }
}

/// Writes the interface's two directories.
pub(super) fn create(
    client: &dyn Client,
    id: &DeviceId,
    config: &NetConfig,
    whose: &NetIdentity,
    opened: &Opened,
) -> Result<Said, Error> {
    let said = Said {
        rate: config.options.tx_rate.map(|rate| rate.to_string()),
        rate_rx: config.options.rx_rate.map(|rate| rate.to_string()),
        mtu: config
            .options
            .mtu
            .or(opened.mtu())
            .map(|mtu| mtu.to_string()),
        link: Some(u8::from(config.options.link).to_string()),
    };
    let handle = id.number.to_string();
    let mac = whose.mac.map(|byte| format!("{byte:02x}")).join(":");
    let ip: Vec<String> = whose.ip.iter().map(IpAddr::to_string).collect();
    let ip = ip.join(" ");
    let disconnect = u8::from(!config.options.link).to_string();
    let mut front = vec![
        ("handle", handle.as_str()),
        ("mac", mac.as_str()),
        ("disconnect", disconnect.as_str()),
    ];
    let mut back = vec![
        ("handle", handle.as_str()),
        ("mac", mac.as_str()),
        ("type", "vif"),
        ("vifname", opened.name()),
    ];
    for (key, value) in [
        ("rate", &said.rate),
        ("rate-rx", &said.rate_rx),
        ("mtu", &said.mtu),
        ("link", &said.link),
    ] {
        back.extend(value.as_deref().map(|value| (key, value)));
    }
    front.extend(said.mtu.as_deref().map(|mtu| ("mtu", mtu)));
    if !ip.is_empty() {
        back.push(("ip", ip.as_str()));
    }
    if let NetLink::Tap {
        bridge: Some(bridge),
        ..
    } = &config.link
    {
        back.push(("bridge", bridge.as_str()));
    }
    toolstack::create_device(client, id, &front, &back)?;
    Ok(said)
}

/// Does what is said anew; false where the interface's directory is gone. What cannot be done is said in `control-error`,
/// and changes nothing.
pub(super) fn obey(
    client: &dyn Client,
    id: &DeviceId,
    said: &mut Said,
    control: &NetControl,
) -> Result<bool, Error> {
    let directory = id.backend_path();
    let Some(now) = Said::read(client, &directory)? else {
        return Ok(false);
    };
    if now == *said {
        return Ok(true);
    }
    let before = std::mem::replace(said, now.clone());
    let (told, wrong) = apply(&before, &now, control);
    tell(client, id, &told)?;
    let path = format!("{directory}/control-error");
    if wrong.is_empty() {
        client.rm_if_there(TxId::NONE, &path)?;
    } else {
        let why = wrong.join("; ");
        tracing::warn!(
            interface = directory,
            why,
            "what was said of it was not done"
        );
        client.write(TxId::NONE, &path, why.as_bytes())?;
    }
    Ok(true)
}

/// Does what differs; what the guest is to be told, and what is wrong.
fn apply(
    before: &Said,
    now: &Said,
    control: &NetControl,
) -> (Vec<(&'static str, String)>, Vec<String>) {
    let (mut told, mut wrong) = (Vec::new(), Vec::new());
    let mut rate = |key, text: &Option<String>, set: &dyn Fn(Option<Rate>)| match parse_rate(
        text.as_deref().unwrap_or_default(),
    ) {
        Ok(rate) => set(rate),
        Err(why) => wrong.push(format!("{key}: {why}")),
    };
    if now.rate != before.rate {
        rate("rate", &now.rate, &|rate| control.set_tx_rate(rate));
    }
    if now.rate_rx != before.rate_rx {
        rate("rate-rx", &now.rate_rx, &|rate| control.set_rx_rate(rate));
    }
    if let (Some(text), true) = (&now.mtu, now.mtu != before.mtu) {
        match parse_mtu(text) {
            Ok(mtu) => {
                control.set_mtu(mtu);
                told.push(("mtu", mtu.to_string()));
            }
            Err(why) => wrong.push(why),
        }
    }
    if now.link != before.link {
        match now.link.as_deref() {
            None | Some("0" | "1") => {
                let up = now.link.as_deref() != Some("0");
                control.set_link(up);
                told.push(("disconnect", u8::from(!up).to_string()));
            }
            Some(text) => wrong.push(format!("link: {text:?} is not 0 or 1")),
        }
    }
    (told, wrong)
}

/// Writes into the front end's directory, as long as there is one.
fn tell(client: &dyn Client, id: &DeviceId, keys: &[(&str, String)]) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let front = id.frontend_path();
    client.transact(|tx| {
        if client.exists(tx, &format!("{front}/state"))? {
            for (key, value) in keys {
                client.write(tx, &format!("{front}/{key}"), value.as_bytes())?;
            }
        }
        Ok(())
    })
}

fn parse_rate(text: &str) -> Result<Option<Rate>, String> {
    match text {
        "" => Ok(None),
        _ => Rate::parse_key(text)
            .map(Some)
            .map_err(|error| error.to_string()),
    }
}

fn parse_mtu(text: &str) -> Result<u16, String> {
    let mtu = text.parse().ok().filter(|mtu| NetConfig::MTU.contains(mtu));
    mtu.ok_or_else(|| {
        let (least, most) = (NetConfig::MTU.start(), NetConfig::MTU.end());
        format!("mtu: {text:?} is not one of {least} to {most}")
    })
}
