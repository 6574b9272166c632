//! What a disk has where, holes of its files counted as zeroes.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::ops::Range;
use std::sync::Arc;

use cantle_image::{Extent, Format};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// So much is asked about at a time.
const MAX_ASKED: u64 = 1 << 40;

/// What a part of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Zeroes. In a file, where there is a hole.
    Zero(Option<Place>),
    /// Bytes in a file.
    Data(Place),
    /// Bytes that only the format can read.
    Other,
}

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which of the format's files.
    pub(crate) file: usize,
    /// Where in it.
    pub(crate) offset: u64,
}

/// A part of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Which bytes of it.
    pub(crate) range: Range<u64>,
    /// What they are.
    pub(crate) what: What,
}

/// Walks over a disk.
pub(crate) struct Extents<'a> {
    format: &'a dyn Format,
    files: Vec<Arc<File>>,
    at: u64,
    end: u64,
    /// A range of a file in which there is no hole.
    full: Option<(usize, Range<u64>)>,
}

impl<'a> Extents<'a> {
    /// All of a disk.
    pub(crate) fn new(format: &'a dyn Format) -> Self {
        let end = format.geometry().bytes();
        Self {
            format,
            files: format.files(),
            at: 0,
            end,
            full: None,
        }
    }

    pub(crate) fn files(&self) -> &[Arc<File>] {
        &self.files
    }

    /// The next part; `None` at the disk's end.
    pub(crate) fn next(&mut self) -> Result<Option<Part>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let asked = (self.end - self.at).min(MAX_ASKED);
        let mapped = self.format.map(self.at, asked)?;
        let mut len = mapped.len.min(asked);
        if len == 0 {
            return Err(ErrorKind::InvalidData.into());
        }
        let what = match mapped.extent {
            Extent::Zero => What::Zero(None),
            Extent::Other => What::Other,
            Extent::Data { file, offset, .. } => {
                let place = Place {
                    file: file.into(),
                    offset,
                };
                let (hole, here) = self.hole(place, len);
                len = here;
                if hole {
                    What::Zero(Some(place))
                } else {
                    What::Data(place)
                }
            }
        };
        let range = self.at..self.at + len;
        self.at += len;
        Ok(Some(Part { range, what }))
    }

    /// Whether there is a hole at a place, and for how many of `len` bytes that is so. Where the host does not say there is none.
    fn hole(&mut self, place: Place, len: u64) -> (bool, u64) {
        let Place { file, offset } = place;
        let Some(there) = self.files.get(file) else {
            return (false, len);
        };
        if let Some((_, range)) = self
            .full
            .as_ref()
            .filter(|(known, range)| *known == file && range.contains(&offset))
        {
            return (false, len.min(whole_up(range.end - offset)));
        }
        match rustix::fs::seek(there, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => match whole_down((data - offset).min(len)) {
                0 => (false, 512),
                hole => (true, hole),
            },
            Ok(_) => {
                let hole = rustix::fs::seek(there, SeekFrom::Hole(offset));
                let end = hole.unwrap_or(u64::MAX).max(offset);
                self.full = Some((file, offset..end));
                (false, len.min(whole_up(end - offset)).max(512))
            }
            // No data up to the end; what is behind the end fails when it is read.
            Err(Errno::NXIO) => {
                let end = rustix::fs::seek(there, SeekFrom::End(0)).unwrap_or(0);
                match whole_down(end.saturating_sub(offset).min(len)) {
                    0 => (false, len),
                    hole => (true, hole),
                }
            }
            Err(_) => {
                self.full = Some((file, 0..u64::MAX));
                (false, len)
            }
        }
    }
}

fn whole_down(len: u64) -> u64 {
    len / 512 * 512
}

fn whole_up(len: u64) -> u64 {
    len.checked_next_multiple_of(512).unwrap_or(whole_down(len))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use cantle_image::{RawFormat, RawOptions};

    use super::*;

    #[test]
    fn holes_are_zeroes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        let file = File::create(&path).unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.write_all_at(&[1; 4096], 3 << 20).unwrap();
        let raw = RawFormat::open(&path, &RawOptions::default()).unwrap();
        let mut extents = Extents::new(&raw);
        let (mut at, mut data) = (0, Vec::new());
        while let Some(part) = extents.next().unwrap() {
            assert_eq!(part.range.start, at);
            at = part.range.end;
            if let What::Data(place) = part.what {
                assert_eq!(place.offset, part.range.start);
                data.push(part.range);
            }
        }
        assert_eq!(at, 4 << 20);
        // Larger blocks are a matter of the file system.
        assert_eq!(data.len(), 2, "{data:?}");
        for (range, at) in data.iter().zip([1_u64 << 20, 3 << 20]) {
            assert!(range.contains(&at) && range.contains(&(at + 4095)));
            assert!(range.end - range.start <= 1 << 16);
        }
    }
}
