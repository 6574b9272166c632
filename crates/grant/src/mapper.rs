//! What a back end runs on: other domains' pages as a process sees them.

use cantle_abi::{DomId, Gfn, GrantRef, SharedBytes};

use crate::{GrantStatus, Mapping, Mappings};

/// How a page is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    ReadOnly,
    /// For reading and writing; refused where the grant is read-only.
    ReadWrite,
}

impl Access {
    pub(crate) fn writes(self) -> bool {
        self == Self::ReadWrite
    }
}

/// A system domain's way to the pages that others grant it. Implemented in process by [`InProcessMapper`](crate::InProcessMapper).
pub trait GrantMapper: Send + Sync {
    /// Maps the page that `granter` granted as `gref` (`GNTTABOP_map_grant_ref`). It stays pinned until the mapping is dropped.
    ///
    /// # Errors
    ///
    /// The `GNTST_*` status that Xen would give: [`BAD_DOMAIN`](GrantStatus::BAD_DOMAIN), [`BAD_GNTREF`](GrantStatus::BAD_GNTREF),
    /// [`BAD_PAGE`](GrantStatus::BAD_PAGE); and for an entry that does not grant this, whatever the reason,
    /// [`GENERAL_ERROR`](GrantStatus::GENERAL_ERROR).
    fn map(&self, granter: DomId, gref: GrantRef, access: Access) -> Result<Mapping, GrantStatus>;

    /// Maps many pages of one granter, as [`map`](Self::map) does each: they are given back together. Cheaper than one by one, and
    /// nothing else.
    fn map_all(&self, granter: DomId, wanted: &[(GrantRef, Access)]) -> Mappings {
        Mappings::one_by_one(self, granter, wanted)
    }

    /// Copies between granted pages and this process's own memory, each piece with a status of its own (`GNTTABOP_copy`).
    ///
    /// A piece lies within one page. Work is bounded by the pieces' lengths. Pieces are done in order; a failed one does not stop
    /// the others. A piece without bytes is done at once: nothing about it is checked.
    fn copy(&self, pieces: &mut [CopyPiece<'_>]);
}

/// One piece of a [`GrantMapper::copy`].
#[derive(Debug)]
pub struct CopyPiece<'a> {
    /// Whose page.
    pub granter: DomId,
    /// Which grant.
    pub gref: GrantRef,
    /// Where in the page, in bytes. With the buffer's length it must stay within the page.
    pub offset: u16,
    /// This process's end, and the direction.
    pub local: Local<'a>,
    /// Out: what became of it.
    pub status: Result<(), GrantStatus>,
}

/// This process's end of a copy.
#[derive(Debug)]
pub enum Local<'a> {
    /// Bytes from the granted page into this buffer.
    Into(&'a mut [u8]),
    /// Bytes of this buffer into the granted page.
    From(&'a [u8]),
    /// Bytes of memory that somebody else may write meanwhile (another domain's page, mapped here) into the granted page. Whoever
    /// looks at the page afterwards may find any mixture. The two may be the same memory.
    Shared(SharedBytes<'a>),
}

impl Local<'_> {
    /// What is copied into the granted page, where that is the direction.
    #[must_use]
    pub fn source(&self) -> Option<SharedBytes<'_>> {
        match self {
            Self::Into(_) => None,
            Self::From(buffer) => Some(SharedBytes::from(*buffer)),
            Self::Shared(bytes) => Some(*bytes),
        }
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Into(buffer) => buffer.len(),
            Self::From(buffer) => buffer.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a table's owner finds a frame's memory. Implemented for guests by the host; a test's heap is another.
///
/// # Safety
///
/// [`frame`](Self::frame) returns memory of one page, aligned to a page, that stays mapped, readable and writable while the implementing value lives,
/// whatever the guest does meanwhile.
#[expect(
    unsafe_code,
    reason = "the trait hands out raw memory, which its implementor vouches for"
)]
pub unsafe trait GuestFrames: Send + Sync {
    /// The host address of a frame's first byte; `None` where the guest has no such RAM.
    ///
    /// Called with the lock of a grant held: it should be quick, and call nothing of this crate.
    fn frame(&self, gfn: Gfn) -> Option<std::ptr::NonNull<u8>>;
}
