//! The headers of an ELF kernel: segments to load, and the PVH entry point from its Xen note.
//!
//! Only what a PVH start needs is read, and everything that is read is checked once, here: a [`Elf`] that exists has
//! segments that lie in the file, do not overlap in memory and do not wrap, in a bounded number.

use std::ops::Range;

use cantle_abi::elfnote::{XEN_ELFNOTE_NAME, XEN_ELFNOTE_PHYS32_ENTRY};

/// The most program headers that are looked at. Linux has five.
pub const MAX_PROGRAM_HEADERS: usize = 64;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;

/// Why a file is no ELF kernel that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// It does not begin as an ELF file does.
    #[error("the kernel is not an ELF file")]
    NotElf,
    /// It is an ELF file for something else than an x86 kernel.
    #[error("the kernel is not for x86: its ELF {field} is {value}")]
    Unsupported {
        /// Which header field says so.
        field: &'static str,
        /// The field's value.
        value: u64,
    },
    /// A part reaches beyond the end of the file, or of the part that holds it.
    #[error("the kernel is a truncated ELF file: {what} at {offset:#x} needs {size:#x} bytes")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Its offset in the file.
        offset: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// A segment cannot be placed in memory.
    #[error("the kernel has a bad ELF segment at {paddr:#x} of {size:#x} bytes: it {problem}")]
    Segment {
        /// Guest-physical address.
        paddr: u64,
        /// Size in memory, in bytes.
        size: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The note that names the PVH entry has a value that is no entry.
    #[error("the kernel has a bad PVH entry {entry:#x}: not in a segment below 4 GiB")]
    Entry {
        /// The note's value.
        entry: u64,
    },
}

/// A loadable segment: checked to lie in the file, and not to wrap in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The bytes in the file; may be shorter than the segment.
    pub file: Range<usize>,
    /// Guest-physical address of the first byte.
    pub paddr: u64,
    /// Bytes in memory; what the file does not give is zero.
    pub size: u64,
    /// Whether it holds code.
    pub executable: bool,
}

impl Segment {
    /// The first address behind the segment.
    #[must_use]
    pub fn end(&self) -> u64 {
        // Checked by `Elf::parse`.
        self.paddr.saturating_add(self.size)
    }
}

/// What a PVH start needs of an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    segments: Vec<Segment>,
    pvh_entry: Option<u32>,
}

impl Elf {
    /// Reads and checks the headers of `file`, 32- or 64-bit.
    ///
    /// # Errors
    ///
    /// [`ElfError`] for anything that is not a loadable x86 executable. A kernel without a PVH entry is none.
    pub fn parse(file: &[u8]) -> Result<Self, ElfError> {
        let header = Header::parse(file)?;
        let mut segments = Vec::new();
        let mut pvh_entry = None;
        for index in 0..header.program_headers {
            let program = header.program(file, index)?;
            match program.kind {
                PT_LOAD if program.memory_size > 0 => segments.push(program.segment(file)?),
                PT_NOTE if pvh_entry.is_none() => {
                    let notes = part(file, "note segment", program.offset, program.file_size)?;
                    pvh_entry = phys32_entry(notes, program.align)?;
                }
                _ => {}
            }
        }
        check_overlap(&segments)?;
        let pvh_entry = pvh_entry
            .map(|entry| check_entry(entry, &segments))
            .transpose()?;
        Ok(Self {
            segments,
            pvh_entry,
        })
    }

    /// The segments, in the file's order. They do not overlap.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The 32-bit PVH entry point, if the kernel names one: a guest-physical address in one of the segments.
    #[must_use]
    pub fn pvh_entry(&self) -> Option<u32> {
        self.pvh_entry
    }
}

/// The file header, reduced to what is used.
struct Header {
    wide: bool,
    table: u64,
    program_headers: usize,
}

impl Header {
    fn parse(file: &[u8]) -> Result<Self, ElfError> {
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
        let (table, entry_size, entries) = if wide {
            (
                read::<8>(file, "header", 0x20)?,
                read::<2>(file, "header", 0x36)?,
                read::<2>(file, "header", 0x38)?,
            )
        } else {
            (
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
                table,
                program_headers,
            }),
            _ => unsupported("number of program headers", entries),
        }
    }

    fn program(&self, file: &[u8], index: usize) -> Result<ProgramHeader, ElfError> {
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
            offset: field(4, 8)?,
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
struct ProgramHeader {
    kind: u32,
    executable: bool,
    offset: u64,
    paddr: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

impl ProgramHeader {
    fn segment(&self, file: &[u8]) -> Result<Segment, ElfError> {
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
        if self.paddr.checked_add(self.memory_size).is_none() {
            return bad("wraps around the end of the address space");
        }
        Ok(Segment {
            file: range_in(file, "segment", self.offset, self.file_size)?,
            paddr: self.paddr,
            size: self.memory_size,
            executable: self.executable,
        })
    }
}

/// Segments that overlap would make what is loaded depend on their order.
fn check_overlap(segments: &[Segment]) -> Result<(), ElfError> {
    let mut sorted: Vec<&Segment> = segments.iter().collect();
    sorted.sort_by_key(|s| s.paddr);
    for pair in sorted.windows(2) {
        if let [a, b] = pair
            && a.end() > b.paddr
        {
            return Err(ElfError::Segment {
                paddr: b.paddr,
                size: b.size,
                problem: "overlaps another segment",
            });
        }
    }
    Ok(())
}

fn check_entry(entry: u64, segments: &[Segment]) -> Result<u32, ElfError> {
    let loaded = segments.iter().any(|s| (s.paddr..s.end()).contains(&entry));
    match u32::try_from(entry) {
        Ok(entry) if loaded => Ok(entry),
        _ => Err(ElfError::Entry { entry }),
    }
}

/// Looks for Xen's note `PHYS32_ENTRY`. Each step is at least a note header long, so the work is bounded by the
/// segment's size. Offsets in errors count from the start of the notes.
fn phys32_entry(notes: &[u8], align: u64) -> Result<Option<u64>, ElfError> {
    const WHAT: &str = "note";
    let align = if align == 8 { 8 } else { 4 };
    let mut at = 0u64;
    // Fewer bytes than a header are padding.
    while notes.len() as u64 - at.min(notes.len() as u64) >= 12 {
        let name_size = read::<4>(notes, WHAT, at)?;
        let desc_size = read::<4>(notes, WHAT, at + 4)?;
        let kind = read::<4>(notes, WHAT, at + 8)?;
        // Three 32-bit numbers on top of an offset in a file: no overflow.
        let name_at = at + 12;
        let desc_at = (name_at + name_size).next_multiple_of(align);
        let name = part(notes, WHAT, name_at, name_size)?;
        part(notes, WHAT, desc_at, desc_size)?;
        if kind == u64::from(XEN_ELFNOTE_PHYS32_ENTRY) && name == XEN_ELFNOTE_NAME {
            // Linux gives it in pointer size.
            return match desc_size {
                4 => read::<4>(notes, WHAT, desc_at).map(Some),
                8 => read::<8>(notes, WHAT, desc_at).map(Some),
                _ => Err(ElfError::Truncated {
                    what: WHAT,
                    offset: desc_at,
                    size: 4,
                }),
            };
        }
        at = (desc_at + desc_size).next_multiple_of(align);
    }
    Ok(None)
}

/// A little-endian number of `N` bytes.
fn read<const N: usize>(bytes: &[u8], what: &'static str, at: u64) -> Result<u64, ElfError> {
    let number = part(bytes, what, at, N as u64)?;
    Ok(number
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn low_half(wide: u64) -> u32 {
    u32::try_from(wide & u64::from(u32::MAX)).unwrap_or_default()
}

/// The bytes `at..at + size`, if there are so many.
fn part<'a>(bytes: &'a [u8], what: &'static str, at: u64, size: u64) -> Result<&'a [u8], ElfError> {
    range_in(bytes, what, at, size).and_then(|range| {
        bytes.get(range).ok_or(ElfError::Truncated {
            what,
            offset: at,
            size,
        })
    })
}

/// The range `at..at + size`, if it lies in `bytes`.
fn range_in(
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

#[cfg(test)]
mod tests;
