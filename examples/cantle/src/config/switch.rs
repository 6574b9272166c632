//! Switches in words.

use std::num::NonZeroU32;
use std::time::Duration;

use cantle_vmm_core::net::{SwitchConfig, Uplink};

use super::spec::{interface, name, set};

/// What the option takes, for its help.
pub(crate) const HELP: &str = "\
Switches (--switch NAME[,…]; one that an interface names is made anyway):
  uplink=tap:NAME|packet:IFACE  where the switch leads to; may be given several times
  mirror=GUEST.N                this guest's Nth interface gets copies of all that others send
  aging=SECONDS                 how long an address is remembered, 300 unless given
  broadcast-limit=PPS           broadcasts a second that each port may send";

/// A switch as `--switch` and the file's `switch` have it.
pub(crate) fn option(text: &str) -> Result<SwitchConfig, String> {
    let mut parts = text.split(',').map(str::trim);
    let called = name(parts.next().unwrap_or_default())?;
    let mut config = SwitchConfig::new(&called);
    let (mut aging, mut broadcasts) = (None, None);
    for part in parts {
        match part.split_once('=') {
            Some(("uplink", value)) => config.uplinks.push(uplink(value)?),
            Some(("mirror", value)) => config.mirrors.push(port(value)?),
            Some((key @ "aging", value)) => {
                let seconds: NonZeroU32 = value
                    .parse()
                    .map_err(|_| format!("aging={value}: a number of seconds, at least 1"))?;
                set(&mut aging, key, Duration::from_secs(seconds.get().into()))?;
            }
            Some((key @ "broadcast-limit", value)) => {
                let rate: NonZeroU32 = value.parse().map_err(|_| {
                    format!("broadcast-limit={value}: a number of packets a second, at least 1")
                })?;
                set(&mut broadcasts, key, rate)?;
            }
            _ => {
                return Err(format!(
                    "unknown part {part:?} of a switch: uplink=tap:NAME, uplink=packet:IFACE, mirror=GUEST.N, aging=SECONDS or broadcast-limit=PPS"
                ));
            }
        }
    }
    if let Some(age) = aging {
        config.age = age;
    }
    config.broadcast_limit = broadcasts;
    Ok(config)
}

fn uplink(text: &str) -> Result<Uplink, String> {
    match text.split_once(':') {
        Some(("tap", tap)) => Ok(Uplink::Tap(interface(tap)?)),
        Some(("packet", card)) => Ok(Uplink::Packet(interface(card)?)),
        _ => Err(format!("uplink={text}: tap:NAME or packet:IFACE")),
    }
}

/// A port's name: the guest's, and the number of its interface.
fn port(text: &str) -> Result<String, String> {
    let good = text
        .rsplit_once('.')
        .is_some_and(|(guest, index)| name(guest).is_ok() && index.parse::<u32>().is_ok());
    match good {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "mirror={text}: GUEST.N, the guest's name and its interface's number"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches() {
        let plain = option("lan").unwrap();
        assert_eq!(
            (plain.name.as_str(), plain.age),
            ("lan", Duration::from_secs(300))
        );
        let full = option(
            "lan,uplink=tap:tap0,uplink=packet:eth0,mirror=ids.1,aging=20,broadcast-limit=1000",
        )
        .unwrap();
        assert_eq!(
            full.uplinks,
            [Uplink::Tap("tap0".into()), Uplink::Packet("eth0".into())]
        );
        assert_eq!(
            (full.mirrors.as_slice(), full.age.as_secs()),
            (["ids.1".to_owned()].as_slice(), 20)
        );
        assert_eq!(full.broadcast_limit.map(NonZeroU32::get), Some(1000));
        for (bad, word) in [
            ("", "name"),
            ("a b", "name"),
            ("lan,uplink=eth0", "tap:NAME"),
            ("lan,uplink=tap:", "network interface"),
            ("lan,mirror=ids", "GUEST.N"),
            ("lan,aging=0", "at least 1"),
            ("lan,broadcast-limit=many", "at least 1"),
            ("lan,speed=9", "unknown part"),
            ("lan,aging=1,aging=2", "twice"),
        ] {
            let error = option(bad).unwrap_err();
            assert!(error.contains(word), "{bad:?}: {error}");
        }
    }
}
