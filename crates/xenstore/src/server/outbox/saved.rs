//! What waits, taken down as bytes and taken up again.

use std::sync::Arc;

use cantle_abi::io::xs_wire::XS_WATCH_EVENT;

use super::{Entry, Outbox, event_size};
use crate::server::watches::Watch;
use crate::wire::{self, Message, string_and_rest};

/// What waits to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct SavedOutput {
    pub(in crate::server) bytes: Vec<u8>,
    /// So many of the bytes are the rest of a message whose beginning was sent.
    pub(in crate::server) begun: usize,
    /// For each message after that: the watch whose event it is and with which it goes, and whether it is condensed.
    pub(in crate::server) events: Vec<Option<(u64, bool)>>,
}

impl Outbox {
    /// Everything that waits, in order. What has been staged is on its way: it does not go with its watch.
    pub(in crate::server) fn save(&self) -> SavedOutput {
        let mut saved = SavedOutput {
            bytes: self.staged().to_vec(),
            begun: self.begun.saturating_sub(self.sent),
            events: vec![None; self.unsent],
        };
        let mut replies = self.replies.iter();
        for entry in &self.order {
            let (watch, path, condensed) = match entry {
                Entry::Replies(len, messages) => {
                    saved.bytes.extend(replies.by_ref().take(*len));
                    saved.events.extend(std::iter::repeat_n(None, *messages));
                    continue;
                }
                Entry::Event(watch, path) => (watch, path, false),
                Entry::Condensed(watch) => (watch, &watch.path, true),
            };
            let parts = [watch.shown(path).as_bytes(), b"\0", &watch.token, b"\0"];
            // As where it is staged: it fits, or is left out.
            if wire::emit(&mut saved.bytes, XS_WATCH_EVENT, 0, 0, &parts).is_ok() {
                saved.events.push(Some((watch.id, condensed)));
            }
        }
        saved
    }

    /// The same again. `watch_of` tells for each whole message whose event it is, and whether it is condensed. `None` where the
    /// bytes are no messages.
    pub(in crate::server) fn restore(
        bytes: &[u8],
        begun: usize,
        watch_of: impl Fn(usize) -> Option<(Arc<Watch>, bool)>,
    ) -> Option<Self> {
        let (rest, mut bytes) = bytes.split_at_checked(begun)?;
        let mut outbox = Self {
            staged: rest.to_vec(),
            begun,
            ..Self::default()
        };
        let mut number = 0;
        while !bytes.is_empty() {
            let (message, after) = Message::parse(bytes).ok()??;
            let whole = bytes.get(..bytes.len() - after.len())?;
            bytes = after;
            let event = watch_of(number).filter(|_| message.header.kind == XS_WATCH_EVENT);
            number += 1;
            match event {
                Some((watch, condensed)) => outbox.take_up(watch, condensed, message.payload)?,
                None => outbox.take_up_message(whole),
            }
        }
        Some(outbox)
    }

    fn take_up_message(&mut self, whole: &[u8]) {
        if self.order.is_empty() {
            self.unsent += 1;
            self.staged.extend_from_slice(whole);
            return;
        }
        match self.order.back_mut() {
            Some(Entry::Replies(len, messages)) => {
                *len += whole.len();
                *messages += 1;
            }
            _ => self.order.push_back(Entry::Replies(whole.len(), 1)),
        }
        self.queued += 1;
        self.replies.extend(whole);
    }

    fn take_up(&mut self, watch: Arc<Watch>, condensed: bool, payload: &[u8]) -> Option<()> {
        let (shown, _) = string_and_rest(payload).ok()?;
        let shown = core::str::from_utf8(shown).ok()?;
        let hidden = watch.path.get(..watch.hidden).unwrap_or_default();
        let path: Arc<str> = [hidden, shown].concat().into();
        self.queued += 1;
        self.event_bytes += event_size(&watch, &path);
        self.order.push_back(if !condensed {
            Entry::Event(watch, path)
        } else if *path == *watch.path && self.condensed.insert(watch.id) {
            Entry::Condensed(watch)
        } else {
            return None;
        });
        Some(())
    }
}
