//! A part of the disk: an extent, where it begins.

use cantle_image::Storage;

use crate::descriptor::Access;
use crate::sparse::Sparse;

#[derive(Debug)]
pub(crate) struct Part<S> {
    /// The first sector on the disk. It goes to where the next one begins, or the disk ends.
    pub(crate) start: u64,
    pub(crate) access: Access,
    pub(crate) kind: Kind<S>,
}

#[derive(Debug)]
pub(crate) enum Kind<S> {
    Flat {
        storage: S,
        /// Which of the image's files.
        file: u16,
        /// Where it begins there, in bytes.
        offset: u64,
    },
    Sparse {
        sparse: Box<Sparse<S>>,
        file: u16,
    },
    Zero,
}

impl<S: Storage + Clone> Part<S> {
    pub(crate) fn zero(start: u64) -> Self {
        Self {
            start,
            access: Access::ReadOnly,
            kind: Kind::Zero,
        }
    }

    /// `None` where the numbers make no sense. The file's length is not looked at.
    pub(crate) fn flat(
        start: u64,
        sectors: u64,
        access: Access,
        file: usize,
        storage: &S,
        offset: u64,
    ) -> Option<Self> {
        offset.checked_add(sectors)?.checked_mul(512)?;
        Some(Self {
            start,
            access,
            kind: Kind::Flat {
                storage: storage.clone(),
                file: u16::try_from(file).ok()?,
                offset: offset * 512,
            },
        })
    }

    /// `None` where the extent is not that large.
    pub(crate) fn sparse(
        start: u64,
        sectors: u64,
        access: Access,
        file: usize,
        sparse: Sparse<S>,
    ) -> Option<Self> {
        if sectors > sparse.layout().header.capacity {
            return None;
        }
        Some(Self {
            start,
            access,
            kind: Kind::Sparse {
                sparse: Box::new(sparse),
                file: u16::try_from(file).ok()?,
            },
        })
    }
}
