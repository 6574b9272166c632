//! How packets to a guest are hashed, and to which of its queues they go.

mod fault;
mod input;
mod kind;

use std::num::NonZeroU32;
use std::sync::Arc;

use cantle_abi::io::netif::{
    XEN_NETIF_CTRL_HASH_ALGORITHM_NONE, XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ,
};

pub use fault::HashFault;
pub use kind::{Hash, HashKind};

use super::toeplitz::Toeplitz;
use crate::headers::IpVersion;
use input::{Input, network, tcp_of};

/// The longest key in bytes: what 36 bytes can be hashed with, and what other back ends take.
pub const HASH_KEY_MAX: usize = 40;
/// The most entries of the mapping of hashes to queues: what other back ends take.
pub const HASH_MAPPING_MAX: u32 = 128;

/// How packets to a guest are hashed, and to which of its queues they go: as its front end has said over the control ring.
///
/// What a front end gives is checked as it comes, so each queue that this names is one that the device has.
#[derive(Clone, Debug)]
pub struct HashConfig {
    queues: NonZeroU32,
    algorithm: u8,
    /// `XEN_NETIF_CTRL_HASH_TYPE_*`.
    types: u32,
    toeplitz: Arc<Toeplitz>,
    /// Each entry is below `queues`.
    mapping: Vec<u32>,
}

impl HashConfig {
    /// No hashing, for a device with so many queues.
    #[must_use]
    pub fn new(queues: NonZeroU32) -> Self {
        Self {
            queues,
            algorithm: XEN_NETIF_CTRL_HASH_ALGORITHM_NONE,
            types: 0,
            toeplitz: Arc::new(Toeplitz::new(&[])),
            mapping: Vec::new(),
        }
    }

    /// Every packet is hashed by all that it has: for a back end that chooses by itself. With this key, one of two bytes over and over, both
    /// directions of a flow have the same hash.
    pub(crate) fn spreading() -> Self {
        let mut key = [0x6d; HASH_KEY_MAX];
        key.iter_mut()
            .skip(1)
            .step_by(2)
            .for_each(|byte| *byte = 0x5a);
        Self {
            algorithm: XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ,
            types: all_types(),
            toeplitz: Arc::new(Toeplitz::new(&key)),
            ..Self::new(NonZeroU32::MIN)
        }
    }

    /// How many queues the device has.
    #[must_use]
    pub fn queues(&self) -> NonZeroU32 {
        self.queues
    }

    /// Whether packets are to be hashed. Where they are not, the back end spreads them as it likes.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.algorithm == XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ && self.types != 0
    }

    /// The hash of the frame that begins with `frame`, of which [`HEADERS_MAX`](crate::headers::HEADERS_MAX) bytes are looked at: of the kind that says most
    /// among those that the front end wants. `None` where it wants none that the packet has. A fragment has no ports.
    #[must_use]
    pub fn hash(&self, frame: &[u8]) -> Option<Hash> {
        if !self.is_on() {
            return None;
        }
        let mut input = Input::default();
        let tcp = self.wants(HashKind::Ipv4Tcp) || self.wants(HashKind::Ipv6Tcp);
        if tcp && let Some(transport) = tcp_of(frame) {
            let kind = match transport.version {
                IpVersion::V4 => HashKind::Ipv4Tcp,
                IpVersion::V6 => HashKind::Ipv6Tcp,
            };
            if self.wants(kind) {
                input.addresses(frame, transport.version, transport.ip.into())?;
                input.add(frame, transport.start.into(), 4)?;
                return Some(self.of(&input, kind));
            }
        }
        let (version, ip) = network(frame)?;
        let kind = match version {
            IpVersion::V4 => HashKind::Ipv4,
            IpVersion::V6 => HashKind::Ipv6,
        };
        if !self.wants(kind) {
            return None;
        }
        input.addresses(frame, version, ip)?;
        Some(self.of(&input, kind))
    }

    /// The queue for a packet with this hash: the mapping's entry at the hash modulo its size, or without a mapping the hash modulo the
    /// number of queues. A packet without a hash goes where a hash of 0 does, as other back ends have it.
    ///
    /// It is below [`queues`](Self::queues). The caller has asked [`is_on`](Self::is_on).
    #[must_use]
    pub fn queue(&self, hash: Option<Hash>) -> usize {
        let value = hash.map_or(0, |hash| hash.value);
        let queue = match NonZeroU32::new(to_u32(self.mapping.len())) {
            Some(size) => {
                let entry = self.mapping.get(to_usize(value % size));
                entry.copied().unwrap_or(0)
            }
            None => value % self.queues,
        };
        to_usize(queue)
    }

    fn wants(&self, kind: HashKind) -> bool {
        self.types & kind.flag() != 0
    }

    fn of(&self, input: &Input, kind: HashKind) -> Hash {
        Hash {
            value: self.toeplitz.hash(input.bytes()),
            kind,
        }
    }

    /// The types of hash there are: `XEN_NETIF_CTRL_HASH_TYPE_*`.
    ///
    /// # Errors
    ///
    /// [`HashFault::NoAlgorithm`].
    pub fn types(&self) -> Result<u32, HashFault> {
        if self.algorithm == XEN_NETIF_CTRL_HASH_ALGORITHM_NONE {
            return Err(HashFault::NoAlgorithm);
        }
        Ok(all_types())
    }

    /// Sets the types of hash to use; 0 for no hashing.
    ///
    /// # Errors
    ///
    /// [`HashFault::Types`], [`HashFault::TypesTooEarly`].
    pub fn set_types(&mut self, types: u32) -> Result<(), HashFault> {
        if types & !all_types() != 0 {
            return Err(HashFault::Types(types));
        }
        if self.algorithm == XEN_NETIF_CTRL_HASH_ALGORITHM_NONE {
            return Err(HashFault::TypesTooEarly(types));
        }
        self.types = types;
        Ok(())
    }

    /// Sets the algorithm. What was said of types, key and mapping stays.
    ///
    /// # Errors
    ///
    /// [`HashFault::Algorithm`].
    pub fn set_algorithm(&mut self, algorithm: u32) -> Result<(), HashFault> {
        let known = [
            XEN_NETIF_CTRL_HASH_ALGORITHM_NONE,
            XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ,
        ];
        let known = known.into_iter().find(|a| u32::from(*a) == algorithm);
        self.algorithm = known.ok_or(HashFault::Algorithm(algorithm))?;
        Ok(())
    }

    /// Whether a key may have so many bytes.
    ///
    /// # Errors
    ///
    /// [`HashFault::KeySize`].
    pub fn check_key_size(size: u32) -> Result<usize, HashFault> {
        let size_fits = |bytes: &usize| *bytes <= HASH_KEY_MAX;
        let bytes = usize::try_from(size).ok().filter(size_fits);
        bytes.ok_or(HashFault::KeySize(size))
    }

    /// Sets the key; the bytes missing are zero.
    ///
    /// # Errors
    ///
    /// [`HashFault::KeySize`].
    pub fn set_key(&mut self, key: &[u8]) -> Result<(), HashFault> {
        Self::check_key_size(to_u32(key.len()))?;
        self.toeplitz = Arc::new(Toeplitz::new(key));
        Ok(())
    }

    /// Makes a new mapping: each entry is queue 0. With 0 entries there is none.
    ///
    /// # Errors
    ///
    /// [`HashFault::MappingSize`].
    pub fn set_mapping_size(&mut self, size: u32) -> Result<(), HashFault> {
        if size > HASH_MAPPING_MAX {
            return Err(HashFault::MappingSize(size));
        }
        self.mapping = vec![0; to_usize(size)];
        Ok(())
    }

    /// Whether the mapping has `count` entries from `first` on: how many bytes they are, as a front end gives them.
    ///
    /// # Errors
    ///
    /// [`HashFault::MappingOverflow`], [`HashFault::MappingRange`].
    pub fn check_mapping_range(&self, first: u32, count: u32) -> Result<usize, HashFault> {
        let end = first.checked_add(count);
        let end = end.filter(|end| *end <= HASH_MAPPING_MAX);
        let end = end.ok_or(HashFault::MappingOverflow { first, count })?;
        let size = self.mapping.len();
        if to_usize(end) > size {
            return Err(HashFault::MappingRange { first, count, size });
        }
        Ok(to_usize(count) * size_of::<u32>())
    }

    /// Sets entries of the mapping from `first` on: all of them, or on an error none.
    ///
    /// # Errors
    ///
    /// As [`check_mapping_range`](Self::check_mapping_range); [`HashFault::MappingQueue`].
    pub fn set_mapping(&mut self, first: u32, entries: &[u32]) -> Result<(), HashFault> {
        let count = to_u32(entries.len());
        self.check_mapping_range(first, count)?;
        let queues = self.queues.get();
        if let Some(&queue) = entries.iter().find(|queue| **queue >= queues) {
            return Err(HashFault::MappingQueue { queue, queues });
        }
        let own = self.mapping.iter_mut().skip(to_usize(first));
        for (own, entry) in own.zip(entries) {
            *own = *entry;
        }
        Ok(())
    }
}

/// All `XEN_NETIF_CTRL_HASH_TYPE_*` that there are.
fn all_types() -> u32 {
    HashKind::ALL
        .iter()
        .fold(0, |types, kind| types | kind.flag())
}

/// Lossless here: the crate is built for 64-bit hosts.
fn to_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// What is longer is too long for everything that asks.
fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
