//! From bytes to actions.

use arbitrary::{Arbitrary, Result, Unstructured};

/// More actions than these are not taken from one input, so that each run is short.
const MAX_ACTIONS: usize = 400;

/// The actions that an input stands for: as many as its bytes give, at most 400.
pub fn actions<'a, A: Arbitrary<'a> + 'a>(data: &'a [u8]) -> impl Iterator<Item = A> + 'a {
    let mut bytes = Unstructured::new(data);
    let next = std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        A::arbitrary(&mut bytes).ok()
    });
    next.take(MAX_ACTIONS)
}

/// A number as an attacker chooses it: mostly small, often at an edge, sometimes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Odd(pub u64);

/// Where overflow and sign mistakes hide.
const EDGES: [u64; 16] = [
    0,
    1,
    0x7f,
    0xff,
    0xfff,
    0x1000,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

impl Odd {
    /// Its lowest byte.
    #[must_use]
    pub fn byte(self) -> u8 {
        let [low, ..] = self.0.to_le_bytes();
        low
    }

    /// Its lowest 16 bits.
    #[must_use]
    pub fn half(self) -> u16 {
        let [a, b, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    /// Its lowest 32 bits.
    #[must_use]
    pub fn word(self) -> u32 {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

impl<'a> Arbitrary<'a> for Odd {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Self> {
        let kind: u8 = bytes.arbitrary()?;
        Ok(Self(match kind % 8 {
            0..4 => u64::from(kind >> 3),
            4 | 5 => u64::from(bytes.arbitrary::<u8>()?),
            6 => *bytes.choose(&EDGES)?,
            _ => bytes.arbitrary()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_ends_where_its_bytes_do() {
        assert_eq!(actions::<Odd>(&[]).count(), 0);
        let numbers: Vec<Odd> = actions(&[0x20, 4, 200, 0x28]).collect();
        assert_eq!(numbers, [Odd(4), Odd(200), Odd(5)]);
    }

    #[test]
    fn a_long_input_is_cut() {
        assert_eq!(actions::<u8>(&[1; 10_000]).count(), MAX_ACTIONS);
    }

    #[test]
    fn parts_of_a_number_are_its_lowest() {
        let odd = Odd(0x1122_3344_5566_7788);
        assert_eq!(
            (odd.byte(), odd.half(), odd.word()),
            (0x88, 0x7788, 0x5566_7788)
        );
    }
}
