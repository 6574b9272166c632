//! The descriptor: the text that says what a VMDK is made of.
//!
//! It stands in the head of a monolithic sparse image, or is a file of its own beside its extents. VMware's "Virtual Disk Format 5.0", "The
//! Descriptor File". A descriptor is as hostile as the rest of an image: it is read up to [`MAX_LEN`] bytes, has at most
//! [`MAX_EXTENTS`] extents, and only what is understood is let through.

mod emit;
mod extent;

use std::ops::Range;

pub use emit::DescriptorText;
pub use extent::{Access, ExtentKind, ExtentLine, MAX_EXTENTS, is_plain_name};

/// The longest descriptor that is read, in bytes.
pub const MAX_LEN: usize = 256 << 10;

/// The content id that says "no parent".
pub const NO_PARENT: u32 = 0xffff_ffff;

/// A descriptor, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The content id: another one after the first write since the image was opened.
    pub cid: u32,
    /// The parent's content id when this image was made from it; [`NO_PARENT`] where there is none.
    pub parent_cid: u32,
    /// Where the parent is, as the image says. Never followed here.
    pub parent_hint: Option<String>,
    /// What kind of image it is, such as `monolithicSparse`.
    pub create_type: String,
    /// What the disk is made of, in order.
    pub extents: Vec<ExtentLine>,
    /// The disk data base: `ddb.…` keys, in small letters, and their values. At most 256.
    pub ddb: Vec<(String, String)>,
    /// Where the digits of the content id are in the text, in bytes.
    pub(crate) cid_at: Range<usize>,
}

/// Why a descriptor is none, or not one that is understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// Longer than [`MAX_LEN`].
    #[error("the descriptor has more than {MAX_LEN} bytes")]
    TooLong,
    /// It has bytes that are not UTF-8.
    #[error("the descriptor is not text")]
    NotText,
    /// It does not begin with its mark, `# Disk DescriptorFile`.
    #[error("there is no descriptor: its first line is not \"# Disk DescriptorFile\"")]
    NoMark,
    /// A value that must be there is not, or says nothing.
    #[error("the descriptor has no valid {0}")]
    Missing(&'static str),
    /// A version that is not known.
    #[error("descriptors of version {0} are not known")]
    Version(u32),
    /// The line of an extent that cannot be.
    #[error("line {line} of the descriptor is not an extent")]
    Extent {
        /// Which line, from 1.
        line: usize,
    },
    /// No extent, or more than [`MAX_EXTENTS`].
    #[error("the descriptor has no extents, or more than {MAX_EXTENTS}")]
    Extents,
}

impl Descriptor {
    /// Understands a descriptor. What follows the first NUL is not looked at.
    ///
    /// # Errors
    ///
    /// [`DescriptorError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DescriptorError> {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let bytes = bytes.get(..end).unwrap_or(bytes);
        if bytes.len() > MAX_LEN {
            return Err(DescriptorError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| DescriptorError::NotText)?;
        if !looks_like_descriptor(bytes) {
            return Err(DescriptorError::NoMark);
        }
        let mut draft = Draft::default();
        let mut at = 0;
        for (number, line) in text.split('\n').enumerate() {
            draft.line(number + 1, at, line)?;
            at += line.len() + 1;
        }
        draft.finish()
    }

    /// The size of the disk in sectors, or `None` where it has more than fit in 63 bits of bytes.
    #[must_use]
    pub fn sectors(&self) -> Option<u64> {
        let mut sum = 0u64;
        for extent in &self.extents {
            sum = sum.checked_add(extent.sectors)?;
        }
        (sum <= i64::MAX.cast_unsigned() / 512).then_some(sum)
    }

    /// A value of the disk data base, by its key in small letters.
    #[must_use]
    pub fn ddb(&self, key: &str) -> Option<&str> {
        self.ddb
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }
}

/// Whether these are the first bytes of a descriptor.
#[must_use]
pub fn looks_like_descriptor(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"# disk descriptorfile";
    // Some writers begin with a blank line or a mark of byte order.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let bytes = bytes.trim_ascii_start();
    bytes
        .get(..MARK.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(MARK))
}

/// How many entries of the disk data base are kept.
const MAX_DDB: usize = 256;

#[derive(Default)]
struct Draft {
    version: Option<u32>,
    cid: Option<(u32, Range<usize>)>,
    parent_cid: Option<u32>,
    parent_hint: Option<String>,
    create_type: Option<String>,
    extents: Vec<ExtentLine>,
    ddb: Vec<(String, String)>,
}

impl Draft {
    /// Takes a line that begins at the byte `at`.
    fn line(&mut self, number: usize, at: usize, line: &str) -> Result<(), DescriptorError> {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            return Ok(());
        }
        if Access::begins(trimmed) {
            if self.extents.len() >= MAX_EXTENTS {
                return Err(DescriptorError::Extents);
            }
            let extent = ExtentLine::parse(trimmed);
            self.extents
                .push(extent.ok_or(DescriptorError::Extent { line: number })?);
            return Ok(());
        }
        // A line of neither kind is from somebody who knows more than we do.
        if let Some((key, raw)) = line.split_once('=') {
            let value_at = at + key.len() + 1;
            self.value(&key.trim().to_ascii_lowercase(), raw, value_at)?;
        }
        Ok(())
    }

    /// The first of several values of a key counts.
    fn value(&mut self, key: &str, raw: &str, at: usize) -> Result<(), DescriptorError> {
        let value = raw.trim();
        let text = unquote(value);
        match key {
            "version" if self.version.is_none() => {
                let version = text.parse().ok();
                self.version = Some(version.ok_or(DescriptorError::Missing("version"))?);
            }
            "cid" if self.cid.is_none() => {
                let cid = parse_cid(value).ok_or(DescriptorError::Missing("CID"))?;
                let start = at + (raw.len() - raw.trim_start().len());
                self.cid = Some((cid, start..start + value.len()));
            }
            "parentcid" if self.parent_cid.is_none() => {
                let cid = parse_cid(value).ok_or(DescriptorError::Missing("parentCID"))?;
                self.parent_cid = Some(cid);
            }
            "parentfilenamehint" if self.parent_hint.is_none() => {
                self.parent_hint = Some(text.to_owned());
            }
            "createtype" if self.create_type.is_none() => self.create_type = Some(text.to_owned()),
            _ if key.starts_with("ddb.") && self.ddb.len() < MAX_DDB => {
                self.ddb.push((key.to_owned(), text.to_owned()));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Descriptor, DescriptorError> {
        match self.version {
            Some(1..=3) => {}
            Some(other) => return Err(DescriptorError::Version(other)),
            None => return Err(DescriptorError::Missing("version")),
        }
        if self.extents.is_empty() {
            return Err(DescriptorError::Extents);
        }
        let (cid, cid_at) = self.cid.ok_or(DescriptorError::Missing("CID"))?;
        Ok(Descriptor {
            cid,
            parent_cid: self.parent_cid.unwrap_or(NO_PARENT),
            parent_hint: self.parent_hint,
            create_type: self
                .create_type
                .ok_or(DescriptorError::Missing("createType"))?,
            extents: self.extents,
            ddb: self.ddb,
            cid_at,
        })
    }
}

/// One to eight hexadecimal digits, and nothing else (a sign, say).
fn parse_cid(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
    if digits && (1..=8).contains(&text.len()) {
        u32::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

fn unquote(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests;
