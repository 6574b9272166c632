//! The header: QEMU's `docs/interop/qcow2.rst`, section "Header".

mod emit;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// `QFI\xfb`.
pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// The header of version 2, which is the start of version 3's.
pub(crate) const V2_LEN: usize = 72;
const V2_BYTES: u32 = 72;
/// The least header of version 3.
pub(crate) const V3_LEN: usize = 104;
const V3_BYTES: u32 = 104;
/// As much of the first cluster as is looked at: header, extensions, backing file's name.
pub(crate) const HEAD_LEN: usize = 64 << 10;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2;

const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;

/// What QEMU allows, and so what images in the world have.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFTABLE_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65_536;
/// The longest name of a backing file.
pub(crate) const MAX_NAME: u32 = 1023;

/// Why the first bytes of a file are no header of an image that can be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not a qcow2 image at all.
    #[error("not a qcow2 image")]
    Magic,
    /// Neither version 2 nor 3.
    #[error("qcow2 version {0}")]
    Version(u32),
    /// The file ends within its header.
    #[error("the header ends early")]
    Short,
    /// A field has a value that it may not have, or that is too large to be served.
    #[error("the header's {name} is {value:#x}")]
    Field {
        /// Which.
        name: &'static str,
        /// What it says.
        value: u64,
    },
    /// Encrypted, by this method.
    #[error("encrypted by method {0}")]
    Encrypted(u32),
    /// Incompatible features that are unknown, as bits.
    #[error("unknown incompatible features {0:#x}")]
    Features(u64),
    /// Its data are in another file.
    #[error("the data are in an external file, which is not supported")]
    ExternalData,
    /// Extended L2 entries (subclusters).
    #[error("extended L2 entries (subclusters) are not supported")]
    ExtendedL2,
}

/// How compressed clusters are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    #[default]
    Deflate,
    /// Zstandard.
    Zstd,
}

/// The name of a backing file, as the image has it. Whoever wrote the image chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName {
    /// The file's name.
    pub name: OsString,
    /// Its format, where the image says it.
    pub format: Option<String>,
}

/// A header that was checked by itself; not yet against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The cluster's size as a power of two: 9 to 21.
    pub cluster_bits: u32,
    /// The disk's size in bytes: a multiple of 512.
    pub size: u64,
    /// The width of a reference count in bits, as a power of two: 0 to 6.
    pub refcount_order: u32,
    /// How compressed clusters are.
    pub compression: Compression,
    /// Whether the counts are to be repaired before the image is written to.
    pub dirty: bool,
    /// Whether the image was found to be damaged, and so may not be written to.
    pub corrupt: bool,
    /// How many internal snapshots there are.
    pub snapshots: u32,
    /// The backing file, if any.
    pub backing: Option<BackingName>,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) reftable_offset: u64,
    pub(crate) reftable_clusters: u32,
    pub(crate) snapshots_offset: u64,
    pub(crate) incompatible: u64,
    pub(crate) autoclear: u64,
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let part = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(part.try_into().ok()?))
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(part.try_into().ok()?))
}

impl Header {
    /// Reads the header in the first bytes of an image: 64 KiB of it, or all where it is shorter.
    ///
    /// # Errors
    ///
    /// [`HeaderError`].
    pub fn parse(head: &[u8]) -> Result<Self, HeaderError> {
        use HeaderError::Short;
        let u32_at = |at| be32(head, at).ok_or(Short);
        let u64_at = |at| be64(head, at).ok_or(Short);
        if be32(head, 0) != Some(MAGIC) {
            return Err(HeaderError::Magic);
        }
        let version = u32_at(4)?;
        let (incompatible, autoclear, refcount_order, len) = match version {
            2 => (0, 0, 4, V2_BYTES),
            3 => (u64_at(72)?, u64_at(88)?, u32_at(96)?, u32_at(100)?),
            other => return Err(HeaderError::Version(other)),
        };
        let mut header = Self {
            version,
            cluster_bits: u32_at(20)?,
            size: u64_at(24)?,
            refcount_order,
            compression: Compression::Deflate,
            dirty: incompatible & DIRTY != 0,
            corrupt: incompatible & CORRUPT != 0,
            snapshots: u32_at(60)?,
            backing: None,
            l1_entries: u32_at(36)?,
            l1_offset: u64_at(40)?,
            reftable_offset: u64_at(48)?,
            reftable_clusters: u32_at(56)?,
            snapshots_offset: u64_at(64)?,
            incompatible,
            autoclear,
        };
        header.check_features(u32_at(32)?)?;
        header.check_fields(len)?;
        header.compression = header.compression_in(head, len)?;
        header.backing = header.backing_in(head, len)?;
        Ok(header)
    }

    fn check_features(&self, crypt: u32) -> Result<(), HeaderError> {
        let bits = self.incompatible;
        match () {
            () if crypt != 0 => Err(HeaderError::Encrypted(crypt)),
            () if bits & !KNOWN != 0 => Err(HeaderError::Features(bits & !KNOWN)),
            () if bits & EXTERNAL_DATA != 0 => Err(HeaderError::ExternalData),
            () if bits & EXTENDED_L2 != 0 => Err(HeaderError::ExtendedL2),
            () => Ok(()),
        }
    }

    fn check_fields(&self, len: u32) -> Result<(), HeaderError> {
        let check = |name, value: u64, fine: bool| {
            fine.then_some(()).ok_or(HeaderError::Field { name, value })
        };
        let bits = self.cluster_bits;
        check("cluster size", bits.into(), (9..=21).contains(&bits))?;
        let cluster = 1u64 << bits;
        check(
            "refcount width",
            self.refcount_order.into(),
            self.refcount_order <= 6,
        )?;
        let least = if self.version == 2 { V2_LEN } else { V3_LEN } as u64;
        let fits = u64::from(len) >= least && u64::from(len) <= cluster.min(HEAD_LEN as u64);
        check("length", len.into(), fits && len.is_multiple_of(8))?;
        check(
            "size",
            self.size,
            self.size.is_multiple_of(512) && self.size <= MAX_SIZE,
        )?;
        let table =
            |offset: u64| offset != 0 && offset.is_multiple_of(cluster) && offset <= MAX_OFFSET;
        let l1_fits = u64::from(self.l1_entries) * 8 <= MAX_L1_BYTES;
        let l1_enough = u64::from(self.l1_entries) >= l1_entries_for(self.size, bits);
        check("L1 size", self.l1_entries.into(), l1_fits && l1_enough)?;
        check(
            "L1 offset",
            self.l1_offset,
            table(self.l1_offset) || self.l1_entries == 0,
        )?;
        let clusters = u64::from(self.reftable_clusters);
        check(
            "refcount table size",
            clusters,
            clusters != 0 && clusters * cluster <= MAX_REFTABLE_BYTES.max(cluster),
        )?;
        check(
            "refcount table offset",
            self.reftable_offset,
            table(self.reftable_offset),
        )?;
        check(
            "number of snapshots",
            self.snapshots.into(),
            self.snapshots <= MAX_SNAPSHOTS,
        )?;
        let snapshots = self.snapshots == 0 || table(self.snapshots_offset);
        check("snapshot table offset", self.snapshots_offset, snapshots)
    }

    fn compression_in(&self, head: &[u8], len: u32) -> Result<Compression, HeaderError> {
        let named = self.incompatible & COMPRESSION != 0;
        let kind = if len > 104 {
            head.get(104).copied().unwrap_or(0)
        } else {
            0
        };
        match (named, kind) {
            (false, 0) => Ok(Compression::Deflate),
            (true, 1) => Ok(Compression::Zstd),
            (_, other) => Err(HeaderError::Field {
                name: "compression type",
                value: other.into(),
            }),
        }
    }

    fn backing_in(&self, head: &[u8], len: u32) -> Result<Option<BackingName>, HeaderError> {
        let offset = be64(head, 8).ok_or(HeaderError::Short)?;
        if offset == 0 {
            return Ok(None);
        }
        let size = be32(head, 16).ok_or(HeaderError::Short)?;
        let wrong = HeaderError::Field {
            name: "backing file's name",
            value: offset,
        };
        let (from, size) = (
            usize::try_from(offset).map_err(|_| wrong)?,
            size.min(MAX_NAME + 1),
        );
        let end = from.checked_add(size as usize).ok_or(wrong)?;
        if size > MAX_NAME || end > (1 << self.cluster_bits) {
            return Err(wrong);
        }
        let name = head.get(from..end).ok_or(wrong)?;
        if name.is_empty() || name.contains(&0) {
            return Err(wrong);
        }
        Ok(Some(BackingName {
            name: OsString::from_vec(name.to_vec()),
            format: self.format_in(head, len, from)?,
        }))
    }

    /// The extensions end where they say so, at the name of the backing file, or at the end of the first cluster.
    fn format_in(
        &self,
        head: &[u8],
        len: u32,
        until: usize,
    ) -> Result<Option<String>, HeaderError> {
        let mut at = len as usize;
        while at + 8 <= until.min(head.len()) {
            let (Some(kind), Some(size)) = (be32(head, at), be32(head, at + 4)) else {
                break;
            };
            let wrong = HeaderError::Field {
                name: "header extension",
                value: kind.into(),
            };
            if kind == 0 {
                break;
            }
            let data = at + 8;
            let end = data.checked_add(size as usize).ok_or(wrong)?;
            let bytes = head.get(data..end).ok_or(wrong)?;
            if kind == EXT_BACKING_FORMAT {
                return String::from_utf8(bytes.to_vec())
                    .map(Some)
                    .map_err(|_| wrong);
            }
            at = end.next_multiple_of(8);
        }
        Ok(None)
    }
}

/// The largest offset that a table's entry can name, and the largest disk.
pub(crate) const MAX_OFFSET: u64 = (1 << 56) - 512;
const MAX_SIZE: u64 = 1 << 56;

/// How many entries the L1 table of a disk of that size must have.
pub(crate) fn l1_entries_for(size: u64, cluster_bits: u32) -> u64 {
    // An L2 table is a cluster of entries of eight bytes.
    size.div_ceil(1 << (2 * cluster_bits - 3))
}

/// The most entries that an L1 table may have.
pub(crate) const MAX_L1_ENTRIES: u64 = MAX_L1_BYTES / 8;
/// The most entries that a refcount table may have, with clusters of that size.
pub(crate) fn max_reftable_entries(cluster: u64) -> u64 {
    MAX_REFTABLE_BYTES.max(cluster) / 8
}
