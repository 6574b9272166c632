//! What can be wrong with what a front end says of hashing.

use cantle_abi::io::netif::{
    XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW, XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER,
    XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
};

/// What a front end asked for that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashFault {
    /// The types are asked for while there is no algorithm.
    #[error("no hash algorithm has been chosen")]
    NoAlgorithm,
    /// The types are set while there is no algorithm.
    #[error("hash types {0:#x} before an algorithm has been chosen")]
    TypesTooEarly(u32),
    /// There is no such algorithm.
    #[error("no hash algorithm {0}")]
    Algorithm(u32),
    /// There is no such type.
    #[error("no such hash types: {0:#x}")]
    Types(u32),
    /// The key is longer than [`HASH_KEY_MAX`](super::HASH_KEY_MAX).
    #[error("a hash key of {0} bytes")]
    KeySize(u32),
    /// The mapping is larger than [`HASH_MAPPING_MAX`](super::HASH_MAPPING_MAX).
    #[error("a hash mapping of {0} entries")]
    MappingSize(u32),
    /// These entries are beyond [`HASH_MAPPING_MAX`](super::HASH_MAPPING_MAX).
    #[error("{count} entries of a hash mapping from {first} on are more than fit")]
    MappingOverflow {
        /// The first entry's number.
        first: u32,
        /// How many.
        count: u32,
    },
    /// These entries are not in the mapping.
    #[error("{count} entries from {first} on in a hash mapping of {size}")]
    MappingRange {
        /// The first entry's number.
        first: u32,
        /// How many.
        count: u32,
        /// The mapping's size.
        size: usize,
    },
    /// An entry has a queue that the device does not have.
    #[error("queue {queue} in the hash mapping of a device with {queues}")]
    MappingQueue {
        /// The entry.
        queue: u32,
        /// How many queues there are.
        queues: u32,
    },
}

impl HashFault {
    /// Its `XEN_NETIF_CTRL_STATUS_*`.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::NoAlgorithm => XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
            Self::KeySize(_) | Self::MappingOverflow { .. } => {
                XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW
            }
            Self::TypesTooEarly(_)
            | Self::Algorithm(_)
            | Self::Types(_)
            | Self::MappingSize(_)
            | Self::MappingRange { .. }
            | Self::MappingQueue { .. } => XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER,
        }
    }
}
