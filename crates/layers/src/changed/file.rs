//! The file of changed blocks.
//!
//! Two headers of 4096 bytes, at 0 and at 4096, of which the valid one with the higher sequence number counts; a new one is written in the
//! place of the other. Its fields, after those of [`sealed`](crate::sealed) with the magic `CANTLCBT`:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | sequence number; its lowest bit says which of the two places |
//! | 8 | granule in bytes |
//! | 8 | the disk's size in bytes |
//! | 4 | 1: in use. What the last bitmap says is then not all |
//! | 4 | how many generations, 1 to 64, oldest first |
//! | 48 each | id (16), where its bitmap is (8), bits in it (8), seconds from 1970 to its beginning (8), CRC-32 of the bitmap (4), flags (4) |
//!
//! A bitmap is little-endian 64-bit words, at a multiple of 4096. It says what was written from this generation's beginning to the
//! next one's; flag 1 says that everything counts as written, and flag 2 that there is no bitmap (0 bits at 0). No bitmap that a valid header
//! names is ever written over.

use std::io::{Error, ErrorKind, Result};

use cantle_image::Storage;

use super::GenerationId;
use crate::Granularity;
use crate::bitmap::Bitmap;
use crate::sealed::{BadHeader, Fields, Reader};

const MAGIC: [u8; 8] = *b"CANTLCBT";
const BLOCK: u64 = 4096;
const HEADER: usize = 4096;
const FIRST: u64 = 2 * BLOCK;
/// The most generations that a file has.
pub(super) const MOST: usize = 64;

const ALL: u32 = 1;
const NOWHERE: u32 = 2;

/// One generation, as the header has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: GenerationId,
    /// Seconds since 1970.
    pub(super) since: u64,
    /// Everything counts as changed, whatever the bitmap says.
    pub(super) all: bool,
    pub(super) bitmap: Option<Place>,
}

/// Where a bitmap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    offset: u64,
    bits: u64,
    crc: u32,
}

impl Place {
    /// The bytes of the file that are its own.
    fn area(self) -> std::ops::Range<u64> {
        let len = Bitmap::byte_len(self.bits)
            .div_ceil(BLOCK)
            .saturating_mul(BLOCK);
        self.offset..self.offset.saturating_add(len)
    }
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    pub(super) granularity: Granularity,
    pub(super) disk: u64,
    pub(super) in_use: bool,
    pub(super) generations: Vec<Entry>,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> std::result::Result<Self, BadHeader> {
        let mut fields = Reader::open(MAGIC, bytes)?;
        let sequence = fields.u64("sequence")?;
        let granularity = Granularity::new(fields.u64("granularity")?)
            .map_err(|_| BadHeader::Field("granularity"))?;
        let disk = fields.u64("disk size")?;
        let in_use = fields.flag("in use")?;
        let count = usize::try_from(fields.u32("generations")?).unwrap_or(usize::MAX);
        if !(1..=MOST).contains(&count) {
            return Err(BadHeader::Field("generations"));
        }
        let mut generations: Vec<Entry> = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = Entry::parse(&mut fields, granularity.count(disk))?;
            if generations
                .iter()
                .any(|other| other.id == entry.id || other.overlaps(&entry))
            {
                return Err(BadHeader::Field("generations"));
            }
            generations.push(entry);
        }
        Ok(Self {
            sequence,
            granularity,
            disk,
            in_use,
            generations,
        })
    }

    fn emit(&self) -> Result<Vec<u8>> {
        let mut fields = Fields::default();
        fields
            .u64(self.sequence)
            .u64(self.granularity.bytes())
            .u64(self.disk);
        fields.u32(self.in_use.into());
        fields.u32(u32::try_from(self.generations.len()).unwrap_or(u32::MAX));
        for entry in &self.generations {
            let place = entry.bitmap.unwrap_or(Place {
                offset: 0,
                bits: 0,
                crc: 0,
            });
            let all = if entry.all { ALL } else { 0 };
            let nowhere = if entry.bitmap.is_none() { NOWHERE } else { 0 };
            fields
                .bytes(&entry.id.0)
                .u64(place.offset)
                .u64(place.bits)
                .u64(entry.since);
            fields.u32(place.crc).u32(all | nowhere);
        }
        fields
            .seal(MAGIC, HEADER)
            .ok_or_else(|| ErrorKind::InvalidInput.into())
    }
}

impl Entry {
    fn parse(fields: &mut Reader<'_>, most_bits: u64) -> std::result::Result<Self, BadHeader> {
        let id = GenerationId(fields.array("id")?);
        let place = Place {
            offset: fields.u64("bitmap")?,
            bits: fields.u64("bits")?,
            crc: 0,
        };
        let since = fields.u64("since")?;
        let place = Place {
            crc: fields.u32("bitmap checksum")?,
            ..place
        };
        let flags = fields.u32("flags")?;
        let bitmap = if flags & NOWHERE == 0 {
            Some(place)
        } else {
            None
        };
        if flags & !(ALL | NOWHERE) != 0 {
            return Err(BadHeader::Field("flags"));
        }
        let fits = |place: &Place| {
            place.offset >= FIRST
                && place.offset.is_multiple_of(BLOCK)
                && place.bits <= most_bits
                && place.area().end < u64::MAX
        };
        if bitmap.as_ref().is_some_and(|place| !fits(place)) {
            return Err(BadHeader::Field("bitmap"));
        }
        Ok(Self {
            id,
            since,
            all: flags & ALL != 0,
            bitmap,
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        let areas = self.bitmap.zip(other.bitmap);
        areas.is_some_and(|(one, other)| {
            let (one, other) = (one.area(), other.area());
            one.start < other.end && other.start < one.end
        })
    }
}

/// The file, and what its valid header says.
pub(super) struct ChangeFile {
    storage: Box<dyn Storage>,
    pub(super) header: Header,
}

impl ChangeFile {
    /// A new file. Sequence number 1 is the second place's: whatever was in the first is overwritten with zeroes.
    pub(super) fn create(storage: Box<dyn Storage>, header: Header) -> Result<Self> {
        storage.set_len(0)?;
        storage.set_len(FIRST)?;
        storage.sync()?;
        let mut file = Self { storage, header };
        let header = file.header.clone();
        file.replace(header)?;
        Ok(file)
    }

    /// What is there.
    pub(super) fn open(storage: Box<dyn Storage>) -> Result<std::result::Result<Self, BadHeader>> {
        let mut found: Option<Header> = None;
        let mut why = BadHeader::Magic;
        for place in 0..2 {
            let mut bytes = [0; HEADER];
            match storage.read_at(place * BLOCK, &mut bytes) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => continue,
                read => read?,
            }
            match Header::parse(&bytes) {
                // Each in its own place, so that a copy is not taken for a newer one.
                Ok(header) if header.sequence % 2 != place => why = BadHeader::Field("sequence"),
                Ok(header) => {
                    if found
                        .as_ref()
                        .is_none_or(|other| other.sequence < header.sequence)
                    {
                        found = Some(header);
                    }
                }
                Err(error) if error != BadHeader::Magic => why = error,
                Err(_) => {}
            }
        }
        Ok(found.map(|header| Self { storage, header }).ok_or(why))
    }

    /// Puts another header in force; when this returns it is on the medium. After an error, the old one or this one is.
    pub(super) fn replace(&mut self, header: Header) -> Result<()> {
        let sequence = self
            .header
            .sequence
            .checked_add(1)
            .ok_or(ErrorKind::InvalidData)?;
        let header = Header { sequence, ..header };
        self.storage
            .write_at(sequence % 2 * BLOCK, &header.emit()?)?;
        self.storage.sync()?;
        self.header = header;
        Ok(())
    }

    /// Writes a bitmap where no bitmap of the header's is, and brings it to the medium.
    pub(super) fn store(&self, bitmap: &Bitmap) -> Result<Place> {
        let bytes = bitmap.to_bytes();
        let crc = crc32fast::hash(&bytes);
        let mut place = Place {
            offset: FIRST,
            bits: bitmap.len(),
            crc,
        };
        let mut areas: Vec<_> = self
            .header
            .generations
            .iter()
            .filter_map(|entry| entry.bitmap)
            .map(Place::area)
            .collect();
        areas.sort_by_key(|area| area.start);
        for area in areas {
            let mine = place.area();
            if mine.start < area.end && area.start < mine.end {
                place.offset = area.end;
            }
        }
        self.storage.write_at(place.offset, &bytes)?;
        self.storage.sync()?;
        Ok(place)
    }

    /// Reads a bitmap. `None` where it is not what was written.
    pub(super) fn load(&self, place: Place) -> Result<Option<Bitmap>> {
        // No more than the disk needs, by the header's check, and no more than there is.
        let len = Bitmap::byte_len(place.bits);
        if place.offset.saturating_add(len) > self.storage.len()? {
            return Ok(None);
        }
        let mut bytes =
            vec![0; usize::try_from(len).map_err(|_| Error::from(ErrorKind::OutOfMemory))?];
        self.storage.read_at(place.offset, &mut bytes)?;
        Ok((crc32fast::hash(&bytes) == place.crc).then(|| Bitmap::from_bytes(place.bits, &bytes)))
    }
}
