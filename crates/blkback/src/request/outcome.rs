//! What becomes of a request, in words and in the protocol's numbers.

use cantle_abi::GrantRef;
use cantle_abi::io::blkif::{BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY};
use cantle_grant::GrantStatus;

use crate::image::{ImageError, OutsidePages};

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// An operation that is unknown or was not offered.
    #[error("operation {operation} is not supported")]
    Unsupported {
        /// `BLKIF_OP_*`, or anything.
        operation: u8,
    },
    /// More segments than a slot holds or than were offered, or none for a transfer.
    #[error("{0} segments")]
    SegmentCount(u16),
    /// A segment that ends before it begins, leaves its page, or is not of whole sectors of the disk.
    #[error("a segment from sector {first} to {last} of its page")]
    Segment {
        /// `first_sect`.
        first: u8,
        /// `last_sect`.
        last: u8,
    },
    /// Not on the disk, or nothing.
    #[error("{count} sectors from sector {sector} are not on the disk")]
    OutOfRange {
        /// The first sector.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// Not in whole sectors of the disk.
    #[error("{count} sectors from sector {sector} are not whole sectors of the disk")]
    Misaligned {
        /// The first sector.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// A write to a read-only disk.
    #[error("the disk is read-only")]
    ReadOnly,
    /// A page could not be mapped, or the page of its segments not be copied.
    #[error("grant {gref} cannot be mapped")]
    Grant {
        /// Which.
        gref: GrantRef,
        /// What Xen's interface calls it.
        source: GrantStatus,
    },
    /// A page was mapped and is smaller than a page.
    #[error("a mapped page is too small")]
    Page(#[from] OutsidePages),
    /// The image failed.
    #[error("the image failed")]
    Image(#[from] ImageError),
}

/// What a guest is told: the one place where an outcome becomes a `BLKIF_RSP_*`.
#[must_use]
pub fn status(outcome: Result<(), RequestError>) -> i16 {
    match outcome {
        Ok(()) => BLKIF_RSP_OKAY,
        Err(RequestError::Unsupported { .. } | RequestError::Image(ImageError::Unsupported)) => {
            BLKIF_RSP_EOPNOTSUPP
        }
        Err(_) => BLKIF_RSP_ERROR,
    }
}
