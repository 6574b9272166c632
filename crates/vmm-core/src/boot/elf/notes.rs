//! Xen's notes in a note segment.

use cantle_abi::elfnote::XEN_ELFNOTE_NAME;

use super::ElfError;
use super::header::{low_half, part, read};

const WHAT: &str = "note";
/// The most notes that are kept. Linux has fourteen.
const MOST: usize = 64;
/// The longest note that is kept, in bytes.
const LONGEST: usize = 4096;

/// A note of Xen's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// `XEN_ELFNOTE_*`.
    pub kind: u32,
    /// What it says, at most 4096 bytes.
    pub value: Vec<u8>,
}

impl Note {
    /// The number that it says, of 4 or 8 bytes.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self.value.len() {
            4 => read::<4>(&self.value, WHAT, 0).ok(),
            8 => read::<8>(&self.value, WHAT, 0).ok(),
            _ => None,
        }
    }

    /// The text that it says, without a 0 at its end.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let text = self.value.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(text).ok()
    }

    pub(super) fn checked_number(&self) -> Result<u64, ElfError> {
        self.number().ok_or(ElfError::Truncated {
            what: WHAT,
            offset: 0,
            size: 4,
        })
    }
}

/// Adds the notes of a segment that are Xen's. Each step is at least a note header long, so the work is bounded by the
/// segment's size. Offsets in errors count from the start of the notes.
pub(super) fn collect(notes: &[u8], align: u64, found: &mut Vec<Note>) -> Result<(), ElfError> {
    let align = if align == 8 { 8 } else { 4 };
    let mut at = 0u64;
    // Fewer bytes than a header are padding.
    while notes.len() as u64 - at.min(notes.len() as u64) >= 12 {
        let name_size = read::<4>(notes, WHAT, at)?;
        let desc_size = read::<4>(notes, WHAT, at + 4)?;
        let kind = low_half(read::<4>(notes, WHAT, at + 8)?);
        // Three 32-bit numbers on top of an offset in a file: no overflow.
        let name_at = at + 12;
        let desc_at = (name_at + name_size).next_multiple_of(align);
        let name = part(notes, WHAT, name_at, name_size)?;
        let value = part(notes, WHAT, desc_at, desc_size)?;
        if name == XEN_ELFNOTE_NAME && found.len() < MOST && value.len() <= LONGEST {
            let value = value.to_vec();
            found.push(Note { kind, value });
        }
        at = (desc_at + desc_size).next_multiple_of(align);
    }
    Ok(())
}
