//! A guest's pages, mapped for requests: one by one, in batches, or kept.

use std::collections::HashMap;
use std::sync::Arc;

use cantle_abi::io::blkif::{BLKIF_MAX_SEGMENTS_PER_REQUEST, BlkifRequestSegment};
use cantle_abi::{DomId, GrantRef};
use cantle_grant::{Access, CopyPiece, GrantMapper, GrantStatus, Local, Mapping, PersistentCache};
use zerocopy::{FromZeros, IntoBytes};

use crate::image::{BlockImage, BufferId, Io, Pages};
use crate::options::BackendOptions;
use crate::request::{Indirect, PagePart, RequestError};

/// From so many pages on, a batch is cheaper than each by itself.
const BATCH: usize = 3;

/// One guest's pages.
pub(crate) struct GuestPages {
    grants: Arc<dyn GrantMapper>,
    granter: DomId,
    kept: Option<Kept>,
    wanted: Vec<(GrantRef, Access)>,
    segments: Vec<BlkifRequestSegment>,
}

/// Pages that stay mapped: what the front end has agreed to.
struct Kept {
    cache: PersistentCache,
    /// Those that the image knows by a number.
    known: HashMap<GrantRef, BufferId>,
    /// Those that are kept no longer, while requests in flight may still name them by their numbers. There are no more than numbers.
    retired: Vec<(Arc<Mapping>, BufferId)>,
}

impl GuestPages {
    pub(crate) fn new(
        grants: Arc<dyn GrantMapper>,
        granter: DomId,
        persistent: bool,
        options: &BackendOptions,
    ) -> Self {
        let keep = persistent && options.persistent_pages != 0;
        Self {
            grants,
            granter,
            kept: keep.then(|| {
                let mut cache = PersistentCache::new(options.persistent_pages);
                cache.hold_evicted();
                Kept {
                    cache,
                    known: HashMap::new(),
                    retired: Vec::new(),
                }
            }),
            wanted: Vec::with_capacity(BLKIF_MAX_SEGMENTS_PER_REQUEST),
            segments: Vec::new(),
        }
    }

    /// Copies an indirect request's segments out of their page, once.
    pub(crate) fn segments(
        &mut self,
        indirect: &Indirect,
    ) -> Result<&[BlkifRequestSegment], RequestError> {
        let count = usize::from(indirect.segments);
        self.segments
            .resize_with(count, BlkifRequestSegment::new_zeroed);
        let gref = indirect.page;
        let mut pieces = [CopyPiece {
            granter: self.granter,
            gref,
            offset: 0,
            local: Local::Into(self.segments.as_mut_bytes()),
            status: Ok(()),
        }];
        self.grants.copy(&mut pieces);
        let [piece] = pieces;
        piece
            .status
            .map_err(|source| RequestError::Grant { gref, source })?;
        Ok(&self.segments)
    }

    /// Maps the parts' pages and adds them to `io`. On an error some may have been added: the caller lets go of them.
    pub(crate) fn map(
        &mut self,
        parts: &[PagePart],
        access: Access,
        image: &mut dyn BlockImage,
        io: &mut Io,
    ) -> Result<(), RequestError> {
        if let Some(kept) = &mut self.kept {
            for part in parts {
                // For writing, whatever it is used for now: the next request may be another, and that is what was agreed.
                let page = kept
                    .page(&*self.grants, self.granter, part.gref, image)
                    .map_err(refused(part.gref))?;
                // Most images know none, and then nobody looks for one.
                let number = match kept.known.is_empty() {
                    true => None,
                    false => kept.known.get(&part.gref).copied(),
                };
                let (offset, len) = (part.offset.into(), part.len.into());
                io.push_registered(Pages::Kept(page), offset, len, number)?;
            }
            return Ok(());
        }
        if parts.len() < BATCH {
            for part in parts {
                let page = self
                    .grants
                    .map(self.granter, part.gref, access)
                    .map_err(refused(part.gref))?;
                io.push(Pages::Granted(page), part.offset.into(), part.len.into())?;
            }
            return Ok(());
        }
        self.wanted.clear();
        self.wanted
            .extend(parts.iter().map(|part| (part.gref, access)));
        let pages = Arc::new(self.grants.map_all(self.granter, &self.wanted));
        for (index, part) in parts.iter().enumerate() {
            // Each is looked at, and the first that failed is the answer: none that comes later can hide it (XSA-365).
            pages.get(index).map_err(refused(part.gref))?;
            let page = Pages::Batch(Arc::clone(&pages), index);
            io.push(page, part.offset.into(), part.len.into())?;
        }
        Ok(())
    }

    /// Forgets what the image knows by numbers: another image comes.
    pub(crate) fn unregister_all(&mut self, image: &mut dyn BlockImage) {
        if let Some(kept) = &mut self.kept {
            let retired = kept.retired.drain(..).map(|(_, number)| number);
            for number in kept.known.drain().map(|(_, number)| number).chain(retired) {
                image.unregister(number);
            }
        }
    }

    /// Lets go of pages that are kept no longer and whose last request is over.
    pub(crate) fn sweep(&mut self, image: &mut dyn BlockImage) {
        if let Some(kept) = &mut self.kept {
            kept.retired.retain(|(page, number)| {
                let in_use = Arc::strong_count(page) > 1;
                if !in_use {
                    image.unregister(*number);
                }
                in_use
            });
        }
    }

    /// How many pages stay mapped.
    pub(crate) fn kept(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.cache.len())
    }
}

fn refused(gref: GrantRef) -> impl Fn(GrantStatus) -> RequestError {
    move |source| RequestError::Grant { gref, source }
}

impl Kept {
    fn page(
        &mut self,
        grants: &dyn GrantMapper,
        granter: DomId,
        gref: GrantRef,
        image: &mut dyn BlockImage,
    ) -> Result<Arc<Mapping>, GrantStatus> {
        let before = self.cache.stats().misses;
        let page = self.cache.map(grants, granter, gref, Access::ReadWrite)?;
        if self.cache.stats().misses != before {
            // What went for it stays mapped for as long as a request, this one perhaps, may name it by its number.
            for gone in self.cache.take_evicted() {
                if let Some(number) = self.known.remove(&gone.gref()) {
                    self.retired.push((gone, number));
                }
            }
            if let Some(number) = self.known.remove(&gref) {
                image.unregister(number);
            }
            if let Some(number) = image.register(&*page) {
                self.known.insert(gref, number);
            }
        }
        Ok(page)
    }
}
