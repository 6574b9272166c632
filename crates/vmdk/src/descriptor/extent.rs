//! A line of a descriptor that says what a part of the disk is.

/// The most extents of an image: 2 TiB in files of 2 GiB.
pub const MAX_EXTENTS: usize = 1024;

/// What may be done with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `RW`
    ReadWrite,
    /// `RDONLY`
    ReadOnly,
    /// `NOACCESS`
    None,
}

/// What an extent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// `FLAT` (and `VMFS`, which is the same on VMware's file system): the bytes lie in a file, one after the other.
    Flat {
        /// The file's name.
        file: String,
        /// The sector of the file where they begin.
        offset: u64,
    },
    /// `SPARSE`: a file with a sparse header and tables.
    Sparse {
        /// The file's name.
        file: String,
    },
    /// `ZERO`: zeroes that are nowhere.
    Zero,
    /// A kind that is not supported, by its name: `VMFSSPARSE`, `SESPARSE`, raw devices …
    Other(String),
}

/// A part of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentLine {
    /// What may be done with it.
    pub access: Access,
    /// Its size in sectors; not 0.
    pub sectors: u64,
    /// What it is.
    pub kind: ExtentKind,
}

impl Access {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "RW" => Some(Self::ReadWrite),
            "RDONLY" => Some(Self::ReadOnly),
            "NOACCESS" => Some(Self::None),
            _ => None,
        }
    }

    /// Whether this line is one of an extent.
    pub(crate) fn begins(line: &str) -> bool {
        let word = line.split_ascii_whitespace().next().unwrap_or_default();
        Self::parse(word).is_some()
    }
}

impl ExtentLine {
    /// `ACCESS SECTORS KIND ["FILE" [OFFSET]]`
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (access, rest) = word(line)?;
        let (sectors, rest) = word(rest)?;
        let (kind, rest) = word(rest).unwrap_or_default();
        let sectors = number(sectors).filter(|n| *n != 0)?;
        let kind = match kind.to_ascii_uppercase().as_str() {
            "FLAT" | "VMFS" => {
                let (file, rest) = quoted(rest)?;
                let offset = match rest.trim() {
                    "" => 0,
                    text => number(text)?,
                };
                ExtentKind::Flat { file, offset }
            }
            "SPARSE" => {
                let (file, rest) = quoted(rest)?;
                if !rest.trim().is_empty() {
                    return None;
                }
                ExtentKind::Sparse { file }
            }
            "ZERO" => ExtentKind::Zero,
            "" => return None,
            other => ExtentKind::Other(other.to_owned()),
        };
        Some(Self {
            access: Access::parse(access)?,
            sectors,
            kind,
        })
    }

    /// The file that it lies in.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match &self.kind {
            ExtentKind::Flat { file, .. } | ExtentKind::Sparse { file } => Some(file),
            ExtentKind::Zero | ExtentKind::Other(_) => None,
        }
    }
}

/// The first word, and what follows.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text
        .find(|c: char| c.is_ascii_whitespace())
        .unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end)?;
    (!word.is_empty()).then_some((word, rest))
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let (name, rest) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    (!name.is_empty()).then(|| (name.to_owned(), rest))
}

/// Decimal digits only.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Whether this is the name of a file in the folder that one is in, and can only be that.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    let bad = |c: char| matches!(c, '/' | '\\' | '"') || c.is_control();
    !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(bad)
}
