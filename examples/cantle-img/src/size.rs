//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text.get(digits.len()..).unwrap_or_default();
        ensure!(
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
            "a size is a number, with K, M, G, T or P behind it or not"
        );
        let shift = match unit.to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            "P" | "PB" | "PIB" => 50,
            _ => anyhow::bail!("{unit:?} is no unit: K, M, G, T and P are"),
        };
        let bytes = digits
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(1 << shift));
        Ok(Self(bytes.context("that is more than there can be")?))
    }
}

/// For people: `1.5 GiB`, and whole bytes where they are few.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut shift = 0;
        let mut unit = "B";
        for (n, name) in units.into_iter().enumerate() {
            if self.0 >> (10 * (n + 1)) != 0 {
                (shift, unit) = (10 * (n + 1), name);
            }
        }
        let whole = self.0 >> shift;
        // Hundredths, cut off.
        let rest = self.0 & ((1 << shift) - 1);
        let hundredths = (u128::from(rest) * 100) >> shift;
        match hundredths {
            0 => write!(f, "{whole} {unit}"),
            n if n % 10 == 0 => write!(f, "{whole}.{} {unit}", n / 10),
            n => write!(f, "{whole}.{n:02} {unit}"),
        }
    }
}

/// A new size, or by how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resize {
    To(u64),
    By(u64),
}

impl FromStr for Resize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix('+') {
            Some(more) => Ok(Self::By(more.parse::<Size>()?.0)),
            None => Ok(Self::To(text.parse::<Size>()?.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("512", 512),
            ("4K", 4096),
            ("2m", 2 << 20),
            ("3GiB", 3 << 30),
            ("1T", 1 << 40),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
        for wrong in [
            "",
            "K",
            "-1",
            "1X",
            "1.5G",
            "99999999999999999999",
            "9999999P",
            "+1",
        ] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
        assert_eq!("+1K".parse::<Resize>().unwrap(), Resize::By(1024));
        assert_eq!("1K".parse::<Resize>().unwrap(), Resize::To(1024));
        assert!("++1K".parse::<Resize>().is_err());
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 30) + (1 << 28) + (1 << 24), "1.26 GiB"),
            (u64::MAX, "15.99 EiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
