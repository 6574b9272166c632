//! How the headers of this crate's files are packed: little-endian numbers between a magic number and a checksum.
//!
//! | at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | length of the fields |
//! | 16 | 4 | CRC-32 (IEEE) of bytes 0 to 16 and the fields |
//! | 20 | | the fields |
//!
//! What comes after the fields is zeroes, and not looked at.

const VERSION: u32 = 1;
const START: usize = 20;

/// Why a file of this crate is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadHeader {
    /// Another kind of file, or none.
    #[error("the magic number is another one")]
    Magic,
    /// A version to come.
    #[error("version {0} is not known")]
    Version(u32),
    /// Torn or altered.
    #[error("the checksum does not fit")]
    Checksum,
    /// A field that makes no sense, by its name.
    #[error("the field {0} makes no sense")]
    Field(&'static str),
}

/// Fields on their way into a header.
#[derive(Default)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The header, filled up to `size` bytes. `None` where the fields have no room.
    pub(crate) fn seal(&self, magic: [u8; 8], size: usize) -> Option<Vec<u8>> {
        let mut header = Vec::with_capacity(size);
        header.extend_from_slice(&magic);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&u32::try_from(self.0.len()).ok()?.to_le_bytes());
        let crc = checksum(&header, &self.0);
        header.extend_from_slice(&crc.to_le_bytes());
        header.extend_from_slice(&self.0);
        (header.len() <= size).then(|| {
            header.resize(size, 0);
            header
        })
    }
}

fn checksum(start: &[u8], fields: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(start);
    crc.update(fields);
    crc.finalize()
}

/// Fields on their way out of a header.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The fields of a header.
    pub(crate) fn open(magic: [u8; 8], header: &'a [u8]) -> Result<Self, BadHeader> {
        let mut all = Self(header);
        if all.array("magic").map_err(|_| BadHeader::Magic)? != magic {
            return Err(BadHeader::Magic);
        }
        let version = all.u32("version")?;
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let len = usize::try_from(all.u32("length")?).map_err(|_| BadHeader::Field("length"))?;
        let crc = all.u32("checksum")?;
        let fields = all.bytes(len, "length")?;
        let start = header.get(..START - 4).ok_or(BadHeader::Magic)?;
        if checksum(start, fields) == crc {
            Ok(Self(fields))
        } else {
            Err(BadHeader::Checksum)
        }
    }

    pub(crate) fn bytes(&mut self, len: usize, name: &'static str) -> Result<&'a [u8], BadHeader> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(BadHeader::Field(name))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        name: &'static str,
    ) -> Result<[u8; N], BadHeader> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(BadHeader::Field(name))?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(crate) fn u32(&mut self, name: &'static str) -> Result<u32, BadHeader> {
        self.array(name).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, name: &'static str) -> Result<u64, BadHeader> {
        self.array(name).map(u64::from_le_bytes)
    }

    /// A number that says yes or no.
    pub(crate) fn flag(&mut self, name: &'static str) -> Result<bool, BadHeader> {
        match self.u32(name)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadHeader::Field(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAGIC: [u8; 8] = *b"ABCDEFGH";

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_with_any_bit_changed_it_does_not(a: u32, b: u64, bit in 0_usize..((START + 12) * 8)) {
            let mut header = Fields::default().u32(a).u64(b).seal(MAGIC, 64).unwrap();
            let mut reader = Reader::open(MAGIC, &header).unwrap();
            prop_assert_eq!((reader.u32("a"), reader.u64("b")), (Ok(a), Ok(b)));
            prop_assert_eq!(reader.u32("c"), Err(BadHeader::Field("c")));
            header[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Reader::open(MAGIC, &header).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = Reader::open(MAGIC, &bytes);
        }
    }

    #[test]
    fn fields_without_room_are_no_header() {
        assert_eq!(Fields::default().bytes(&[0; 50]).seal(MAGIC, 64), None);
    }
}
