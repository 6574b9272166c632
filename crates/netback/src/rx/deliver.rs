//! Frames from other threads.

use std::time::Instant;

use cantle_abi::ring::RingBroken;
use cantle_grant::CopyPiece;
use cantle_netport::headers::HEADERS_MAX;
use cantle_netport::port::FRAME_MAX;
use cantle_netport::{Frame, Part, recycle};

use super::fill::Fill;
use super::frame::{FrameInfo, Plan};
use super::give::fill_and_respond;
use super::queue::RxQueue;
use crate::pass::Pass;

impl RxQueue {
    /// Takes frames from whoever has some. Those that there are no pages for wait, up to the bound. Whether the guest is to be notified,
    /// and when there is to be another look.
    pub(crate) fn deliver(
        &mut self,
        frames: &mut [Frame<'_>],
        now: Instant,
    ) -> Result<Pass, RingBroken> {
        self.collect()?;
        let mut pass = Pass::default();
        let straight = if self.backlog.is_empty() {
            self.give_straight(frames, now)?
        } else {
            0
        };
        for frame in frames.iter_mut().skip(straight) {
            frame.taken = self.accept(frame, now);
            if !frame.taken {
                self.shared.stats.rx.count_dropped();
            }
        }
        loop {
            let given = self.give(now)?;
            if given > 0 {
                self.starvation.end();
            }
            if self.backlog.is_empty() {
                break;
            }
            if self.is_starved() {
                if !self.ring.final_check_for_requests() {
                    // The queue's thread sets its clock, once.
                    if self.starvation.needed().is_none() {
                        self.starvation.begin(now, self.needed());
                        pass.wake_at(now);
                    }
                    break;
                }
            } else if let Err(when) = self.shared.rx_credit.ready(now) {
                pass.wake_at(when);
                break;
            }
            self.collect()?;
        }
        if self.starvation.is_over() {
            // The queue's thread tells the port.
            pass.wake_at(now);
        }
        pass.notify = self.ring.publish_responses();
        Ok(pass)
    }

    /// Gives delivered frames to the guest without keeping them, as long as they need no change and there are pages; returns how many were
    /// seen to, those that are lost included.
    fn give_straight(
        &mut self,
        frames: &mut [Frame<'_>],
        now: Instant,
    ) -> Result<usize, RingBroken> {
        let layout = self.layout();
        let mut copies: Vec<CopyPiece<'_>> = recycle(std::mem::take(&mut self.copies));
        self.answers.clear();
        let (mut seen, mut given, mut bytes) = (0, 0, 0);
        for frame in frames {
            let mut headers = [0; HEADERS_MAX];
            let headers = first_bytes(frame.parts, &mut headers);
            if !self.shared.lets_in(headers) {
                self.shared.stats.rx.count_dropped();
                seen += 1;
                continue;
            }
            let info = FrameInfo {
                len: frame.len,
                offload: frame.offload,
                hash: self.hash.get().hash(headers),
            };
            if self.front.plan(headers, layout, &info) != Plan::Pass
                || layout.slots(&info) > self.posted.len()
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
            fill.frame(&info, frame.parts.iter().copied());
            frame.taken = true;
            seen += 1;
            given += 1;
            bytes += info.len as u64;
        }
        let (ring, answers) = (&mut self.ring, &self.answers);
        fill_and_respond(ring, answers, &mut copies, &self.statics, &self.shared)?;
        self.copies = recycle(copies);
        self.shared.stats.rx.count(given, bytes);
        if given > 0 {
            self.starvation.end();
        }
        Ok(seen)
    }

    /// Keeps a delivered frame, made fit for the front end; false where it is lost.
    fn accept(&mut self, frame: &Frame<'_>, now: Instant) -> bool {
        let patience = self.shared.options.drain_after;
        if self.starvation.has_lasted(now, patience) {
            return false;
        }
        let mut headers = [0; HEADERS_MAX];
        let headers = first_bytes(frame.parts, &mut headers);
        if !self.shared.lets_in(headers) {
            return false;
        }
        let info = FrameInfo {
            len: frame.len,
            offload: frame.offload,
            hash: self.hash.get().hash(headers),
        };
        match self.front.plan(headers, self.layout(), &info) {
            Plan::Pass => self.backlog.push_parts(frame.parts, info),
            Plan::Complete { start, offset } => {
                self.backlog.push_parts(frame.parts, info) && self.complete_last(start, offset)
            }
            Plan::Segment if frame.len <= FRAME_MAX => {
                self.whole.resize(frame.len, 0);
                if Part::copy_all(frame.parts.iter().copied(), &mut self.whole) < frame.len {
                    return false;
                }
                let (slots, lost) = self.segment(frame.offload);
                if lost && slots > 0 {
                    self.shared.stats.rx.count_dropped();
                }
                slots > 0
            }
            Plan::Segment | Plan::Drop => false,
        }
    }
}

/// A frame's first bytes, as far as `into` has room: a private copy.
pub(crate) fn first_bytes<'i>(parts: &[Part<'_>], into: &'i mut [u8]) -> &'i [u8] {
    let filled = Part::copy_all(parts.iter().copied(), into);
    into.get(..filled).unwrap_or_default()
}
