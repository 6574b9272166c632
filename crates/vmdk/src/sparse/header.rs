//! The header of a sparse extent: its first sector, or, where that says so, the footer near its end.
//!
//! "Virtual Disk Format 5.0", `SparseExtentHeader`. All numbers are little-endian; places and sizes are in sectors of 512 bytes.

/// `KDMV`, the first four bytes.
pub(crate) const MAGIC: [u8; 4] = *b"KDMV";
/// Entries of a grain table. The note allows no other number.
pub(crate) const TABLE_ENTRIES: u32 = 512;
/// Sectors of a grain table.
pub(crate) const TABLE_SECTORS: u64 = 4;
/// The directory that is said only by the footer.
pub(crate) const AT_END: u64 = u64::MAX;
/// The most tables of an extent: 2 TiB in the smallest grains. The directory has 4 MiB then.
pub(crate) const MAX_TABLES: u64 = 1 << 20;
/// Grains have 4 KiB …
pub(crate) const MIN_GRAIN: u64 = 8;
/// … to 1 MiB.
pub(crate) const MAX_GRAIN: u64 = 2048;
/// Where `uncleanShutdown` is, in bytes.
pub(crate) const UNCLEAN_AT: u64 = 72;

/// What follows `uncleanShutdown`; whoever moved the file as text has changed it.
const NEWLINES: [u8; 4] = *b"\n \r\n";

const FLAG_NEWLINES: u32 = 1;
const FLAG_REDUNDANT: u32 = 1 << 1;
const FLAG_ZEROED: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const FLAGS_KNOWN: u32 =
    FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZEROED | FLAG_COMPRESSED | FLAG_MARKERS;

/// A header, each number checked for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    /// The size in sectors.
    pub(crate) capacity: u64,
    /// Sectors of a grain: a power of two.
    pub(crate) grain: u64,
    /// Where the descriptor is; 0: in a file of its own.
    pub(crate) descriptor: u64,
    pub(crate) descriptor_sectors: u64,
    /// Where the redundant directory is, where there is one.
    pub(crate) redundant: Option<u64>,
    /// Where the directory is; [`AT_END`] where the footer says.
    pub(crate) directory: u64,
    /// Sectors before the first grain.
    pub(crate) overhead: u64,
    pub(crate) unclean: bool,
    /// Whether an entry of 1 means a grain of zeroes.
    pub(crate) zeroed: bool,
    pub(crate) compressed: bool,
}

/// Why a sparse header is none, or not one that is supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// It does not begin with `KDMV`.
    #[error("this is no sparse extent")]
    Magic,
    /// A version other than 1, 2 and 3.
    #[error("sparse extents of version {0} are not supported")]
    Version(u32),
    /// Flags that are not known, or not together.
    #[error("a sparse extent with the flags {0:#x} is not supported")]
    Flags(u32),
    /// The characters that a copy as text changes are changed.
    #[error("the file was damaged by a copy as text")]
    Newlines,
    /// A grain that is not a power of two from 8 to 2048 sectors.
    #[error("grains of {0} sectors are not supported")]
    Grain(u64),
    /// Tables of another length than 512.
    #[error("grain tables of {0} entries are not supported")]
    TableEntries(u32),
    /// No sectors, or more than 2^20 grain tables say.
    #[error("a sparse extent of {0} sectors is not supported")]
    Capacity(u64),
    /// A compression other than deflate.
    #[error("compression {0} is not supported")]
    Compression(u16),
    /// The footer is not there.
    #[error("the footer is missing or broken: the file was cut short")]
    Footer,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; 512]) -> Result<Self, HeaderError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(HeaderError::Magic);
        }
        let version = le32(bytes, 4);
        if !(1..=3).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let flags = le32(bytes, 8);
        let has = |flag| flags & flag != 0;
        let unknown = flags & !FLAGS_KNOWN != 0;
        if unknown || has(FLAG_COMPRESSED) != has(FLAG_MARKERS) {
            return Err(HeaderError::Flags(flags));
        }
        if has(FLAG_NEWLINES) && bytes.get(73..77) != Some(&NEWLINES[..]) {
            return Err(HeaderError::Newlines);
        }
        let grain = le64(bytes, 20);
        if !grain.is_power_of_two() || !(MIN_GRAIN..=MAX_GRAIN).contains(&grain) {
            return Err(HeaderError::Grain(grain));
        }
        let entries = le32(bytes, 44);
        if entries != TABLE_ENTRIES {
            return Err(HeaderError::TableEntries(entries));
        }
        let capacity = le64(bytes, 12);
        let tables = capacity.div_ceil(grain * u64::from(TABLE_ENTRIES));
        if tables == 0 || tables > MAX_TABLES {
            return Err(HeaderError::Capacity(capacity));
        }
        let compression = u16::from_le_bytes([byte(bytes, 77), byte(bytes, 78)]);
        if has(FLAG_COMPRESSED) && compression != 1 {
            return Err(HeaderError::Compression(compression));
        }
        Ok(Self {
            version,
            capacity,
            grain,
            descriptor: le64(bytes, 28),
            descriptor_sectors: le64(bytes, 36),
            redundant: has(FLAG_REDUNDANT)
                .then(|| le64(bytes, 48))
                .filter(|at| *at != 0),
            directory: le64(bytes, 56),
            overhead: le64(bytes, 64),
            unclean: byte(bytes, 72) != 0,
            zeroed: has(FLAG_ZEROED) && version >= 2,
            compressed: has(FLAG_COMPRESSED),
        })
    }

    /// The first sector of an uncompressed extent.
    pub(crate) fn emit(&self) -> [u8; 512] {
        let mut flags = FLAG_NEWLINES;
        if self.redundant.is_some() {
            flags |= FLAG_REDUNDANT;
        }
        if self.zeroed {
            flags |= FLAG_ZEROED;
        }
        let mut bytes = [0; 512];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            if let Some(to) = bytes.get_mut(at..at + part.len()) {
                to.copy_from_slice(part);
            }
            at += part.len();
        };
        put(&MAGIC);
        put(&self.version.to_le_bytes());
        put(&flags.to_le_bytes());
        put(&self.capacity.to_le_bytes());
        put(&self.grain.to_le_bytes());
        put(&self.descriptor.to_le_bytes());
        put(&self.descriptor_sectors.to_le_bytes());
        put(&TABLE_ENTRIES.to_le_bytes());
        put(&self.redundant.unwrap_or(0).to_le_bytes());
        put(&self.directory.to_le_bytes());
        put(&self.overhead.to_le_bytes());
        put(&[u8::from(self.unclean)]);
        put(&NEWLINES);
        bytes
    }

    /// How many grain tables there are.
    pub(crate) fn tables(&self) -> u64 {
        self.capacity
            .div_ceil(self.grain * u64::from(TABLE_ENTRIES))
    }

    /// Sectors of a directory.
    pub(crate) fn directory_sectors(&self) -> u64 {
        (self.tables() * 4).div_ceil(512)
    }
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.map_or(0, |part| u32::from_le_bytes(*part))
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.map_or(0, |part| u64::from_le_bytes(*part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: 2,
            capacity: 204_800,
            grain: 128,
            descriptor: 1,
            descriptor_sectors: 20,
            redundant: Some(21),
            directory: 38,
            overhead: 128,
            unclean: true,
            zeroed: true,
            compressed: false,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Header::parse(&header().emit()), Ok(header()));
        let plain = Header {
            version: 1,
            redundant: None,
            unclean: false,
            zeroed: false,
            ..header()
        };
        assert_eq!(Header::parse(&plain.emit()), Ok(plain));
    }

    #[test]
    fn each_broken_field_is_refused_by_name() {
        let with = |at: usize, value: &[u8]| {
            let mut bytes = header().emit();
            bytes[at..at + value.len()].copy_from_slice(value);
            Header::parse(&bytes).unwrap_err()
        };
        assert_eq!(with(0, b"COWD"), HeaderError::Magic);
        assert_eq!(with(4, &[4]), HeaderError::Version(4));
        assert_eq!(with(4, &[0]), HeaderError::Version(0));
        assert_eq!(with(8, &[0x0b]), HeaderError::Flags(0x0b));
        assert_eq!(with(10, &[1]), HeaderError::Flags(0x1_0007));
        assert_eq!(with(12, &[0; 8]), HeaderError::Capacity(0));
        assert_eq!(with(12, &[0xff; 8]), HeaderError::Capacity(u64::MAX));
        for grain in [0u64, 4, 100, 4096, u64::MAX] {
            assert_eq!(with(20, &grain.to_le_bytes()), HeaderError::Grain(grain));
        }
        assert_eq!(with(44, &[1, 2]), HeaderError::TableEntries(513));
        for at in 73..77 {
            assert_eq!(with(at, b"x"), HeaderError::Newlines);
        }
        assert_eq!(with(10, &[3]), HeaderError::Compression(0));
    }
}
