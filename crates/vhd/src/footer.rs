//! The footer: 512 bytes at an image's end, and a copy of them at the start of all but fixed images.
//!
//! Source: Microsoft's "Virtual Hard Disk Image Format Specification", section "Hard Disk Footer Format". The hidden byte is Xen's.

use crate::bytes::{be16, be32, be64, checksum, get, put};
use crate::{Kind, SizeRule};

/// Bytes of a footer.
pub(crate) const FOOTER: usize = 512;
/// The same, in the unit of offsets.
pub(crate) const FOOTER_LEN: u64 = 512;

const COOKIE: &[u8; 8] = b"conectix";
const FEATURES: usize = 8;
const VERSION: usize = 12;
const DATA_OFFSET: usize = 16;
const TIMESTAMP: usize = 24;
const CREATOR: usize = 28;
const CREATOR_VERSION: usize = 32;
const ORIGINAL_SIZE: usize = 40;
const CURRENT_SIZE: usize = 48;
const GEOMETRY: usize = 56;
const DISK_TYPE: usize = 60;
const CHECKSUM: usize = 64;
const UUID: usize = 68;
const HIDDEN: usize = 85;

/// The most that cylinders, heads and sectors can say: a disk of this geometry may be larger.
const CHS_LIMIT: u64 = 65535 * 16 * 255;

/// A footer whose cookie, version, type and checksum are right. The bytes that nobody has a name for are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    raw: [u8; FOOTER],
}

/// What a footer of a new image says.
pub(crate) struct NewFooter {
    pub(crate) kind: Kind,
    pub(crate) sectors: u64,
    pub(crate) uuid: [u8; 16],
    /// Seconds since 2000.
    pub(crate) timestamp: u32,
}

impl Footer {
    pub(crate) fn parse(raw: [u8; FOOTER]) -> Option<Self> {
        let footer = Self { raw };
        let version = be32(&raw, VERSION) >> 16;
        let good = raw.starts_with(COOKIE) && version == 1 && footer.sum_is_right();
        footer.type_code().filter(|_| good)?;
        Some(footer)
    }

    pub(crate) fn new(new: &NewFooter) -> Self {
        let mut raw = [0; FOOTER];
        let (code, data_offset) = match new.kind {
            Kind::Fixed => (2_u32, u64::MAX),
            Kind::Dynamic => (3, FOOTER_LEN),
            Kind::Differencing => (4, FOOTER_LEN),
        };
        put(&mut raw, 0, COOKIE);
        // The reserved bit that is always set.
        put(&mut raw, FEATURES, &2_u32.to_be_bytes());
        put(&mut raw, VERSION, &0x0001_0000_u32.to_be_bytes());
        put(&mut raw, DATA_OFFSET, &data_offset.to_be_bytes());
        put(&mut raw, TIMESTAMP, &new.timestamp.to_be_bytes());
        // Readers choose by this name how the size is meant, and whether there is a batmap. Xen's means: as the footer says, and yes.
        put(&mut raw, CREATOR, b"tap\0");
        put(&mut raw, CREATOR_VERSION, &0x0001_0003_u32.to_be_bytes());
        put(&mut raw, DISK_TYPE, &code.to_be_bytes());
        put(&mut raw, UUID, &new.uuid);
        let mut footer = Self { raw };
        put(
            &mut footer.raw,
            ORIGINAL_SIZE,
            &new.sectors.saturating_mul(512).to_be_bytes(),
        );
        footer.set_size(new.sectors);
        footer
    }

    pub(crate) fn raw(&self) -> &[u8; FOOTER] {
        &self.raw
    }

    pub(crate) fn kind(&self) -> Kind {
        self.type_code().unwrap_or(Kind::Fixed)
    }

    /// Where the dynamic header is.
    pub(crate) fn data_offset(&self) -> u64 {
        be64(&self.raw, DATA_OFFSET)
    }

    pub(crate) fn timestamp(&self) -> u32 {
        be32(&self.raw, TIMESTAMP)
    }

    pub(crate) fn creator(&self) -> [u8; 4] {
        get(&self.raw, CREATOR)
    }

    pub(crate) fn creator_version(&self) -> u32 {
        be32(&self.raw, CREATOR_VERSION)
    }

    pub(crate) fn uuid(&self) -> [u8; 16] {
        get(&self.raw, UUID)
    }

    pub(crate) fn hidden(&self) -> bool {
        get::<1>(&self.raw, HIDDEN) != [0]
    }

    /// Whether both could be the two footers of one image, that were written at different times.
    pub(crate) fn is_of_one_image_with(&self, other: &Self) -> bool {
        let who = |footer: &Self| (footer.kind(), footer.uuid(), footer.data_offset());
        who(self) == who(other)
    }

    /// Whether sector bitmaps have their lowest bit first, as those of Xen's first version do.
    pub(crate) fn lowest_bit_first(&self) -> bool {
        self.is_xens() && self.creator_version() == 0x0000_0001
    }

    /// Whether a batmap may follow the table: Xen's images have one from version 1.1 on.
    pub(crate) fn may_have_batmap(&self) -> bool {
        self.is_xens() && self.creator_version() >= 0x0001_0001 && self.kind() != Kind::Fixed
    }

    /// The disk's size in sectors. See [`SizeRule`].
    pub(crate) fn sectors(&self, rule: SizeRule) -> u64 {
        let current = be64(&self.raw, CURRENT_SIZE) / 512;
        let cylinders = u64::from(be16(&self.raw, GEOMETRY));
        let [heads, per_track] = get::<2>(&self.raw, GEOMETRY + 2).map(u64::from);
        let chs = cylinders * heads * per_track;
        let by_chs = match rule {
            SizeRule::ByCreator => matches!(&self.creator(), b"vpc " | b"vs  " | b"qemu"),
            SizeRule::Chs => true,
            SizeRule::Current => false,
        };
        if by_chs && chs != 0 && chs != CHS_LIMIT {
            chs
        } else {
            current
        }
    }

    /// Sets the current size and a geometry of about that size.
    pub(crate) fn set_size(&mut self, sectors: u64) {
        // By CHS, the new size could not be said, so the image becomes one whose size counts.
        match &self.creator() {
            b"qemu" => put(&mut self.raw, CREATOR, b"qem2"),
            b"vpc " | b"vs  " => put(&mut self.raw, CREATOR, b"win "),
            _ => {}
        }
        put(
            &mut self.raw,
            CURRENT_SIZE,
            &sectors.saturating_mul(512).to_be_bytes(),
        );
        let (cylinders, heads, per_track) = chs(sectors);
        put(&mut self.raw, GEOMETRY, &cylinders.to_be_bytes());
        put(&mut self.raw, GEOMETRY + 2, &[heads, per_track]);
        self.seal();
    }

    pub(crate) fn set_hidden(&mut self, hidden: bool) {
        put(&mut self.raw, HIDDEN, &[hidden.into()]);
        self.seal();
    }

    fn seal(&mut self) {
        let sum = checksum(&self.raw, CHECKSUM);
        put(&mut self.raw, CHECKSUM, &sum.to_be_bytes());
    }

    fn is_xens(&self) -> bool {
        self.creator().starts_with(b"tap")
    }

    fn type_code(&self) -> Option<Kind> {
        match be32(&self.raw, DISK_TYPE) {
            2 => Some(Kind::Fixed),
            3 => Some(Kind::Dynamic),
            4 => Some(Kind::Differencing),
            _ => None,
        }
    }

    fn sum_is_right(&self) -> bool {
        let said = be32(&self.raw, CHECKSUM);
        let sum = checksum(&self.raw, CHECKSUM);
        // Xen's first tools hid an image without a new checksum.
        let old = matches!(self.creator_version(), 0x0000_0001 | 0x0001_0001);
        let [hidden] = get::<1>(&self.raw, HIDDEN);
        let unhidden = !(!sum).wrapping_sub(hidden.into());
        said == sum || (self.is_xens() && old && said == unhidden)
    }
}

/// Cylinders, heads and sectors of a track for a disk of this size, by the specification's appendix "CHS Calculation".
fn chs(sectors: u64) -> (u16, u8, u8) {
    let sectors = sectors.min(CHS_LIMIT);
    let (heads, per_track) = if sectors >= 65535 * 16 * 63 {
        (16, 255)
    } else {
        let tracks = sectors / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if heads <= 16 && tracks < heads * 1024 {
            (heads, 17)
        } else if sectors / 31 < 16 * 1024 {
            (16, 31)
        } else {
            (16, 63)
        }
    };
    let cylinders = sectors / per_track / heads;
    // By the bounds above, each fits.
    let small = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
    (
        u16::try_from(cylinders).unwrap_or(u16::MAX),
        small(heads),
        small(per_track),
    )
}

#[cfg(test)]
mod tests;
