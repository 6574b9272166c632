//! The file's header and its program headers.

use std::ops::Range;

use super::{ElfError, MAX_PROGRAM_HEADERS, Segment};

const PF_X: u32 = 1;
const PF_W: u32 = 2;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;

/// The file header, reduced to what is used.
pub(super) struct Header {
    pub(super) wide: bool,
    pub(super) entry: u64,
    pub(super) program_headers: usize,
    table: u64,
}

impl Header {
    pub(super) fn parse(file: &[u8]) -> Result<Self, ElfError> {
        if !file.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        let unsupported = |field, value| Err(ElfError::Unsupported { field, value });
        let wide = match read::<1>(file, "header", 4)? {
            1 => false,
            2 => true,
            class => return unsupported("class", class),
        };
        match read::<1>(file, "header", 5)? {
            1 => {}
            order => return unsupported("byte order", order),
        }
        match read::<2>(file, "header", 16)? {
            kind if kind == u64::from(ET_EXEC) || kind == u64::from(ET_DYN) => {}
            kind => return unsupported("type", kind),
        }
        match read::<2>(file, "header", 18)? {
            machine if machine == u64::from(EM_386) || machine == u64::from(EM_X86_64) => {}
            machine => return unsupported("machine", machine),
        }
        let (entry, table, entry_size, entries) = if wide {
            (
                read::<8>(file, "header", 0x18)?,
                read::<8>(file, "header", 0x20)?,
                read::<2>(file, "header", 0x36)?,
                read::<2>(file, "header", 0x38)?,
            )
        } else {
            (
                read::<4>(file, "header", 0x18)?,
                read::<4>(file, "header", 0x1c)?,
                read::<2>(file, "header", 0x2a)?,
                read::<2>(file, "header", 0x2c)?,
            )
        };
        if entry_size != program_header_size(wide) {
            return unsupported("program header size", entry_size);
        }
        match usize::try_from(entries) {
            Ok(program_headers @ 1..=MAX_PROGRAM_HEADERS) => Ok(Self {
                wide,
                entry,
                program_headers,
                table,
            }),
            _ => unsupported("number of program headers", entries),
        }
    }

    pub(super) fn program(&self, file: &[u8], index: usize) -> Result<ProgramHeader, ElfError> {
        const WHAT: &str = "program header";
        let size = program_header_size(self.wide);
        let at = self.table.saturating_add(index as u64 * size);
        let bytes = part(file, WHAT, at, size)?;
        let field = |narrow: u64, wide: u64| {
            if self.wide {
                read::<8>(bytes, WHAT, wide)
            } else {
                read::<4>(bytes, WHAT, narrow)
            }
        };
        let flags = read::<4>(bytes, WHAT, if self.wide { 4 } else { 24 })?;
        Ok(ProgramHeader {
            kind: low_half(read::<4>(bytes, WHAT, 0)?),
            executable: low_half(flags) & PF_X != 0,
            writable: low_half(flags) & PF_W != 0,
            offset: field(4, 8)?,
            vaddr: field(8, 16)?,
            paddr: field(12, 24)?,
            file_size: field(16, 32)?,
            memory_size: field(20, 40)?,
            align: field(28, 48)?,
        })
    }
}

const fn program_header_size(wide: bool) -> u64 {
    if wide { 56 } else { 32 }
}

/// A program header as the file has it, unchecked.
pub(super) struct ProgramHeader {
    pub(super) kind: u32,
    pub(super) offset: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
    pub(super) align: u64,
    executable: bool,
    writable: bool,
    vaddr: u64,
    paddr: u64,
}

impl ProgramHeader {
    pub(super) fn segment(&self, file: &[u8]) -> Result<Segment, ElfError> {
        let bad = |problem| {
            Err(ElfError::Segment {
                paddr: self.paddr,
                size: self.memory_size,
                problem,
            })
        };
        if self.file_size > self.memory_size {
            return bad("is larger in the file than in memory");
        }
        if self.paddr.checked_add(self.memory_size).is_none()
            || self.vaddr.checked_add(self.memory_size).is_none()
        {
            return bad("wraps around the end of the address space");
        }
        Ok(Segment {
            file: range_in(file, "segment", self.offset, self.file_size)?,
            paddr: self.paddr,
            vaddr: self.vaddr,
            size: self.memory_size,
            executable: self.executable,
            writable: self.writable,
        })
    }
}

/// A little-endian number of `N` bytes.
pub(super) fn read<const N: usize>(
    bytes: &[u8],
    what: &'static str,
    at: u64,
) -> Result<u64, ElfError> {
    let number = part(bytes, what, at, N as u64)?;
    Ok(number
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

pub(super) fn low_half(wide: u64) -> u32 {
    u32::try_from(wide & u64::from(u32::MAX)).unwrap_or_default()
}

/// The bytes `at..at + size`, if there are so many.
pub(super) fn part<'a>(
    bytes: &'a [u8],
    what: &'static str,
    at: u64,
    size: u64,
) -> Result<&'a [u8], ElfError> {
    range_in(bytes, what, at, size).and_then(|range| {
        bytes.get(range).ok_or(ElfError::Truncated {
            what,
            offset: at,
            size,
        })
    })
}

/// The range `at..at + size`, if it lies in `bytes`.
pub(super) fn range_in(
    bytes: &[u8],
    what: &'static str,
    at: u64,
    size: u64,
) -> Result<Range<usize>, ElfError> {
    let range = at
        .checked_add(size)
        .and_then(|end| Some(usize::try_from(at).ok()?..usize::try_from(end).ok()?));
    match range {
        Some(range) if range.end <= bytes.len() => Ok(range),
        _ => Err(ElfError::Truncated {
            what,
            offset: at,
            size,
        }),
    }
}
