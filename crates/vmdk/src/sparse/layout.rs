//! Where the metadata of a sparse extent is, read and checked once.

use std::io::Result;

use cantle_image::Storage;

use super::header::{AT_END, Header, HeaderError, TABLE_SECTORS, le32};

/// Sectors that a grain table's entry can name, and so the most that are looked at of any file.
pub(crate) const ADDRESSABLE: u64 = 1 << 32;

/// Why the layout of a sparse extent is not one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The host's.
    #[error("cannot read the extent")]
    Read(#[source] std::io::Error),
    /// Its header is not one.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A part of the metadata is not in the file.
    #[error("{what} at sector {sector} is outside the file of {end} sectors")]
    Outside {
        /// What it is.
        what: &'static str,
        /// Where it would begin.
        sector: u64,
        /// The file's length.
        end: u64,
    },
    /// Two parts of the metadata are at one place.
    #[error("parts of the metadata lie over each other at sector {sector}")]
    Overlap {
        /// Where the second one begins.
        sector: u64,
    },
}

/// A header with its directories.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) header: Header,
    /// The sector of each grain table; 0: there is none, and nothing is allocated.
    pub(crate) tables: Vec<u32>,
    /// The sectors of their copies; empty where the extent has none.
    pub(crate) copies: Vec<u32>,
    /// Where metadata is: first sectors and ends, sorted, apart from each other.
    occupied: Vec<(u64, u64)>,
}

impl Layout {
    pub(crate) fn read(storage: &impl Storage) -> std::result::Result<Self, LayoutError> {
        let end = (storage.len().map_err(LayoutError::Read)? / 512).min(ADDRESSABLE);
        let mut header = read_header(storage, 0).map_err(LayoutError::Read)??;
        if header.directory == AT_END {
            header = footer(storage, &header, end)?;
        }
        let mut parts = Parts {
            end,
            parts: vec![(0, 1)],
        };
        if header.descriptor != 0 {
            parts.add(
                "the descriptor",
                header.descriptor,
                header.descriptor_sectors,
            )?;
        }
        let tables = directory(storage, &header, header.directory, &mut parts)?;
        let copies = match header.redundant {
            // A compressed extent is never written, and its copy has been seen to say nonsense.
            Some(at) if !header.compressed => directory(storage, &header, at, &mut parts)?,
            _ => Vec::new(),
        };
        Ok(Self {
            header,
            tables,
            copies,
            occupied: parts.apart()?,
        })
    }

    /// Whether there is metadata in these sectors, or room that the header sets aside for it.
    pub(crate) fn is_occupied(&self, sector: u64, sectors: u64) -> bool {
        if sector < self.header.overhead && !self.header.compressed {
            return true;
        }
        let end = sector.saturating_add(sectors);
        let at = self.occupied.partition_point(|(_, until)| *until <= sector);
        self.occupied.get(at).is_some_and(|(from, _)| *from < end)
    }

    /// The first sector that grains may be in, and from which they are counted.
    pub(crate) fn data_start(&self) -> u64 {
        let last = self.occupied.last().map_or(0, |(_, end)| *end);
        last.max(self.header.overhead.min(ADDRESSABLE))
            .next_multiple_of(self.header.grain)
    }

    /// Whether each table, and each copy where there are any, is there.
    pub(crate) fn is_whole(&self) -> bool {
        !self.tables.contains(&0) && !self.copies.contains(&0)
    }
}

fn read_header(
    storage: &impl Storage,
    sector: u64,
) -> Result<std::result::Result<Header, HeaderError>> {
    let mut bytes = [0; 512];
    storage.read_at(sector * 512, &mut bytes)?;
    Ok(Header::parse(&bytes))
}

/// The footer: the last sector but one, a header that knows where the directory is.
fn footer(
    storage: &impl Storage,
    header: &Header,
    end: u64,
) -> std::result::Result<Header, LayoutError> {
    let at = end.checked_sub(2).ok_or(HeaderError::Footer)?;
    let footer = read_header(storage, at).map_err(LayoutError::Read)?;
    let footer = footer.map_err(|_| HeaderError::Footer)?;
    let same = footer.capacity == header.capacity
        && footer.grain == header.grain
        && footer.compressed == header.compressed;
    if !same || !header.compressed || footer.directory == AT_END {
        return Err(HeaderError::Footer.into());
    }
    Ok(Header {
        directory: footer.directory,
        ..*header
    })
}

/// Reads a directory, whose length is bounded by the header's check.
fn directory(
    storage: &impl Storage,
    header: &Header,
    at: u64,
    parts: &mut Parts,
) -> std::result::Result<Vec<u32>, LayoutError> {
    let sectors = header.directory_sectors();
    parts.add("a grain directory", at, sectors)?;
    let outside = || LayoutError::Outside {
        what: "a grain directory",
        sector: at,
        end: parts.end,
    };
    let count = usize::try_from(header.tables()).map_err(|_| outside())?;
    let mut bytes = vec![0; count * 4];
    storage
        .read_at(at * 512, &mut bytes)
        .map_err(LayoutError::Read)?;
    let mut tables = Vec::with_capacity(count);
    for entry in bytes.chunks_exact(4) {
        let table = le32(entry, 0);
        if table != 0 {
            parts.add("a grain table", table.into(), TABLE_SECTORS)?;
        }
        tables.push(table);
    }
    Ok(tables)
}

struct Parts {
    end: u64,
    parts: Vec<(u64, u64)>,
}

impl Parts {
    fn add(
        &mut self,
        what: &'static str,
        sector: u64,
        sectors: u64,
    ) -> std::result::Result<(), LayoutError> {
        let end = sector.checked_add(sectors);
        match end.filter(|end| *end <= self.end && sector != 0) {
            Some(end) => {
                self.parts.push((sector, end));
                Ok(())
            }
            None => Err(LayoutError::Outside {
                what,
                sector,
                end: self.end,
            }),
        }
    }

    /// Sorted, and neighbours made one.
    fn apart(mut self) -> std::result::Result<Vec<(u64, u64)>, LayoutError> {
        self.parts.retain(|(from, end)| from < end);
        self.parts.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::new();
        for (from, end) in self.parts {
            match apart.last_mut() {
                Some((_, last)) if from < *last => {
                    return Err(LayoutError::Overlap { sector: from });
                }
                Some((_, last)) if from == *last => *last = end,
                _ => apart.push((from, end)),
            }
        }
        Ok(apart)
    }
}
