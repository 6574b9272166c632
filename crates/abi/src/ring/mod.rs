//! The shared ring of `io/ring.h`: requests one way, responses the other, in the same slots, with the rules that
//! spare notifications (`req_event`, `rsp_event`).
//!
//! Two layers. [`protocol`] is the two index rules alone, generic over the atomics, so that loom can try every
//! interleaving. [`BackRing`] and [`FrontRing`] add the slots over [`RingMemory`]: any [`SharedMemory`](crate::SharedMemory),
//! or several pages that are each mapped somewhere else ([`Paged`]), where a slot may begin in one page and end in another. A slot is copied
//! out of shared memory once; what is returned is a private copy that the other side can no longer change.
//!
//! A peer whose indices break the rules gets [`RingBroken`], and the ring is to be given up: nothing is read from it
//! any more. No call does more work than one slot.

mod back;
mod bytes;
mod front;
#[cfg(any(test, doctest, feature = "std"))]
mod heap;
mod memory;
mod paged;
pub mod protocol;

pub use back::BackRing;
pub use bytes::ByteRing;
pub use front::{FrontRing, RingFull};
#[cfg(any(test, doctest, feature = "std"))]
pub use heap::HeapPages;
pub use memory::{RING_HEADER_SIZE, RingMemory, slots};
pub use paged::{MAX_RING_PAGES, Paged, PagedError};

use core::fmt;

/// The other side moved an index to where it cannot be, or the memory is no ring of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingBroken {
    /// The producer index as the peer wrote it.
    pub prod: u32,
    /// The consumer index on this side.
    pub cons: u32,
}

impl fmt::Display for RingBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ring index out of range: producer {}, consumer {}",
            self.prod, self.cons
        )
    }
}

impl core::error::Error for RingBroken {}
