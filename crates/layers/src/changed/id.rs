//! Names of checkpoints.

use std::fmt;
use std::io::Result as IoResult;
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};

/// The name of a checkpoint, and of what was written from it to the next one. Shown as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GenerationId(pub [u8; 16]);

impl GenerationId {
    /// A new one.
    pub(super) fn random() -> IoResult<Self> {
        let mut id = [0_u8; 16];
        getrandom(&mut id, GetRandomFlags::empty())?;
        // Version 4, variant 1: RFC 9562, 5.4.
        let [.., version, _, variant, _, _, _, _, _, _, _] = &mut id;
        *version = *version & 0x0f | 0x40;
        *variant = *variant & 0x3f | 0x80;
        Ok(Self(id))
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) {
                "-"
            } else {
                ""
            };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no [`GenerationId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID")]
pub struct NotAUuid;

impl FromStr for GenerationId {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Self, NotAUuid> {
        let digits: String = text.chars().filter(|digit| *digit != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotAUuid);
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| NotAUuid)?;
        Ok(Self(number.to_be_bytes()))
    }
}
