//! Frames in one piece, and what is done in software to those that their receiver cannot take as they are.

use std::collections::VecDeque;
use std::ops::Range;

use super::{FRAME_MAX, Frame};
use crate::segment::{Segments, Sums};
use crate::{Checksum, Offload, Offloads, Part, PartMut, checksum};

/// Appends a frame's bytes. False, and nothing appended, where they are not as many as it says, or too many for any port.
pub(super) fn gather(frame: &Frame<'_>, to: &mut Vec<u8>) -> bool {
    let (start, total) = (to.len(), frame.parts.iter().map(|part| part.len()));
    if total.sum::<usize>() != frame.len || frame.len > FRAME_MAX {
        return false;
    }
    let end = start + frame.len;
    to.resize(end, 0);
    Part::copy_all(
        frame.parts.iter().copied(),
        to.get_mut(start..end).unwrap_or_default(),
    );
    true
}

/// Scatters a frame's bytes. False where there is no room for all of them; some are written then.
pub(super) fn scatter(bytes: &[u8], into: &mut [PartMut<'_>]) -> bool {
    let mut rest = bytes;
    for part in into {
        let copied = part.copy_from(rest);
        rest = rest.get(copied..).unwrap_or_default();
    }
    rest.is_empty()
}

/// Makes of a frame one or several that a receiver takes, and gives each to `to` with its metadata. `scratch` is used for
/// segments. False, and nothing given, where its headers are not those of its metadata.
pub(super) fn finish(
    frame: &mut [u8],
    offload: &Offload,
    accepted: Offloads,
    scratch: &mut Vec<u8>,
    mut to: impl FnMut(&[u8], &Offload),
) -> bool {
    let whole = Offloads {
        checksum: true,
        ..accepted
    };
    if whole.takes(offload) {
        // Only its checksum, if anything. A large packet is never left with a blank one that nobody takes.
        let mut offload = *offload;
        if let Checksum::Blank { start, offset } = offload.checksum
            && !accepted.checksum
        {
            if !checksum::complete(frame, start, offset) {
                return false;
            }
            offload.checksum = Checksum::Present;
        }
        to(frame, &offload);
        return true;
    }
    let sums = if accepted.checksum {
        Sums::Blank
    } else {
        Sums::Complete
    };
    let Ok(mut segments) = Segments::new(frame, offload, sums) else {
        return false;
    };
    let offload = segments.offload();
    scratch.resize(segments.max_len(), 0);
    while let Some(len) = segments.next_into(scratch) {
        to(scratch.get(..len).unwrap_or_default(), &offload);
    }
    true
}

/// Frames that were made of one large one and wait to be read. They are as many bytes as the large one with its headers before each
/// piece.
#[derive(Debug, Default)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    frames: VecDeque<(Range<usize>, Offload)>,
    scratch: Vec<u8>,
}

impl Pending {
    /// Takes a frame apart as far as the receiver needs. False where that cannot be done: it is lost.
    pub(super) fn push(&mut self, frame: &mut [u8], offload: &Offload, accepted: Offloads) -> bool {
        if self.frames.is_empty() {
            self.bytes.clear();
        }
        let Self {
            bytes,
            frames,
            scratch,
        } = self;
        finish(frame, offload, accepted, scratch, |frame, offload| {
            let start = bytes.len();
            bytes.extend_from_slice(frame);
            frames.push_back((start..bytes.len(), *offload));
        })
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<(&[u8], Offload)> {
        let (range, offload) = self.frames.pop_front()?;
        Some((self.bytes.get(range)?, offload))
    }
}

#[cfg(test)]
mod tests;
