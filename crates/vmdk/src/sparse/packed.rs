//! Compressed grains, as stream-optimized extents have them. They are only read.

use std::io::{Error, ErrorKind, Read, Result};
use std::sync::PoisonError;

use cantle_image::Storage;

use super::Sparse;
use super::header::{le32, le64};

/// The grain that was read last, by its marker's sector.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    sector: u32,
    bytes: Vec<u8>,
}

/// A grain marker: the grain's sector on the disk, and the bytes that follow.
const MARKER: usize = 12;

impl<S: Storage> Sparse<S> {
    /// Reads from within one grain.
    pub(super) fn read_packed(&self, at: u64, sector: u32, into: &mut [u8]) -> Result<()> {
        let size = self.grain_bytes();
        let grain = at / size;
        let mut last = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if last.sector != sector || last.bytes.is_empty() {
            last.bytes = self.unpack(grain, sector)?;
            last.sector = sector;
        }
        let from = usize::try_from(at % size).unwrap_or(usize::MAX);
        let part = last
            .bytes
            .get(from..)
            .and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(part.ok_or_else(|| broken(grain, "ends early"))?);
        Ok(())
    }

    fn unpack(&self, grain: u64, sector: u32) -> Result<Vec<u8>> {
        let start = u64::from(sector) * 512;
        let mut marker = [0; MARKER];
        self.storage.read_at(start, &mut marker)?;
        if le64(&marker, 0) != grain * self.layout.header.grain {
            return Err(broken(grain, "has the marker of another one"));
        }
        // Deflate makes nothing much longer than it was.
        let size = u64::from(le32(&marker, 8));
        if size > self.grain_bytes() * 2 {
            return Err(broken(grain, "is longer compressed than not"));
        }
        let mut packed = vec![0; usize::try_from(size).map_err(|_| ErrorKind::InvalidData)?];
        self.storage.read_at(start + MARKER as u64, &mut packed)?;
        let mut bytes = Vec::new();
        flate2::read::ZlibDecoder::new(packed.as_slice())
            .take(self.grain_bytes() + 1)
            .read_to_end(&mut bytes)
            .map_err(|_| broken(grain, "cannot be decompressed"))?;
        if bytes.len() as u64 > self.grain_bytes() {
            return Err(broken(grain, "is too long"));
        }
        Ok(bytes)
    }
}

fn broken(grain: u64, how: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("grain {grain} {how}"))
}
