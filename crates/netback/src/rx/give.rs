//! Giving what waits to the guest.

use std::time::Instant;

use cantle_abi::io::netif::{NETIF_RSP_ERROR, NetifRxRequest, NetifRxResponse};
use cantle_abi::ring::{BackRing, RingBroken};
use cantle_grant::{CopyPiece, Mapping};
use cantle_netport::recycle;

use super::fill::{Answer, Fill};
use super::queue::RxQueue;
use crate::control::StaticGrants;
use crate::shared::Shared;
use crate::statics;

impl RxQueue {
    /// Gives the waiting frames for which there are pages, and credit, to the guest; returns how many.
    pub(super) fn give(&mut self, now: Instant) -> Result<usize, RingBroken> {
        if self.backlog.is_empty() {
            return Ok(0);
        }
        let layout = self.layout();
        let mut copies: Vec<CopyPiece<'_>> = recycle(std::mem::take(&mut self.copies));
        self.answers.clear();
        let (mut given, mut bytes) = (0, 0);
        for (info, part) in self.backlog.frames() {
            if layout.slots(info) > self.posted.len()
                || self.shared.rx_credit.take(now, info.len).is_err()
            {
                break;
            }
            let mut fill = Fill {
                granter: self.shared.granter,
                front: self.front,
                layout,
                posted: &mut self.posted,
                copies: &mut copies,
                answers: &mut self.answers,
            };
            fill.frame(info, std::iter::once(part));
            given += 1;
            bytes += info.len as u64;
        }
        let (ring, answers) = (&mut self.ring, &self.answers);
        fill_and_respond(ring, answers, &mut copies, &self.statics, &self.shared)?;
        self.copies = recycle(copies);
        self.shared.stats.rx.count(given as u64, bytes);
        self.backlog.pop(given);
        Ok(given)
    }
}

/// Copies into the guest's pages, and puts the responses on the ring: an error where any of a page's copies failed.
pub(super) fn fill_and_respond(
    ring: &mut BackRing<NetifRxRequest, NetifRxResponse, Mapping>,
    answers: &[Answer],
    copies: &mut [CopyPiece<'_>],
    statics: &StaticGrants,
    shared: &Shared,
) -> Result<(), RingBroken> {
    statics::copy(statics, &*shared.grants, copies);
    let mut statuses = copies.iter().map(|piece| piece.status);
    for answer in answers {
        let mut response = answer.response;
        // Each one is looked at: a later success does not make an earlier failure good.
        let pieces = statuses.by_ref().take(answer.copies.into());
        if pieces.filter(Result::is_err).count() > 0 {
            response.status = NETIF_RSP_ERROR;
            shared.stats.rx.count_error();
        }
        ring.push_response(&response)?;
    }
    Ok(())
}
