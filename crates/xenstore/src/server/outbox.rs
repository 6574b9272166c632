//! What waits to be sent on one connection: replies and watch events, in order, and never without bound.

mod saved;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use cantle_abi::io::xs_wire::{XS_WATCH_EVENT, XsType};

use super::watches::Watch;
use crate::client::WatchEvent;
use crate::wire::{self, HEADER_SIZE, Message};

/// How many sent bytes are kept before they are moved out of the way.
const STAGED_PREFIX_MAX: usize = 16 * 1024;

/// How many bytes of memory an empty outbox keeps for the next replies.
const STAGED_KEPT: usize = 4 * 1024;

#[derive(Debug)]
enum Entry {
    /// The next so many bytes of `replies`, and how many messages they are.
    Replies(usize, usize),
    Event(Arc<Watch>, Arc<str>),
    /// All events of a watch that there was no room for: its own path.
    Condensed(Arc<Watch>),
}

/// Replies and events that have not been sent.
///
/// Each event is queued, also where an equal one waits, so that a client that reads sees one for each change. Beyond a limit
/// events are condensed to one for each watch, which tells it to look. So what waits is bounded by the limit and the client's
/// own watches, whoever writes and however often; and no change goes unannounced.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    order: VecDeque<Entry>,
    replies: VecDeque<u8>,
    /// The watches that have a condensed event waiting.
    condensed: HashSet<u64>,
    event_bytes: usize,
    /// Bytes on their way out.
    staged: Vec<u8>,
    sent: usize,
    /// Messages in `order`.
    queued: usize,
    /// Messages in `staged` that begin at `begun` or beyond.
    unsent: usize,
    /// The end of the last staged message of which anything has been sent.
    begun: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty() && self.staged.len() == self.sent
    }

    /// Bytes of replies that wait.
    pub(super) fn reply_bytes(&self) -> usize {
        self.replies.len() + (self.staged.len() - self.sent)
    }

    /// Whether what is counted is what is there.
    pub(super) fn is_sound(&self) -> bool {
        let mut counted = (0, 0, 0);
        for entry in &self.order {
            match entry {
                Entry::Replies(len, messages) => {
                    counted.0 += len;
                    counted.1 += messages;
                }
                Entry::Event(watch, path) => {
                    counted.1 += 1;
                    counted.2 += event_size(watch, path);
                }
                Entry::Condensed(_) => counted.1 += 1,
            }
        }
        let mut unsent = 0;
        let mut rest = self.staged.get(self.begun..).unwrap_or_default();
        while let Ok(Some((_, after))) = Message::parse(rest) {
            unsent += 1;
            rest = after;
        }
        let known = (self.replies.len(), self.queued, self.event_bytes);
        counted == known && unsent == self.unsent && rest.is_empty()
    }

    /// Replies and events that wait, one that is on its way included.
    pub(super) fn unread_messages(&self) -> usize {
        self.queued + self.unsent + usize::from(self.begun > self.sent)
    }

    /// Bytes of events that wait. Those that have been condensed count nothing: their watches have paid for them.
    pub(super) fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// Bytes of replies and events that wait.
    pub(super) fn unread(&self) -> usize {
        self.reply_bytes() + self.event_bytes
    }

    /// Queues a reply, which fits in a message.
    pub(super) fn reply(&mut self, kind: XsType, req_id: u32, tx_id: u32, parts: &[&[u8]]) {
        if self.order.is_empty() {
            if self.sent > STAGED_PREFIX_MAX {
                self.drop_sent();
            }
            self.unsent += 1;
            let fits = wire::emit(&mut self.staged, kind, req_id, tx_id, parts);
            debug_assert_eq!(fits, Ok(()), "replies are cut to size where they are made");
            return;
        }
        let mut bytes = Vec::new();
        let fits = wire::emit(&mut bytes, kind, req_id, tx_id, parts);
        debug_assert_eq!(fits, Ok(()), "replies are cut to size where they are made");
        match self.order.back_mut() {
            Some(Entry::Replies(len, messages)) => {
                *len += bytes.len();
                *messages += 1;
            }
            _ => self.order.push_back(Entry::Replies(bytes.len(), 1)),
        }
        self.queued += 1;
        self.replies.extend(bytes);
    }

    /// Queues an event of a watch; whether anything was queued.
    pub(super) fn event(&mut self, watch: &Arc<Watch>, path: &Arc<str>, limit: usize) -> bool {
        let size = event_size(watch, path);
        if self.event_bytes + size <= limit {
            self.event_bytes += size;
            self.queued += 1;
            self.order
                .push_back(Entry::Event(Arc::clone(watch), Arc::clone(path)));
            return true;
        }
        if !self.condensed.insert(watch.id) {
            return false;
        }
        self.queued += 1;
        self.order.push_back(Entry::Condensed(Arc::clone(watch)));
        true
    }

    /// Takes the oldest entry; an event with its path.
    fn pop(&mut self) -> Option<Popped> {
        let (watch, path) = match self.order.pop_front()? {
            Entry::Replies(len, messages) => {
                self.queued = self.queued.saturating_sub(messages);
                return Some(Popped::Replies(len, messages));
            }
            Entry::Event(watch, path) => {
                self.event_bytes = self.event_bytes.saturating_sub(event_size(&watch, &path));
                (watch, path)
            }
            Entry::Condensed(watch) => {
                self.condensed.remove(&watch.id);
                let path = Arc::clone(&watch.path);
                (watch, path)
            }
        };
        self.queued = self.queued.saturating_sub(1);
        Some(Popped::Event(watch, path))
    }

    /// The next event of a client that gets its replies otherwise.
    pub(super) fn take_event(&mut self) -> Option<WatchEvent> {
        while let Some(popped) = self.pop() {
            if let Popped::Event(watch, path) = popped {
                return Some(WatchEvent {
                    path: watch.shown(&path).to_owned(),
                    token: String::from_utf8_lossy(&watch.token).into_owned(),
                });
            }
        }
        None
    }

    /// Drops the events of watches that are no more, by their numbers.
    pub(super) fn purge(&mut self, gone: impl Fn(u64) -> bool) {
        let (event_bytes, queued) = (&mut self.event_bytes, &mut self.queued);
        self.order.retain(|entry| {
            let (watch, size) = match entry {
                Entry::Replies(..) => return true,
                Entry::Event(watch, path) => (watch, event_size(watch, path)),
                Entry::Condensed(watch) => (watch, 0),
            };
            let kept = !gone(watch.id);
            if !kept {
                *event_bytes = event_bytes.saturating_sub(size);
                *queued = queued.saturating_sub(1);
            }
            kept
        });
        self.condensed.retain(|id| !gone(*id));
    }

    /// Sees to it that at least `wanted` bytes are ready to be sent, where there are so many. What has been made ready stays:
    /// only what has not is still condensed.
    pub(super) fn stage(&mut self, wanted: usize) {
        if self.staged.len() - self.sent < wanted && !self.order.is_empty() {
            self.drop_sent();
            while self.staged.len() < wanted {
                match self.pop() {
                    Some(Popped::Replies(len, messages)) => {
                        self.staged.extend(self.replies.drain(..len));
                        self.unsent += messages;
                    }
                    Some(Popped::Event(watch, path)) => self.stage_event(&watch, &path),
                    None => break,
                }
            }
        }
    }

    /// The bytes to be sent next.
    pub(super) fn staged(&self) -> &[u8] {
        self.staged.get(self.sent..).unwrap_or_default()
    }

    fn drop_sent(&mut self) {
        self.staged.drain(..self.sent);
        self.begun = self.begun.saturating_sub(self.sent);
        self.sent = 0;
    }

    fn stage_event(&mut self, watch: &Watch, path: &str) {
        let parts = [watch.shown(path).as_bytes(), b"\0", &watch.token, b"\0"];
        // The token's length was limited when the watch was set, so that every event fits (XSA-324).
        if wire::emit(&mut self.staged, XS_WATCH_EVENT, 0, 0, &parts).is_err() {
            tracing::error!(path, "a watch event does not fit in a message");
            return;
        }
        self.unsent += 1;
    }

    /// `len` of the bytes have been sent.
    pub(super) fn consume(&mut self, len: usize) {
        self.sent = self.sent.saturating_add(len).min(self.staged.len());
        if self.sent == self.staged.len() {
            self.staged.clear();
            if self.staged.capacity() > STAGED_KEPT {
                self.staged = Vec::new();
            }
            (self.sent, self.begun, self.unsent) = (0, 0, 0);
            return;
        }
        while self.begun < self.sent {
            let next = self.staged.get(self.begun..).unwrap_or_default();
            let Ok(Some(len)) = Message::length(next) else {
                break;
            };
            self.begun += len;
            self.unsent = self.unsent.saturating_sub(1);
        }
    }
}

/// What was the oldest to be sent.
enum Popped {
    Replies(usize, usize),
    Event(Arc<Watch>, Arc<str>),
}

fn event_size(watch: &Watch, path: &str) -> usize {
    HEADER_SIZE + path.len() + watch.token.len() + 2
}
