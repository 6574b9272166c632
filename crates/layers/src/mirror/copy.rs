//! From one disk to another, without the zeroes.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::sync::Arc;

use cantle_image::{Extent, Format, Mapped};

use super::MirrorError;
/// The most bytes that are copied at once.
pub(super) const CHUNK: usize = 1 << 20;
/// Zeroes are looked for in steps of so many bytes.
const STEP: usize = 1 << 16;

/// What copies, and what it knows of the target.
pub(super) struct Copier {
    source: Arc<dyn Format>,
    target: Arc<dyn Format>,
    buffer: Vec<u8>,
}

impl Copier {
    pub(super) fn new(source: Arc<dyn Format>, target: Arc<dyn Format>) -> Self {
        Self {
            source,
            target,
            buffer: vec![0; CHUNK],
        }
    }

    /// Copies a part of the disk.
    pub(super) fn copy(&mut self, range: Range<u64>) -> std::result::Result<(), MirrorError> {
        let mut at = range.start;
        while at < range.end {
            let left = (range.end - at).min(CHUNK as u64);
            let (extent, len) = extent(&*self.source, at, left).map_err(MirrorError::Source)?;
            if extent != Extent::Zero {
                let mut buffer = std::mem::take(&mut self.buffer);
                let part = buffer
                    .get_mut(..usize::try_from(len).unwrap_or(CHUNK))
                    .unwrap_or_default();
                let done = self.move_bytes(at, part);
                self.buffer = buffer;
                done?;
            } else {
                self.zero(at..at + len).map_err(MirrorError::Target)?;
            }
            at += len;
        }
        Ok(())
    }

    fn move_bytes(&mut self, at: u64, buffer: &mut [u8]) -> std::result::Result<(), MirrorError> {
        self.source.read(at, buffer).map_err(MirrorError::Source)?;
        let mut at = at;
        let mut rest = &*buffer;
        while !rest.is_empty() {
            let zero = is_zero(rest.get(..STEP.min(rest.len())).unwrap_or_default());
            let mut len = 0;
            while let Some(next) = rest
                .get(len..(len + STEP).min(rest.len()))
                .filter(|next| !next.is_empty())
                && is_zero(next) == zero
            {
                len += next.len();
            }
            let (now, after) = rest.split_at(len);
            let done = if zero {
                self.zero(at..at + len as u64)
            } else {
                self.target.write(at, now)
            };
            done.map_err(MirrorError::Target)?;
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    /// Makes a part of the target read as zeroes. What does already is not written: it may be a hole.
    fn zero(&mut self, range: Range<u64>) -> Result<()> {
        let zeroes = [0; STEP];
        let mut found = [0; STEP];
        let mut at = range.start;
        while at < range.end {
            let (extent, len) = extent(&*self.target, at, range.end - at)?;
            let end = at + len;
            while extent != Extent::Zero && at < end {
                let here = usize::try_from(end - at).unwrap_or(STEP).min(STEP);
                let (found, zeroes) = (found.split_at_mut(here).0, zeroes.split_at(here).0);
                self.target.read(at, found)?;
                if !is_zero(found) {
                    self.target.write(at, zeroes)?;
                }
                at += here as u64;
            }
            at = end;
        }
        Ok(())
    }
}

/// What a disk has there, checked: some bytes, and no more than asked for.
fn extent(format: &dyn Format, at: u64, len: u64) -> Result<(Extent, u64)> {
    let Mapped { extent, len: here } = format.map(at, len)?;
    if here == 0 {
        return Err(Error::new(ErrorKind::InvalidData, "an empty extent"));
    }
    Ok((extent, here.min(len)))
}

fn is_zero(bytes: &[u8]) -> bool {
    // By words, which compilers make vectors of.
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|word| word == &[0; 32]) && rest.iter().all(|byte| *byte == 0)
}
