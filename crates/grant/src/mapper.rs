//! What a back end runs on: other domains' pages as a process sees them.

use cantle_abi::{DomId, Gfn, GrantRef};

use crate::{GrantStatus, Mapping};

/// How a page is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    ReadOnly,
    /// For reading and writing; refused where the grant is read-only.
    ReadWrite,
}

/// A system domain's way to the pages that others grant it. Implemented in process by [`InProcessMapper`](crate::InProcessMapper).
pub trait GrantMapper: Send + Sync {
    /// Maps the page that `granter` granted as `gref` (`GNTTABOP_map_grant_ref`). It stays pinned until the mapping is dropped.
    ///
    /// # Errors
    ///
    /// The `GNTST_*` status that Xen would give: bad domain, bad reference, permission denied, bad page, no space.
    fn map(&self, granter: DomId, gref: GrantRef, access: Access) -> Result<Mapping, GrantStatus>;

    /// Copies between granted pages and this process's own memory, each piece with a status of its own (`GNTTABOP_copy`).
    ///
    /// A piece lies within one page. Work is bounded by the pieces' lengths. Pieces are done in order; a failed one does not stop
    /// the others.
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
}

/// How a table's owner finds a frame's memory. Implemented for guests by the host; a test's heap is another.
///
/// # Safety
///
/// [`frame`](Self::frame) returns memory of one page that stays mapped, readable and writable while the implementing value lives,
/// whatever the guest does meanwhile.
#[expect(unsafe_code, reason = "the trait hands out raw memory, which its implementor vouches for")]
pub unsafe trait GuestFrames: Send + Sync {
    /// The host address of a frame's first byte; `None` where the guest has no such RAM.
    fn frame(&self, gfn: Gfn) -> Option<std::ptr::NonNull<u8>>;
}
