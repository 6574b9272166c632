//! A frame with another tag: its headers are copied, and changed in the copy; the rest stays where it is.

use cantle_netport::headers::HEADERS_MAX;
use cantle_netport::port::FRAME_MAX;
use cantle_netport::{Checksum, Frame, Offload, Part};

use crate::header::{ETH_P_8021Q, ETHERNET_LEN, TAG_LEN, Tci};

const ADDRESSES_LEN: usize = 12;
/// Where the old frame's first byte goes: before it is room for a tag.
const OLD: usize = TAG_LEN;

/// What is to be done with a frame's outermost tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retag {
    Keep,
    Push(Tci),
    Replace(Tci),
    Pop,
}

/// The first bytes of a frame, rewritten, and what changes beside them.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    bytes: [u8; OLD + HEADERS_MAX + TAG_LEN],
    start: usize,
    end: usize,
    /// How many of the old frame's bytes are in it.
    copied: usize,
    pub(crate) len: usize,
    pub(crate) offload: Offload,
}

impl Head {
    /// The first bytes of `frame` as they are to be. `None` where it has no such tag, its metadata points into what goes, or it
    /// becomes too long.
    pub(crate) fn new(frame: &Frame<'_>, retag: Retag) -> Option<Self> {
        let first = frame.parts.first()?.len();
        // All that the first part must hold, also after a tag is gone: see `Frame::parts`.
        let wanted = if first < HEADERS_MAX {
            first
        } else {
            HEADERS_MAX + TAG_LEN
        };
        let mut head = Self {
            bytes: [0; _],
            start: OLD,
            end: OLD,
            copied: 0,
            len: frame.len,
            offload: frame.offload,
        };
        for part in frame.parts {
            let room = head.bytes.get_mut(head.end..OLD + wanted)?;
            let copied = part.copy_to(room);
            head.end += copied;
            head.copied += copied;
        }
        let tagged = !matches!(retag, Retag::Push(_));
        if head.copied < ETHERNET_LEN + if tagged { TAG_LEN } else { 0 } {
            return None;
        }
        let addresses = OLD..OLD + ADDRESSES_LEN;
        match retag {
            Retag::Keep => {}
            Retag::Push(tci) => {
                head.start = 0;
                head.len = head
                    .len
                    .checked_add(TAG_LEN)
                    .filter(|len| *len <= FRAME_MAX)?;
                head.bytes.copy_within(addresses, 0);
                let [a, b] = ETH_P_8021Q.to_be_bytes();
                let [c, d] = tci.0.to_be_bytes();
                let tag = head.bytes.get_mut(ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN)?;
                tag.copy_from_slice(&[a, b, c, d]);
                head.shift(ETHERNET_LEN, |at| at.checked_add(4))?;
            }
            Retag::Replace(tci) => {
                let at = OLD + ADDRESSES_LEN + 2;
                head.bytes
                    .get_mut(at..at + 2)?
                    .copy_from_slice(&tci.0.to_be_bytes());
            }
            Retag::Pop => {
                head.start = OLD + TAG_LEN;
                head.len = head.len.checked_sub(TAG_LEN)?;
                head.bytes.copy_within(addresses, OLD + TAG_LEN);
                head.shift(ETHERNET_LEN + TAG_LEN, |at| at.checked_sub(4))?;
            }
        }
        Some(head)
    }

    /// Moves the places that the metadata names, none of which may be within the link's header.
    fn shift(&mut self, link: usize, to: impl Fn(u16) -> Option<u16>) -> Option<()> {
        let beyond = |at: u16| usize::from(at) >= link;
        if let Checksum::Blank { start, .. } = &mut self.offload.checksum {
            *start = Some(*start).filter(|at| beyond(*at)).and_then(&to)?;
        }
        if let Some(gso) = &mut self.offload.gso
            && gso.header_len != 0
        {
            gso.header_len = Some(gso.header_len)
                .filter(|at| beyond(*at))
                .and_then(&to)?;
        }
        Some(())
    }

    /// The parts of the new frame, of which `old` are those of the old one.
    pub(crate) fn parts<'a>(&'a self, old: &[Part<'a>], into: &mut Vec<Part<'a>>) {
        into.push(Part::from(
            self.bytes.get(self.start..self.end).unwrap_or_default(),
        ));
        let mut copied = self.copied;
        for part in old {
            let (gone, rest) = part.split_at(copied);
            copied -= gone.len();
            if !rest.is_empty() {
                into.push(rest);
            }
        }
    }
}

#[cfg(test)]
mod tests;
