//! Spreading frames over the guest's pages.

use std::collections::VecDeque;

use cantle_abi::DomId;
use cantle_abi::io::netif::{
    NETIF_RSP_ERROR, NETRXF_extra_info, NETRXF_gso_prefix, NETRXF_more_data, NetifRxRequest,
    NetifRxResponse,
};
use cantle_grant::{CopyPiece, Local};
use cantle_netport::Part;

use super::frame::{FrameInfo, FrontEnd, Layout, Said};

/// A response to be, and how many copies it stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) response: NetifRxResponse,
    pub(super) copies: u16,
}

/// Where frames are spread to: copies and responses, in the ring's order.
pub(super) struct Fill<'f, 'a> {
    pub(super) granter: DomId,
    pub(super) front: FrontEnd,
    pub(super) layout: Layout,
    /// Pages the guest has posted.
    pub(super) posted: &'f mut VecDeque<NetifRxRequest>,
    pub(super) copies: &'f mut Vec<CopyPiece<'a>>,
    pub(super) answers: &'f mut Vec<Answer>,
}

impl<'a> Fill<'_, 'a> {
    /// Spreads a frame, for which enough pages are posted, over the next of them.
    pub(super) fn frame(&mut self, info: &FrameInfo, parts: impl Iterator<Item = Part<'a>>) {
        let said = Said::of(info, &self.front);
        let slots = self.layout.slots(info);
        if let Some(size) = said.prefix {
            let flags = NETRXF_gso_prefix | NETRXF_more_data;
            self.say(|id| NetifRxResponse {
                id,
                offset: size,
                flags,
                status: i16::try_from(slots).unwrap_or(i16::MAX),
            });
        }
        let mut source = Source {
            parts,
            left: Part::from(&[][..]),
        };
        let mut flags = said.flags;
        if said.extras[0].is_some() {
            flags |= NETRXF_extra_info;
        }
        let mut left = info.len;
        let mut first = true;
        while left > 0 {
            let len = left.min(self.layout.room());
            left -= len;
            if left > 0 {
                flags |= NETRXF_more_data;
            }
            self.page(&mut source, len, flags);
            flags = 0;
            if std::mem::take(&mut first) {
                // Extra info takes the place of the responses after the first, whose pages go back unused.
                for extra in said.extras.into_iter().flatten() {
                    self.say(|_| extra.to_rx_slot());
                }
            }
        }
    }

    /// Fills one page with the next `len` bytes.
    fn page(
        &mut self,
        source: &mut Source<'a, impl Iterator<Item = Part<'a>>>,
        len: usize,
        flags: u16,
    ) {
        let Some(request) = self.posted.pop_front() else {
            return;
        };
        let headroom = self.layout.headroom;
        let (mut filled, mut copies) = (0_u16, 0);
        while usize::from(filled) < len {
            let Some(part) = source.next(len - usize::from(filled)) else {
                break;
            };
            self.copies.push(CopyPiece {
                granter: self.granter,
                gref: request.gref,
                offset: headroom + filled,
                local: Local::Shared(part.bytes()),
                status: Ok(()),
            });
            copies += 1;
            // A page's worth at most.
            filled += u16::try_from(part.len()).unwrap_or(0);
        }
        let whole = usize::from(filled) == len;
        let status = i16::try_from(len).ok().filter(|_| whole);
        self.answers.push(Answer {
            response: NetifRxResponse {
                id: request.id,
                offset: headroom,
                flags,
                status: status.unwrap_or(NETIF_RSP_ERROR),
            },
            copies,
        });
    }

    /// A slot without data.
    fn say(&mut self, response: impl FnOnce(u16) -> NetifRxResponse) {
        if let Some(request) = self.posted.pop_front() {
            self.answers.push(Answer {
                response: response(request.id),
                copies: 0,
            });
        }
    }
}

/// A frame's bytes, taken piece by piece.
struct Source<'a, I> {
    parts: I,
    left: Part<'a>,
}

impl<'a, I: Iterator<Item = Part<'a>>> Source<'a, I> {
    /// The next bytes, `len` at most.
    fn next(&mut self, len: usize) -> Option<Part<'a>> {
        while self.left.is_empty() {
            self.left = self.parts.next()?;
        }
        let (next, left) = self.left.split_at(len);
        self.left = left;
        Some(next)
    }
}
