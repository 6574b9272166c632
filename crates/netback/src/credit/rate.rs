//! A rate, as it is written in xenstore and in a guest's configuration.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;
use std::time::Duration;

/// The interval where a configuration says none, in microseconds: 50 ms, as xl has it.
const INTERVAL_DEFAULT: u32 = 50_000;
const MICROS_PER_SECOND: u128 = 1_000_000;

/// So many bytes in each interval: what xenstore has in a vif's `rate`.
///
/// The interval says how much may pass at once, apart from that only the quotient matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bytes: NonZeroU64,
    micros: NonZeroU32,
}

/// Why a text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// It is not what xenstore would have.
    #[error("{0:?} is not a number of bytes, a comma and a number of microseconds")]
    Key(String),
    /// It is not what a configuration would have.
    #[error("{0:?} is not a rate such as 10Mb/s, 250KB/s or 1MB/s@20ms")]
    Words(String),
    /// No bytes, or no time.
    #[error("nothing passes at a rate of {0:?}")]
    Zero(String),
    /// More than can be counted.
    #[error("a rate of {0:?} is too much")]
    TooLarge(String),
}

impl Rate {
    /// So many bytes in so many microseconds.
    #[must_use]
    pub const fn new(bytes: NonZeroU64, micros: NonZeroU32) -> Self {
        Self { bytes, micros }
    }

    /// How many bytes in an interval.
    #[must_use]
    pub const fn bytes(self) -> NonZeroU64 {
        self.bytes
    }

    /// The interval.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_micros(self.micros.get().into())
    }

    /// Reads what xenstore has: bytes, a comma, and the interval in microseconds, in decimal. What [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    ///
    /// As [`RateError`] says. A device whose limit cannot be read should not go without one.
    pub fn parse_key(text: &str) -> Result<Self, RateError> {
        let malformed = || RateError::Key(text.to_owned());
        let (bytes, micros) = text.split_once(',').ok_or_else(malformed)?;
        if !is_number(bytes) || !is_number(micros) {
            return Err(malformed());
        }
        // Digits alone: only their number can be wrong.
        let too_large = |_| RateError::TooLarge(text.to_owned());
        let bytes: u64 = bytes.parse().map_err(too_large)?;
        let micros: u32 = micros.parse().map_err(too_large)?;
        Self::checked(text, bytes, micros)
    }

    fn checked(text: &str, bytes: u64, micros: u32) -> Result<Self, RateError> {
        let zero = || RateError::Zero(text.to_owned());
        Ok(Self {
            bytes: NonZeroU64::new(bytes).ok_or_else(zero)?,
            micros: NonZeroU32::new(micros).ok_or_else(zero)?,
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.bytes, self.micros)
    }
}

/// Reads what an xl configuration has as `rate=` (xl-network-configuration(5)): a number, `G`, `M`, `K` or nothing (powers of 1000), `B` for
/// bytes or `b` for bits, and `/s`; then, if not 50 ms, `@` and the interval in `s`, `ms` or `us`. Fractions of a byte are cut off.
///
/// An interval without a unit is refused: xl's manual says that it is in microseconds, and xl takes it for seconds.
impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let malformed = || RateError::Words(text.to_owned());
        let too_large = || RateError::TooLarge(text.to_owned());
        let (rate, interval) = match text.split_once('@') {
            Some((rate, interval)) => (rate, Some(interval)),
            None => (text, None),
        };

        let rate = rate.strip_suffix("/s").ok_or_else(malformed)?;
        let (rate, bits) = unit(rate, &[("B", 8), ("b", 1)]).ok_or_else(malformed)?;
        let prefixes = [("G", 1_000_000_000), ("M", 1_000_000), ("K", 1000), ("", 1)];
        let (number, times) = unit(rate, &prefixes).ok_or_else(malformed)?;
        let number = digits(number)
            .ok_or_else(malformed)?
            .ok_or_else(too_large)?;
        let bits = number.checked_mul(times).and_then(|n| n.checked_mul(bits));
        let per_second = u128::from(bits.ok_or_else(too_large)? / 8);

        let micros = match interval {
            None => INTERVAL_DEFAULT.into(),
            Some(interval) => {
                let units = [("us", 1), ("ms", 1000), ("s", 1_000_000)];
                let (number, times) = unit(interval, &units).ok_or_else(malformed)?;
                let number = digits(number).ok_or_else(malformed)?;
                let micros = number.and_then(|number| number.checked_mul(times));
                micros.ok_or_else(too_large)?
            }
        };
        let micros = u32::try_from(micros).map_err(|_| too_large())?;
        let bytes = per_second * u128::from(micros) / MICROS_PER_SECOND;
        Self::checked(text, u64::try_from(bytes).map_err(|_| too_large())?, micros)
    }
}

/// Cuts the first of the units that it ends with off a text, and says what the unit is worth.
fn unit<'a>(text: &'a str, units: &[(&str, u64)]) -> Option<(&'a str, u64)> {
    let cut = |(unit, times): &(&str, u64)| Some((text.strip_suffix(unit)?, *times));
    units.iter().find_map(cut)
}

/// Digits, and nothing else: the number, unless it is too large.
fn digits(text: &str) -> Option<Option<u64>> {
    is_number(text).then(|| text.parse().ok())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
