//! What the image is as a [`Format`].

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cantle_image::{Extent, Format, Geometry, Mapped, Storage};

use super::Vmdk;
use crate::parent::{Parent, Under};
use crate::part::{Kind, Part};
use crate::punch::punch;
use crate::sparse::Place;

impl<S: Storage + Clone> Format for Vmdk<S> {
    fn geometry(&self) -> Geometry {
        // Pairs with the store of `grow`: who sees the new size finds room behind it.
        let sectors = self.sectors.load(Ordering::Acquire);
        Geometry {
            read_only: self.read_only,
            discard: !self.read_only,
            ..Geometry::new(sectors)
        }
    }

    fn files(&self) -> Vec<Arc<File>> {
        let mut files: Vec<_> = self.files.iter().map(Storage::file).collect();
        if let Some(parent) = &self.parent {
            files.extend(parent.format.files());
        }
        files
    }

    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        let (part, at, len) = self.part(offset, len)?;
        // Before the marks are on the medium, writing has to come here.
        let writable = self.marked.load(Ordering::Acquire);
        let data = |file, offset| Extent::Data {
            file,
            offset,
            writable,
        };
        let (extent, len) = match &part.kind {
            Kind::Zero => (Extent::Zero, len),
            Kind::Flat { file, offset, .. } => (data(*file, offset + at), len),
            Kind::Sparse { sparse, file } => match sparse.locate(at, len)? {
                (Place::At(place), len) => (data(*file, place), len),
                (Place::Zero, len) => (Extent::Zero, len),
                (Place::Packed(_), len) => (Extent::Other, len),
                (Place::Nothing, len) => match &self.parent {
                    Some(parent) => return self.map_parent(parent, offset, len),
                    None => (Extent::Zero, len),
                },
            },
        };
        Ok(Mapped { extent, len })
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let (mut offset, mut rest) = (offset, into);
        while !rest.is_empty() {
            let (part, at, len) = self.part(offset, rest.len() as u64)?;
            let len = usize::try_from(len).map_or(rest.len(), |len| len.min(rest.len()));
            let (here, after) = rest.split_at_mut(len);
            match &part.kind {
                Kind::Zero => here.fill(0),
                Kind::Flat {
                    storage, offset, ..
                } => storage.read_at(offset + at, here)?,
                Kind::Sparse { sparse, .. } => sparse.read(at, here, self.under(part))?,
            }
            offset += len as u64;
            rest = after;
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        if self.read_only {
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.mark()?;
        let (mut offset, mut rest) = (offset, from);
        while !rest.is_empty() {
            let (part, at, len) = self.part(offset, rest.len() as u64)?;
            let len = usize::try_from(len).map_or(rest.len(), |len| len.min(rest.len()));
            let (here, after) = rest.split_at(len);
            match &part.kind {
                Kind::Zero => return Err(ErrorKind::PermissionDenied.into()),
                Kind::Flat {
                    storage, offset, ..
                } => storage.write_at(offset + at, here)?,
                Kind::Sparse { sparse, .. } => {
                    sparse.write(at, here, self.under(part))?;
                }
            }
            offset += len as u64;
            rest = after;
        }
        Ok(())
    }

    /// Frees the host's blocks in place, and only those: grains stay where they are, so that tables need not change and nothing can be
    /// lost between them. Where the host cannot punch holes, nothing happens.
    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        if self.read_only {
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.mark()?;
        let (mut offset, mut left) = (offset, len);
        while left > 0 {
            let (part, at, here) = self.part(offset, left)?;
            match &part.kind {
                Kind::Zero => {}
                Kind::Flat {
                    storage, offset, ..
                } => punch(storage, offset + at, here)?,
                Kind::Sparse { sparse, .. } => sparse.discard(at, here)?,
            }
            offset += here;
            left -= here;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.flush_all()
    }

    /// Where the last extent is flat, has its file's end for itself, and the descriptor fits into one sector, so that it is
    /// written whole or not at all.
    fn grow(&self, sectors: u64) -> Result<()> {
        self.grow_flat(sectors)
    }
}

impl<S: Storage + Clone> Vmdk<S> {
    /// The part that a byte of the disk is in, the byte's place there, and how many of `len` bytes are there, too.
    fn part(&self, offset: u64, len: u64) -> Result<(&Part<S>, u64, u64)> {
        let sector = offset / 512;
        let next = self.parts.partition_point(|part| part.start <= sector);
        let part = next.checked_sub(1).and_then(|at| self.parts.get(at));
        let part = part.ok_or(ErrorKind::InvalidInput)?;
        let end = self.parts.get(next).map_or_else(
            || self.sectors.load(Ordering::Acquire),
            |following| following.start,
        );
        let left = (end * 512).saturating_sub(offset);
        if left == 0 || len == 0 {
            return Err(ErrorKind::InvalidInput.into());
        }
        Ok((part, offset - part.start * 512, left.min(len)))
    }

    fn under(&self, part: &Part<S>) -> Under<'_> {
        Under {
            parent: self.parent.as_ref(),
            base: part.start * 512,
        }
    }

    /// The parent's word, with its files numbered after ours.
    fn map_parent(&self, parent: &Parent, offset: u64, len: u64) -> Result<Mapped> {
        let there = parent.format.geometry().bytes().saturating_sub(offset);
        if there == 0 {
            let extent = Extent::Zero;
            return Ok(Mapped { extent, len });
        }
        let mapped = parent.format.map(offset, len.min(there))?;
        let extent = match mapped.extent {
            Extent::Data { file, offset, .. } => u16::try_from(self.files.len())
                .ok()
                .and_then(|own| own.checked_add(file))
                .map_or(Extent::Other, |file| Extent::Data {
                    file,
                    offset,
                    writable: false,
                }),
            other => other,
        };
        Ok(Mapped { extent, ..mapped })
    }
}
