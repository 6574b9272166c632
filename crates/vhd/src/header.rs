//! The header of dynamic and differencing images, 1024 bytes, and the batmap that Xen adds.
//!
//! Source: the specification's section "Dynamic Disk Header Format"; for the batmap the images that Xen's tools make.

use crate::OpenError;
use crate::bytes::{be32, be64, checksum, get, put};

/// Bytes of a header.
pub(crate) const HEADER: usize = 1024;
/// Bytes of a header's first sector, which is written alone when the table moves: it has the checksum too.
pub(crate) const HEADER_SECTOR: usize = 512;

const COOKIE: &[u8; 8] = b"cxsparse";
const DATA_OFFSET: usize = 8;
const TABLE_OFFSET: usize = 16;
const VERSION: usize = 24;
const ENTRIES: usize = 28;
const BLOCK_SIZE: usize = 32;
const CHECKSUM: usize = 36;
const PARENT_UUID: usize = 40;
const PARENT_TIME: usize = 56;
const PARENT_NAME: usize = 64;
const PARENT_NAME_LEN: usize = 512;
const LOCATORS: usize = 576;
const LOCATOR: usize = 24;

/// How many parent locators there are.
pub(crate) const LOCATOR_COUNT: usize = 8;
/// The largest block that is worked with: its bitmap takes 64 KiB.
pub(crate) const MAX_BLOCK_SIZE: u32 = 256 << 20;
/// The most blocks that a disk may have: a table of 32 MiB, enough for 2 TiB in blocks of 256 KiB.
pub(crate) const MAX_BLOCKS: u64 = 8 << 20;

/// A header whose cookie, version and checksum are right, and whose block size and table can be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    raw: [u8; HEADER],
}

/// Where a parent's name is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Locator {
    pub(crate) code: [u8; 4],
    pub(crate) space: u32,
    pub(crate) len: u32,
    pub(crate) offset: u64,
}

/// Who the parent is.
#[derive(Clone, Debug, Default)]
pub(crate) struct ParentFields {
    pub(crate) uuid: [u8; 16],
    /// Seconds since 2000.
    pub(crate) modified: u32,
    /// UTF-16, big-endian.
    pub(crate) name: Vec<u8>,
    pub(crate) locators: Vec<Locator>,
}

impl Header {
    pub(crate) fn parse(raw: [u8; HEADER]) -> Result<Self, OpenError> {
        let invalid = |field, value: u64| Err(OpenError::Invalid { field, value });
        if !raw.starts_with(COOKIE) {
            return invalid("header cookie", be64(&raw, 0));
        }
        if be32(&raw, CHECKSUM) != checksum(&raw, CHECKSUM) {
            return invalid("header checksum", be32(&raw, CHECKSUM).into());
        }
        let header = Self { raw };
        if be32(&raw, VERSION) >> 16 != 1 {
            return invalid("header version", be32(&raw, VERSION).into());
        }
        let block = header.block_size();
        if !block.is_power_of_two() || !(512..=MAX_BLOCK_SIZE).contains(&block) {
            return invalid("block size", block.into());
        }
        if !header.table_offset().is_multiple_of(512) {
            return invalid("table offset", header.table_offset());
        }
        Ok(header)
    }

    pub(crate) fn new(table: u64, entries: u32, block_size: u32, parent: &ParentFields) -> Self {
        let mut raw = [0; HEADER];
        put(&mut raw, 0, COOKIE);
        put(&mut raw, DATA_OFFSET, &u64::MAX.to_be_bytes());
        put(&mut raw, VERSION, &0x0001_0000_u32.to_be_bytes());
        put(&mut raw, BLOCK_SIZE, &block_size.to_be_bytes());
        put(&mut raw, PARENT_UUID, &parent.uuid);
        put(&mut raw, PARENT_TIME, &parent.modified.to_be_bytes());
        let name = parent.name.get(..PARENT_NAME_LEN).unwrap_or(&parent.name);
        put(&mut raw, PARENT_NAME, name);
        for (index, locator) in parent.locators.iter().take(LOCATOR_COUNT).enumerate() {
            let at = LOCATORS + index * LOCATOR;
            put(&mut raw, at, &locator.code);
            put(&mut raw, at + 4, &locator.space.to_be_bytes());
            put(&mut raw, at + 8, &locator.len.to_be_bytes());
            put(&mut raw, at + 16, &locator.offset.to_be_bytes());
        }
        let mut header = Self { raw };
        header.set_table(table, entries);
        header
    }

    pub(crate) fn raw(&self) -> &[u8; HEADER] {
        &self.raw
    }

    pub(crate) fn table_offset(&self) -> u64 {
        be64(&self.raw, TABLE_OFFSET)
    }

    pub(crate) fn entries(&self) -> u32 {
        be32(&self.raw, ENTRIES)
    }

    pub(crate) fn block_size(&self) -> u32 {
        be32(&self.raw, BLOCK_SIZE)
    }

    /// Bytes of the sector bitmap before each block: a bit for each sector, in whole sectors.
    pub(crate) fn bitmap_len(&self) -> u64 {
        bitmap_len(self.block_size())
    }

    pub(crate) fn parent_uuid(&self) -> [u8; 16] {
        get(&self.raw, PARENT_UUID)
    }

    pub(crate) fn parent_modified(&self) -> u32 {
        be32(&self.raw, PARENT_TIME)
    }

    /// The parent's name, big-endian UTF-16 with zeroes after it.
    pub(crate) fn parent_name(&self) -> [u8; PARENT_NAME_LEN] {
        get(&self.raw, PARENT_NAME)
    }

    pub(crate) fn locators(&self) -> [Locator; LOCATOR_COUNT] {
        std::array::from_fn(|index| {
            let at = LOCATORS + index * LOCATOR;
            Locator {
                code: get(&self.raw, at),
                space: be32(&self.raw, at + 4),
                len: be32(&self.raw, at + 8),
                offset: be64(&self.raw, at + 16),
            }
        })
    }

    /// Puts the table elsewhere. All that changes is in the first sector.
    pub(crate) fn set_table(&mut self, offset: u64, entries: u32) {
        put(&mut self.raw, TABLE_OFFSET, &offset.to_be_bytes());
        put(&mut self.raw, ENTRIES, &entries.to_be_bytes());
        let sum = checksum(&self.raw, CHECKSUM);
        put(&mut self.raw, CHECKSUM, &sum.to_be_bytes());
    }
}

pub(crate) fn bitmap_len(block_size: u32) -> u64 {
    u64::from(block_size / 512)
        .div_ceil(8)
        .next_multiple_of(512)
}

/// Bytes of a table of so many entries, in whole sectors.
pub(crate) fn table_len(entries: u32) -> u64 {
    (u64::from(entries) * 4).next_multiple_of(512)
}

/// The batmap for so many blocks, to stand at `offset`: a header and a bit for each block, which says that all the block's sectors
/// are there. None of them is set, which is always right: readers then look at the block's own bitmap.
pub(crate) fn empty_batmap(offset: u64, entries: u32) -> Vec<u8> {
    let map = u64::from(entries).div_ceil(8).next_multiple_of(512);
    let mut bytes = vec![0; 512];
    put(&mut bytes, 0, BATMAP_COOKIE);
    put(&mut bytes, 8, &(offset + 512).to_be_bytes());
    let sectors = u32::try_from(map / 512).unwrap_or(u32::MAX);
    put(&mut bytes, 16, &sectors.to_be_bytes());
    put(&mut bytes, 20, &0x0001_0002_u32.to_be_bytes());
    // The checksum of the map: of zeroes.
    put(&mut bytes, 24, &u32::MAX.to_be_bytes());
    bytes.resize(512 + usize::try_from(map).unwrap_or(0), 0);
    bytes
}

const BATMAP_COOKIE: &[u8; 8] = b"tdbatmap";

/// Where a batmap's bits are, by its header: offset and length in bytes.
pub(crate) fn batmap_place(header: &[u8; 512]) -> Option<(u64, u64)> {
    let len = u64::from(be32(header, 16)) * 512;
    header
        .starts_with(BATMAP_COOKIE)
        .then(|| (be64(header, 8), len))
}
