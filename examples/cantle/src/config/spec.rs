//! The small languages inside of values: addresses, sizes, names. Those of disks are in [`disk`](super::disk), of networks in
//! [`net`](super::net) and [`switch`](super::switch).
//!
//! Each takes a text and says in words what is wrong with it; both the command line and the file use them.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::Action;

/// The longest name of a network interface, in bytes.
const MAX_INTERFACE_NAME: usize = 15;

/// A guest's name: it becomes part of messages and of xenstore's nodes.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    if text.is_empty() || text.len() > 255 || !text.chars().all(fits) {
        return Err(format!(
            "{text:?} is no name: letters, digits and \"_.+-\" make one"
        ));
    }
    Ok(text.to_owned())
}

/// A path that is not empty.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("a path is missing".to_owned())
    } else {
        Ok(text.into())
    }
}

/// Memory in bytes, from MiB or from a number with its unit.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_uppercase()
        .as_str()
    {
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        unit => return Err(format!("unknown unit {unit:?}: K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} is too much"))
}

/// A number within limits.
pub(crate) fn within(number: u64, limits: &RangeInclusive<u32>) -> Result<u32, String> {
    let small = u32::try_from(number).ok();
    small.filter(|n| limits.contains(n)).ok_or_else(|| {
        let (least, most) = (limits.start(), limits.end());
        format!("{number} is not one of {least} to {most}")
    })
}

/// A number within limits, as an option's text.
pub(crate) fn option_within(
    limits: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| {
        let number = text
            .parse()
            .map_err(|_| "a number is expected".to_owned())?;
        within(number, &limits)
    }
}

/// What is done at a guest's end.
pub(super) fn action(text: &str) -> Result<Action, String> {
    match text {
        "destroy" => Ok(Action::Destroy),
        "restart" => Ok(Action::Restart),
        _ => Err(format!(
            "{text:?} is not supported, only \"destroy\" and \"restart\""
        )),
    }
}

pub(super) fn set<T>(place: &mut Option<T>, what: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{what} is given twice")),
    }
}

/// A name of a network interface of the host.
pub(super) fn interface(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if text.is_empty() || text.len() > MAX_INTERFACE_NAME || !text.chars().all(fits) {
        return Err(format!("{text:?} is no name of a network interface"));
    }
    Ok(text.to_owned())
}

/// A hardware address of one station.
pub(super) fn mac(text: &str) -> Result<[u8; 6], String> {
    let bad = || format!("{text:?} is no hardware address of a station");
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts
            .next()
            .filter(|part| part.len() == 2)
            .ok_or_else(bad)?;
        // `from_str_radix` would take a sign.
        *byte = match part.bytes().all(|b| b.is_ascii_hexdigit()) {
            true => u8::from_str_radix(part, 16).map_err(|_| bad())?,
            false => return Err(bad()),
        };
    }
    let [first, ..] = bytes;
    if parts.next().is_some() || first & 1 != 0 || bytes == [0; 6] {
        Err(bad())
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hardware_addresses() {
        for bad in [
            "",
            "00:16:3e:00:00",
            "00:16:3e:00:00:01:02",
            "0:16:3e:0:0:1",
            "+1:16:3e:00:00:01",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "gg:16:3e:00:00:01",
        ] {
            assert!(mac(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn memory_sizes() {
        assert_eq!(memory("512"), Ok(512 << 20));
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert_eq!(memory("2g"), Ok(2 << 30));
        assert_eq!(memory("8192K"), Ok(8 << 20));
        for bad in ["", "M", "1T", "-1M", "1.5G", "99999999999G", "1 M"] {
            assert!(memory(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in any::<String>(), near in "[a-z=,:/ 0]{0,30}") {
            for text in [text, near] {
                let _ = (mac(&text), interface(&text), memory(&text), name(&text));
            }
        }
    }
}
