//! The headers of an ELF kernel: segments to load, where it begins, and its notes for Xen.
//!
//! Only what a start needs is read, and everything that is read is checked once, here: a [`Elf`] that exists has
//! segments that lie in the file, do not overlap in memory and do not wrap, in a bounded number.

mod header;
mod notes;
mod section;

use std::ops::Range;

use cantle_abi::elfnote::XEN_ELFNOTE_PHYS32_ENTRY;

use header::{Header, part};
pub use notes::Note;

/// The most program headers that are looked at. Linux has five.
pub const MAX_PROGRAM_HEADERS: usize = 64;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

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
    /// Virtual address of it. Linux's per-CPU segment has one that means nothing.
    pub vaddr: u64,
    /// Bytes in memory; what the file does not give is zero.
    pub size: u64,
    /// Whether it holds code.
    pub executable: bool,
    /// Whether it is written to.
    pub writable: bool,
}

impl Segment {
    /// The first address behind the segment.
    #[must_use]
    pub fn end(&self) -> u64 {
        // Checked by `Elf::parse`.
        self.paddr.saturating_add(self.size)
    }
}

/// What a start needs of an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    wide: bool,
    entry: u64,
    segments: Vec<Segment>,
    notes: Vec<Note>,
    xen_guest: Option<Vec<u8>>,
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
        let mut notes = Vec::new();
        for index in 0..header.program_headers {
            let program = header.program(file, index)?;
            match program.kind {
                PT_LOAD if program.memory_size > 0 => segments.push(program.segment(file)?),
                PT_NOTE => {
                    let bytes = part(file, "note segment", program.offset, program.file_size)?;
                    notes::collect(bytes, program.align, &mut notes)?;
                }
                _ => {}
            }
        }
        check_overlap(&segments)?;
        let entry = notes
            .iter()
            .find(|note| note.kind == XEN_ELFNOTE_PHYS32_ENTRY);
        let pvh_entry = entry
            .map(|note| check_entry(note.checked_number()?, &segments))
            .transpose()?;
        Ok(Self {
            wide: header.wide,
            entry: header.entry,
            segments,
            xen_guest: section::xen_guest(file, &header),
            notes,
            pvh_entry,
        })
    }

    /// Whether it is a 64-bit file.
    #[must_use]
    pub fn is_64_bit(&self) -> bool {
        self.wide
    }

    /// The entry point of the file's header, unchecked.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The segments, in the file's order. They do not overlap.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Xen's notes, in the file's order.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// What old kernels have instead of notes: the section `__xen_guest`, at most 4096 bytes of it.
    #[must_use]
    pub fn xen_guest(&self) -> Option<&[u8]> {
        self.xen_guest.as_deref()
    }

    /// The 32-bit PVH entry point, if the kernel names one: a guest-physical address in one of the segments.
    #[must_use]
    pub fn pvh_entry(&self) -> Option<u32> {
        self.pvh_entry
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

#[cfg(test)]
mod tests;
