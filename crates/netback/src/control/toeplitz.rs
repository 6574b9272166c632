//! The Toeplitz hash.

use std::fmt;

use super::HASH_KEY_MAX;

/// As many bytes as are hashed at most: two IPv6 addresses and two ports.
pub const INPUT_MAX: usize = 36;
/// Halves of the input's bytes.
const NIBBLES: usize = INPUT_MAX * 2;

/// The hash of `io/netif.h` for one key, by a table of what each half of each byte adds: 4.5 KiB, and two look-ups a byte.
pub struct Toeplitz {
    key: [u8; HASH_KEY_MAX],
    table: Box<[[u32; 16]; NIBBLES]>,
}

impl Toeplitz {
    /// The hash for a key, of which no more than [`HASH_KEY_MAX`] bytes are used; the missing ones are zero.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        let mut own = [0; HASH_KEY_MAX];
        for (byte, given) in own.iter_mut().zip(key) {
            *byte = *given;
        }
        let mut table = Box::new([[0; 16]; NIBBLES]);
        for (nibble, sums) in table.iter_mut().enumerate() {
            let windows = [0, 1, 2, 3].map(|bit| window(&own, nibble * 4 + bit));
            for (value, sum) in sums.iter_mut().enumerate() {
                let set = windows.iter().enumerate();
                let set = set.filter(|(bit, _)| value & (8 >> bit) != 0);
                *sum = set.fold(0, |sum, (_, window)| sum ^ window);
            }
        }
        Self { key: own, table }
    }

    /// The key, with zeros to its full length.
    #[must_use]
    pub fn key(&self) -> &[u8; HASH_KEY_MAX] {
        &self.key
    }

    /// The hash of `data`, of which no more than [`INPUT_MAX`] bytes are used.
    #[must_use]
    pub fn hash(&self, data: &[u8]) -> u32 {
        let (halves, _) = self.table.as_chunks::<2>();
        data.iter()
            .zip(halves)
            .fold(0, |hash, (byte, [high, low])| {
                // Both indices are of four bits, and there are sixteen entries.
                hash ^ high[usize::from(byte >> 4)] ^ low[usize::from(byte & 0xf)]
            })
    }
}

/// The 32 bits of a key that begin at a bit, the first being the most significant; bits past the key's end are zero.
fn window(key: &[u8; HASH_KEY_MAX], bit: usize) -> u32 {
    let bytes = (bit / 8..bit / 8 + 5).map(|at| key.get(at).copied().unwrap_or(0));
    let bits = bytes.fold(0, |bits, byte| bits << 8 | u64::from(byte));
    let bits = (bits >> (8 - bit % 8)).to_le_bytes();
    u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]])
}

impl Clone for Toeplitz {
    fn clone(&self) -> Self {
        Self {
            key: self.key,
            table: self.table.clone(),
        }
    }
}

impl fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who knows the key can choose packets that all go to one queue: it does not belong in logs.
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the header words it: key and data are shift registers.
    fn by_bits(key: &[u8], data: &[u8]) -> u32 {
        let bit = |bytes: &[u8], n: usize| {
            bytes
                .get(n / 8)
                .is_some_and(|byte| byte & (0x80 >> (n % 8)) != 0)
        };
        let mut value = 0;
        for n in (0..data.len() * 8).filter(|n| bit(data, *n)) {
            let left = (n..n + 32).fold(0, |left, n| left << 1 | u32::from(bit(key, n)));
            value ^= left;
        }
        value
    }

    proptest! {
        #[test]
        fn the_table_says_what_the_shift_registers_do(
            key in prop::collection::vec(any::<u8>(), 0..=HASH_KEY_MAX),
            data in prop::collection::vec(any::<u8>(), 0..=INPUT_MAX),
        ) {
            prop_assert_eq!(Toeplitz::new(&key).hash(&data), by_bits(&key, &data));
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let long: Vec<u8> = (1..=60).collect();
        let hash = Toeplitz::new(&long);
        assert_eq!(hash.key(), &long[..HASH_KEY_MAX]);
        assert_eq!(hash.hash(&long), by_bits(&long[..40], &long[..36]));
    }

    #[test]
    fn no_key_hashes_to_zero() {
        assert_eq!(Toeplitz::new(&[]).hash(&[0xff; INPUT_MAX]), 0);
    }
}
