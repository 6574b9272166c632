//! Limits in words.

use cantle_layers::Limits;

/// What is wrong with a text of limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no limit: read-bps, write-bps, read-iops and write-iops are, and each with -burst, as KEY=NUMBER"
)]
pub struct BadLimit(pub String);

/// `read-bps=NUMBER,write-iops=NUMBER,read-bps-burst=NUMBER`, numbers with K, M or G (of 1024) behind them or not; nothing is no limit.
///
/// # Errors
///
/// [`BadLimit`].
pub fn parse_limits(text: &str) -> Result<Limits, BadLimit> {
    let mut limits = Limits::default();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let bad = || BadLimit(part.to_owned());
        let (key, value) = part.split_once('=').ok_or_else(bad)?;
        set_limit(&mut limits, key, value)
            .ok_or_else(bad)?
            .map_err(|()| bad())?;
    }
    Ok(limits)
}

/// Sets one limit by its key; `None` where the key is no limit's.
pub fn set_limit(limits: &mut Limits, key: &str, value: &str) -> Option<Result<(), ()>> {
    let place = match key {
        "read-bps" => &mut limits.read_bps,
        "write-bps" => &mut limits.write_bps,
        "read-iops" => &mut limits.read_iops,
        "write-iops" => &mut limits.write_iops,
        "read-bps-burst" => &mut limits.read_bps_burst,
        "write-bps-burst" => &mut limits.write_bps_burst,
        "read-iops-burst" => &mut limits.read_iops_burst,
        "write-iops-burst" => &mut limits.write_iops_burst,
        _ => return None,
    };
    Some(match number(value) {
        Some(number) => {
            *place = number;
            Ok(())
        }
        None => Err(()),
    })
}

fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (text.get(..text.len() - 1)?, 10),
        b'M' | b'm' => (text.get(..text.len() - 1)?, 20),
        b'G' | b'g' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named() {
        let limits =
            parse_limits("read-bps=10M, write-iops=500,write-iops-burst=2k").unwrap_or_default();
        assert_eq!((limits.read_bps, limits.write_iops), (10 << 20, 500));
        assert_eq!((limits.write_iops_burst, limits.write_bps), (2048, 0));
        assert_eq!(parse_limits(""), Ok(Limits::default()));
        for bad in [
            "read-bps",
            "read-bps=",
            "read-bps=-1",
            "bps=1",
            "read-bps=9999999999999G",
        ] {
            assert_eq!(parse_limits(bad), Err(BadLimit(bad.to_owned())));
        }
    }
}
