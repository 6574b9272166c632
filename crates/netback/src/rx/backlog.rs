//! Frames that wait for the guest to post pages, in memory of a fixed size.

use std::collections::VecDeque;
use std::fmt;

use cantle_netport::{Offload, Part};

use super::frame::FrameInfo;

/// Frames that wait at most, however small they are.
const FRAMES_MAX: usize = 1024;

/// A frame that waits.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: usize,
    info: FrameInfo,
}

/// A queue of frames, each in one piece, in an arena that is used round and round.
pub(super) struct Backlog {
    arena: Box<[u8]>,
    entries: VecDeque<Entry>,
    /// Where the next frame goes, if there is room.
    tail: usize,
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlog")
            .field("frames", &self.entries.len())
            .field("size", &self.arena.len())
            .finish_non_exhaustive()
    }
}

impl Backlog {
    /// One of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            arena: vec![0; size].into_boxed_slice(),
            entries: VecDeque::new(),
            tail: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The frames in order.
    pub(super) fn frames(&self) -> impl Iterator<Item = (&FrameInfo, Part<'_>)> {
        self.entries.iter().map(|entry| {
            let bytes = self.arena.get(entry.at..entry.at + entry.info.len);
            (&entry.info, Part::from(bytes.unwrap_or_default()))
        })
    }

    pub(super) fn first(&self) -> Option<&FrameInfo> {
        self.entries.front().map(|entry| &entry.info)
    }

    /// Drops the first `count` frames.
    pub(super) fn pop(&mut self, count: usize) {
        self.entries.drain(..count.min(self.entries.len()));
        if self.entries.is_empty() {
            self.tail = 0;
        }
    }

    /// Drops the newest frame.
    pub(super) fn pop_last(&mut self) {
        if let Some(entry) = self.entries.pop_back() {
            self.tail = entry.at;
        }
    }

    /// Room for a frame of up to `len` bytes, in one piece; `None` where there is none until frames are gone. What is written there counts
    /// once it is [pushed](Self::push).
    pub(super) fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        let at = self.place(len)?;
        self.arena.get_mut(at..at + len)
    }

    /// Adds the frame that has been written into the [room](Self::room) for `room` bytes.
    pub(super) fn push(&mut self, room: usize, info: FrameInfo) {
        if let Some(at) = self.place(room).filter(|_| info.len <= room) {
            self.entries.push_back(Entry { at, info });
            self.tail = at + info.len;
        }
    }

    /// Copies a frame in; false where there is no room.
    pub(super) fn push_parts(&mut self, parts: &[Part<'_>], info: FrameInfo) -> bool {
        let Some(room) = self.room(info.len) else {
            return false;
        };
        // Shorter than it was said to be: what was there before is nobody else's than this guest's, but it is no frame.
        if Part::copy_all(parts.iter().copied(), room) < info.len {
            return false;
        }
        self.push(info.len, info);
        true
    }

    /// The newest frame, to be changed in place: its bytes and its metadata.
    pub(super) fn last_mut(&mut self) -> Option<(&mut [u8], &mut Offload)> {
        let entry = self.entries.back_mut()?;
        let bytes = self.arena.get_mut(entry.at..entry.at + entry.info.len)?;
        Some((bytes, &mut entry.info.offload))
    }

    /// Where a frame of `len` bytes can go: after the newest one, or at the arena's start.
    fn place(&self, len: usize) -> Option<usize> {
        if self.entries.len() >= FRAMES_MAX {
            return None;
        }
        let Some(first) = self.entries.front().map(|entry| entry.at) else {
            return (len <= self.arena.len()).then_some(0);
        };
        if self.tail > first {
            if len <= self.arena.len() - self.tail {
                return Some(self.tail);
            }
            // Strictly less, so that a full arena is not taken for an empty one.
            return (len < first).then_some(0);
        }
        (len < first - self.tail).then_some(self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(len: usize) -> FrameInfo {
        FrameInfo {
            len,
            ..FrameInfo::default()
        }
    }

    proptest! {
        /// Against a queue of vectors: what comes out is what went in, and something is refused only where it might not fit.
        #[test]
        fn frames_come_out_as_they_went_in(steps in prop::collection::vec((any::<bool>(), 1_usize..400), 1..400)) {
            let mut backlog = Backlog::new(1000);
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            let mut next = 0_u8;
            for (push, len) in steps {
                if push {
                    next = next.wrapping_add(1);
                    let bytes: Vec<u8> = (0..len).map(|n| next ^ u8::try_from(n % 251).unwrap()).collect();
                    let (first, second) = bytes.split_at(len / 3);
                    let taken = backlog.push_parts(&[Part::from(first), Part::from(second)], info(len));
                    let waiting: usize = model.iter().map(Vec::len).sum();
                    // What is lost is a gap at the arena's end, shorter than the frame that did not fit there.
                    prop_assert!(taken || waiting + len + 400 >= 1000, "{waiting} bytes wait, {len} are refused");
                    if taken {
                        model.push_back(bytes);
                    }
                } else {
                    let count = len % 4;
                    backlog.pop(count);
                    model.drain(..count.min(model.len()));
                }
                prop_assert_eq!(backlog.len(), model.len());
                for ((info, part), bytes) in backlog.frames().zip(&model) {
                    let mut seen = vec![0; info.len];
                    part.copy_to(&mut seen);
                    prop_assert_eq!(&seen, bytes);
                }
            }
        }
    }

    #[test]
    fn small_frames_are_bounded_in_number() {
        let mut backlog = Backlog::new(1 << 20);
        let taken = (0..5000).filter(|_| backlog.push_parts(&[Part::from(&[7; 14][..])], info(14)));
        assert_eq!(taken.count(), FRAMES_MAX);
    }

    #[test]
    fn a_frame_that_is_shorter_than_said_is_none() {
        let mut backlog = Backlog::new(1000);
        assert!(!backlog.push_parts(&[Part::from(&[1, 2, 3][..])], info(4)));
        assert!(backlog.is_empty());
    }
}
