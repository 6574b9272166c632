//! Compressed clusters: read only; what is written to one is written anew, uncompressed.

use std::io::{Error, ErrorKind, Read, Result};
use std::sync::Arc;

use crate::header::Compression;
use crate::shape::read_padded;
use crate::tables::Tables;

/// Zstandard's window, as a power of two. A cluster has 2 MiB at most.
const WINDOW_LOG_MAX: u32 = 23;

impl Tables {
    /// The cluster of which `len` compressed bytes are at `host`: not more than twice a cluster. The last one is remembered.
    pub(crate) fn inflate(&mut self, host: u64, len: u64) -> Result<Arc<Vec<u8>>> {
        if let Some((at, plain)) = &self.inflated
            && *at == host
        {
            return Ok(Arc::clone(plain));
        }
        if host >= self.end {
            return Err(crate::shape::invalid(
                "a compressed cluster is beyond the end of the file",
            ));
        }
        let mut packed = vec![0; usize::try_from(len).map_err(|_| ErrorKind::InvalidData)?];
        read_padded(&*self.storage, host, &mut packed)?;
        let mut plain = vec![0; self.shape.cluster_len()];
        let inflated = match self.shape.compression {
            Compression::Deflate => {
                flate2::read::DeflateDecoder::new(&*packed).read_exact(&mut plain)
            }
            Compression::Zstd => unzstd(&packed, &mut plain),
        };
        inflated.map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        let plain = Arc::new(plain);
        self.inflated = Some((host, Arc::clone(&plain)));
        Ok(plain)
    }
}

fn unzstd(packed: &[u8], plain: &mut [u8]) -> Result<()> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    decoder.read_exact(plain)
}
