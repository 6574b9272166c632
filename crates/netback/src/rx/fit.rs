//! Making frames fit for the front end.

use cantle_netport::headers::HEADERS_MAX;
use cantle_netport::segment::{Segments, Sums};
use cantle_netport::{Checksum, Offload, Part};

use super::frame::{FrameInfo, Plan};
use super::queue::{ROOM, RxQueue};
use crate::checksum;

impl RxQueue {
    /// Keeps the frame that was read into the backlog's room, made fit for the front end; how many slots it takes.
    pub(super) fn keep_read(&mut self, mut info: FrameInfo) -> usize {
        let layout = self.layout();
        let mut headers = [0; HEADERS_MAX];
        let seen = match self.backlog.room(ROOM) {
            Some(room) => {
                let frame = room.get(..info.len).unwrap_or_default();
                Part::from(frame).copy_to(&mut headers)
            }
            None => 0,
        };
        let headers = headers.get(..seen).unwrap_or_default();
        let passes = self.shared.lets_in(headers);
        if passes {
            info.hash = self.hash.get().hash(headers);
        }
        match self.front.plan(headers, layout, &info) {
            Plan::Pass if passes => self.backlog.push(ROOM, info),
            Plan::Complete { start, offset } if passes => {
                self.backlog.push(ROOM, info);
                if !self.complete_last(start, offset) {
                    self.shared.stats.rx.count_dropped();
                    return 0;
                }
            }
            Plan::Segment if passes => {
                let room = self.backlog.room(ROOM);
                self.whole.clear();
                let frame = room.and_then(|room| room.get(..info.len));
                self.whole.extend_from_slice(frame.unwrap_or_default());
                let (slots, lost) = self.segment(info.offload);
                if lost {
                    self.shared.stats.rx.count_dropped();
                }
                return slots;
            }
            _ => {
                self.shared.stats.rx.count_dropped();
                return 0;
            }
        }
        layout.slots(&info)
    }

    /// Completes the newest frame's checksum; drops it where that cannot be done.
    pub(super) fn complete_last(&mut self, start: u16, offset: u16) -> bool {
        let completed = match self.backlog.last_mut() {
            Some((bytes, offload)) => {
                offload.checksum = Checksum::Present;
                checksum::complete(bytes, start, offset)
            }
            None => false,
        };
        if !completed {
            self.backlog.pop_last();
        }
        completed
    }

    /// Cuts up the frame in `whole`; how many slots the segments take, and whether some are lost: those that there is no room for.
    pub(super) fn segment(&mut self, offload: Offload) -> (usize, bool) {
        let layout = self.layout();
        let whole = std::mem::take(&mut self.whole);
        let (mut slots, mut lost) = (0, false);
        match Segments::new(&whole, &offload, Sums::Complete) {
            Ok(mut segments) => {
                let most = segments.max_len();
                loop {
                    let Some(room) = self.backlog.room(most) else {
                        // Whoever sent it finds out by what does not arrive.
                        lost = true;
                        break;
                    };
                    let Some(len) = segments.next_into(room) else {
                        break;
                    };
                    let headers = room.get(..len.min(HEADERS_MAX)).unwrap_or_default();
                    let hash = self.hash.get().hash(headers);
                    let offload = Offload::default();
                    let info = FrameInfo { len, offload, hash };
                    if self.front.plan(&[], layout, &info) != Plan::Pass {
                        lost = true;
                        break;
                    }
                    slots += layout.slots(&info);
                    self.backlog.push(most, info);
                }
            }
            Err(_) => lost = true,
        }
        self.whole = whole;
        (slots, lost)
    }
}
