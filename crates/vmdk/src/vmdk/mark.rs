//! The marks of an image in use: its content id changes and its extents are unclean, before anything else is written.

use std::hash::{BuildHasher, RandomState};
use std::io::Result;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use cantle_image::Storage;

use super::Vmdk;
use crate::descriptor::NO_PARENT;
use crate::part::{Kind, Part};

impl<S: Storage + Clone> Vmdk<S> {
    /// Marks the image, on the medium, unless it is already.
    pub(super) fn mark(&self) -> Result<()> {
        // Pairs with the store below: who sees it, sees an image that is marked on the medium.
        if self.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let _alone = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        for part in &self.parts {
            if let Kind::Sparse { sparse, .. } = &part.kind {
                sparse.set_unclean(true)?;
            }
        }
        let place = &self.descriptor.cid_at;
        let (cid, digits) = new_cid(self.cid(), place.len());
        self.head
            .write_at(self.descriptor_at + place.start as u64, digits.as_bytes())?;
        self.head.sync()?;
        self.sync_extents()?;
        self.cid.store(cid, Ordering::Relaxed);
        self.marked.store(true, Ordering::Release);
        Ok(())
    }

    fn sync_extents(&self) -> Result<()> {
        for part in &self.parts {
            if let Kind::Sparse { sparse, .. } = &part.kind {
                sparse.storage().sync()?;
            }
        }
        Ok(())
    }

    /// Flushes, and says on the medium that the image is whole. To be called when nothing is under way and what
    /// [`map`](cantle_image::Format::map) said is forgotten; a later write marks the image anew. Where a flush has failed, the image stays
    /// marked, and is checked when it is opened next.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn close(&self) -> Result<()> {
        let _alone = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        self.flush_all()?;
        if self.has_failed() {
            return Ok(());
        }
        self.marked.store(false, Ordering::Release);
        for part in &self.parts {
            if let Kind::Sparse { sparse, .. } = &part.kind {
                sparse.set_unclean(false)?;
            }
        }
        self.sync_extents()
    }

    /// Brings everything to the medium.
    pub(super) fn flush_all(&self) -> Result<()> {
        let result = self.flush_parts();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn has_failed(&self) -> bool {
        let sparse = |part: &Part<S>| match &part.kind {
            Kind::Sparse { sparse, .. } => sparse.has_failed(),
            Kind::Flat { .. } | Kind::Zero => false,
        };
        self.failed.load(Ordering::Relaxed) || self.parts.iter().any(sparse)
    }

    fn flush_parts(&self) -> Result<()> {
        for part in &self.parts {
            match &part.kind {
                Kind::Flat { storage, .. } => storage.sync()?,
                Kind::Sparse { sparse, .. } => sparse.flush()?,
                Kind::Zero => {}
            }
        }
        Ok(())
    }
}

/// Another content id, in so many digits (1 to 8).
fn new_cid(old: u32, digits: usize) -> (u32, String) {
    let mask = u32::MAX >> (32 - 4 * digits.clamp(1, 8));
    let random = RandomState::new().hash_one(old);
    let bytes = random.to_le_bytes();
    let mut cid = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) & mask;
    while cid == old || cid == NO_PARENT {
        cid = cid.wrapping_add(1) & mask;
    }
    (cid, format!("{cid:0digits$x}"))
}

/// A content id for a new image.
pub(crate) fn first_cid() -> u32 {
    new_cid(NO_PARENT, 8).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_content_id_is_another_in_as_many_digits() {
        for digits in 1..=8 {
            for old in [0, 1, 0xf, NO_PARENT] {
                let (cid, text) = new_cid(old, digits);
                assert!(cid != old && cid != NO_PARENT);
                assert_eq!(text.len(), digits);
                assert_eq!(u32::from_str_radix(&text, 16), Ok(cid));
            }
        }
    }
}
