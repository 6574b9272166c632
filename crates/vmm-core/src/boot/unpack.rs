//! Decompression of a kernel's payload, by its magic, into memory of bounded size.

use std::fmt;
use std::io::Read;

use super::image::ImageError;

/// The most that a payload may unpack to, in bytes. A vmlinux with everything built in has about 100 MiB.
pub const MAX_UNPACKED: usize = 1 << 30;

/// What XZ's decoder may use for its dictionary, in bytes.
const XZ_MEMORY: u64 = 256 << 20;

/// What an LZ4 legacy block unpacks to at the most, in bytes; only the last of a frame may be shorter.
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// How a kernel is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Packing {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// XZ.
    Xz,
    /// LZ4's legacy frame, which is what Linux uses.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Packing {
    /// What `bytes` is packed with; `None` if it is nothing known.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x7f, b'E', b'L', b'F', ..] => Some(Self::None),
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [a, b, c, d, ..] if [*a, *b, *c, *d] == LZ4_MAGIC => Some(Self::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Xz => "XZ",
            Self::Lz4 => "LZ4",
            Self::Zstd => "Zstandard",
        })
    }
}

/// Unpacks `packed`. `size` is what it must unpack to, where that is known: a payload that lies about it is refused.
///
/// # Errors
///
/// [`ImageError::Unpack`] for anything that does not decode cleanly, does not give `size`, or gives more than
/// [`MAX_UNPACKED`].
pub(super) fn unpack(
    packing: Packing,
    packed: &[u8],
    size: Option<u32>,
) -> Result<Vec<u8>, ImageError> {
    let fail = |reason: String| ImageError::Unpack { packing, reason };
    let limit = match size.map(usize::try_from) {
        None => MAX_UNPACKED,
        Some(Ok(size)) if size <= MAX_UNPACKED => size,
        Some(_) => {
            return Err(fail(format!(
                "it says that it has more than {MAX_UNPACKED} bytes"
            )));
        }
    };
    // Address space only: a page costs memory when a decoder has written to it.
    let mut out = Vec::new();
    out.try_reserve_exact(size.map_or(packed.len().saturating_mul(4).min(limit), |_| limit))
        .map_err(|e| fail(e.to_string()))?;
    match packing {
        Packing::None => return Err(fail("nothing to unpack".to_owned())),
        Packing::Gzip => read_to(flate2::bufread::GzDecoder::new(packed), &mut out, limit),
        // At once where the size is known: a third faster than through the decoder's window.
        Packing::Zstd if size.is_some() => zstd::bulk::Decompressor::new()
            .and_then(|mut decoder| decoder.decompress_to_buffer(packed, &mut out))
            .map(drop)
            .map_err(|e| e.to_string()),
        Packing::Zstd => zstd::stream::read::Decoder::with_buffer(packed)
            .map_err(|e| e.to_string())
            .and_then(|decoder| read_to(decoder, &mut out, limit)),
        Packing::Xz => liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)
            .map_err(|e| e.to_string())
            .and_then(|stream| {
                read_to(
                    liblzma::bufread::XzDecoder::new_stream(packed, stream),
                    &mut out,
                    limit,
                )
            }),
        Packing::Lz4 => lz4_frame(packed, &mut out, limit),
    }
    .map_err(fail)?;
    match size {
        Some(size) if out.len() != limit => Err(fail(format!(
            "it says that it has {size} bytes, but it has {}",
            out.len()
        ))),
        _ => Ok(out),
    }
}

/// Everything that `from` gives, if that is not more than `limit` bytes.
fn read_to(from: impl Read, out: &mut Vec<u8>, limit: usize) -> Result<(), String> {
    // One more than allowed shows that there is more; a decoder also checks its checksum at its end only.
    let read = from
        .take(limit as u64 + 1)
        .read_to_end(out)
        .map_err(|e| e.to_string())?;
    if read > limit {
        Err(too_long(limit))
    } else {
        Ok(())
    }
}

fn too_long(limit: usize) -> String {
    format!("it unpacks to more than {limit} bytes")
}

/// LZ4's legacy frame: the magic, then blocks, each behind its packed size. There is no end mark and no checksum.
fn lz4_frame(packed: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), String> {
    let mut rest = packed;
    while let Some((word, after)) = rest.split_first_chunk::<4>() {
        rest = after;
        // A further frame may follow; its magic would be a block of 400 MB.
        if *word == LZ4_MAGIC {
            continue;
        }
        let size = u32::from_le_bytes(*word);
        let block = usize::try_from(size)
            .ok()
            .and_then(|size| rest.split_at_checked(size));
        let Some((block, after)) = block else {
            return Err(format!(
                "a block of {size} bytes where {} are left",
                rest.len()
            ));
        };
        rest = after;
        let start = out.len();
        out.resize(limit.min(start.saturating_add(LZ4_BLOCK)), 0);
        let room = out.get_mut(start..).unwrap_or_default();
        let written = lz4_flex::block::decompress_into(block, room).map_err(|e| e.to_string())?;
        out.truncate(start.saturating_add(written));
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(format!("{} bytes behind the last block", rest.len()))
    }
}

#[cfg(test)]
mod tests;
