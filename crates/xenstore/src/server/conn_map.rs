//! A map by connection, with a hash that costs next to nothing: the numbers are the server's own, so nobody can choose
//! ones that collide.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::ConnId;

/// A map by connection.
pub(crate) type ConnMap<V> = HashMap<ConnId, V, BuildHasherDefault<ConnHasher>>;

/// Spreads a number's bits by one multiplication.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnHasher(u64);

impl Hasher for ConnHasher {
    fn finish(&self) -> u64 {
        // The map takes its place from the low bits and its tag from the high ones.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // An odd constant near 2^64 divided by the golden ratio.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
