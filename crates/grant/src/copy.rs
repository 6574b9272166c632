//! Copying by grant: pin, move the bytes, unpin.
//!
//! Bytes move by plain `memcpy`. Stores that go past the caches took seven times as long for pages that are in them, and a tenth longer for
//! pages that are not; `rep movsb` and a loop of wide registers came out within a few per cent of it.

// UNSAFETY: bytes move from and to memory that other parties write meanwhile.
#![expect(unsafe_code)]

use std::ptr::NonNull;

use cantle_abi::{DomId, GrantRef, PAGE_SIZE};

use crate::entries::KIND_FOR_COPY;
use crate::{GrantStatus, GrantTable, Local};

/// A page that is pinned for one copy.
pub(crate) struct Pinned<'a> {
    table: &'a GrantTable,
    gref: GrantRef,
    write: bool,
    page: NonNull<u8>,
}

impl<'a> Pinned<'a> {
    /// Pins a granted page for `len` bytes at `offset`, which the caller knows to be within a page.
    pub(crate) fn new(
        table: &'a GrantTable,
        gref: GrantRef,
        grantee: DomId,
        write: bool,
        offset: u16,
        len: usize,
    ) -> Result<Self, GrantStatus> {
        let page = table.pin(gref, grantee, write, KIND_FOR_COPY)?;
        let pinned = Self {
            table,
            gref,
            write,
            page: page.ptr,
        };
        // A version 2 entry may grant a part of the page only.
        if page.part.contains(offset, len) {
            Ok(pinned)
        } else {
            Err(GrantStatus::GENERAL_ERROR)
        }
    }
}

impl Pinned<'_> {
    /// Lets the processor fetch the page's beginning while it does something else.
    pub(crate) fn fetch_ahead(&self) {
        #[cfg(target_arch = "x86_64")]
        for line in 0..8 {
            // SAFETY: a hint; it faults on no address, and this one is within the page.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(self.page.as_ptr().add(line * 64).cast());
            }
        }
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.table.unpin(self.gref, self.write);
    }
}

/// One end of a guest's copy: a granted page, or one of the guest's own frames.
pub(crate) enum End<'a> {
    Granted(Pinned<'a>),
    Own {
        /// Keeps the frame's memory.
        _table: &'a GrantTable,
        page: NonNull<u8>,
    },
}

impl End<'_> {
    fn page(&self) -> NonNull<u8> {
        match self {
            Self::Granted(pinned) => pinned.page,
            Self::Own { page, .. } => *page,
        }
    }

    pub(crate) fn count(&self, bytes: u64) {
        if let Self::Granted(pinned) = self {
            pinned.table.count_copies(1, bytes);
        }
    }
}

/// Whether `len` bytes at `offset` lie within a page.
pub(crate) fn within_page(offset: u16, len: usize) -> Result<(), GrantStatus> {
    match usize::from(offset).checked_add(len) {
        Some(end) if end <= PAGE_SIZE => Ok(()),
        _ => Err(GrantStatus::BAD_COPY_ARG),
    }
}

/// Pins the page of one piece, after a look at its range. The grant is looked at anew, whatever came before.
pub(crate) fn pin_local<'a>(
    table: &'a GrantTable,
    gref: GrantRef,
    grantee: DomId,
    offset: u16,
    local: &Local<'_>,
) -> Result<Pinned<'a>, GrantStatus> {
    within_page(offset, local.len())?;
    let write = local.source().is_some();
    Pinned::new(table, gref, grantee, write, offset, local.len())
}

/// Copies one piece between a pinned page and this process's memory, as [`pin_local`] pinned it.
pub(crate) fn copy_local(
    pinned: &Pinned<'_>,
    offset: u16,
    local: &mut Local<'_>,
) -> Result<(), GrantStatus> {
    within_page(offset, local.len())?;
    match local {
        Local::Into(buffer) => {
            // SAFETY: the page is pinned and its memory kept by the table; the range is within it, and the buffer is ours alone,
            // so they do not overlap. The guest may write the page meanwhile: what arrives is then a mixture of old and new
            // bytes, each of them a valid u8. The compiler can assume nothing about memory reached through a pointer that
            // it did not make, and emits a plain memcpy.
            unsafe {
                let from = pinned.page.as_ptr().add(usize::from(offset));
                from.copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len());
            }
        }
        Local::From(buffer) => {
            // SAFETY: as above, the other way; the guest sees a mixture while it looks too early.
            unsafe {
                let to = pinned.page.as_ptr().add(usize::from(offset));
                to.copy_from_nonoverlapping(buffer.as_ptr(), buffer.len());
            }
        }
        Local::Shared(bytes) => {
            // SAFETY: as above. A page may be granted for both ends, hence the kind of copy that allows it.
            unsafe {
                let to = pinned.page.as_ptr().add(usize::from(offset));
                to.copy_from(bytes.as_ptr(), bytes.len());
            }
        }
    }
    Ok(())
}

/// Copies between two pages, which may be one.
pub(crate) fn copy_pages(
    from: &End<'_>,
    from_offset: u16,
    to: &End<'_>,
    to_offset: u16,
    len: usize,
) -> Result<(), GrantStatus> {
    within_page(from_offset, len)?;
    within_page(to_offset, len)?;
    // SAFETY: both ends hold their page, and both ranges are within them. The ranges may overlap where the pages are one,
    // hence the kind of copy that allows it. For guests that write meanwhile see `copy_local`.
    unsafe {
        let from = from.page().as_ptr().add(usize::from(from_offset));
        let to = to.page().as_ptr().add(usize::from(to_offset));
        from.copy_to(to, len);
    }
    Ok(())
}
