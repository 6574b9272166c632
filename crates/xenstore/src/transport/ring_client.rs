//! The guest's side of a xenstore page, for tests, benchmarks and fuzzing: any number of requests may be outstanding.

use std::collections::VecDeque;

use cantle_abi::io::xs_wire::{XENSTORE_REQ, XENSTORE_RSP, XS_WATCH_EVENT, XsType};
use cantle_abi::ring::RingBroken;
use cantle_abi::{Errno, SharedMemory};

use crate::client::{TxId, WatchEvent};
use crate::wire::{self, Message};

/// A reply, with the number of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingReply {
    /// What [`RingClient::send`] returned.
    pub req_id: u32,
    /// The kind of the reply.
    pub kind: XsType,
    /// The payload, or the error.
    pub result: Result<Vec<u8>, Errno>,
}

/// A guest's end of a ring.
#[derive(Debug)]
pub struct RingClient<M> {
    memory: M,
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    replies: VecDeque<RingReply>,
    events: VecDeque<WatchEvent>,
    next_req: u32,
}

impl<M: SharedMemory> RingClient<M> {
    /// Uses a page. Its indices stay as they are.
    #[must_use]
    pub fn new(memory: M) -> Self {
        Self {
            memory,
            outgoing: VecDeque::new(),
            incoming: Vec::new(),
            replies: VecDeque::new(),
            events: VecDeque::new(),
            next_req: 1,
        }
    }

    /// Queues a request; returns its number.
    ///
    /// # Errors
    ///
    /// `E2BIG` for a payload that no message holds.
    pub fn send(&mut self, op: XsType, tx: TxId, parts: &[&[u8]]) -> Result<u32, Errno> {
        let req_id = self.next_req;
        let mut bytes = Vec::new();
        wire::emit(&mut bytes, op, req_id, tx.0, parts)?;
        self.next_req = self.next_req.wrapping_add(1);
        self.outgoing.extend(bytes);
        Ok(req_id)
    }

    /// Queues bytes that need not be a message.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.outgoing.extend(bytes);
    }

    /// Moves bytes both ways; whether any moved, in which case the server is to be notified.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where the server's indices are impossible.
    pub fn pump(&mut self) -> Result<bool, RingBroken> {
        let written = self.push()?;
        let taken = self.pull()?;
        Ok(written || taken)
    }

    /// Writes what is queued, as far as there is room, and reads nothing; whether anything was written.
    ///
    /// # Errors
    ///
    /// As for [`pump`](Self::pump).
    pub fn push(&mut self) -> Result<bool, RingBroken> {
        let written = XENSTORE_REQ.write(&self.memory, self.outgoing.make_contiguous())?;
        self.outgoing.drain(..written);
        Ok(written > 0)
    }

    /// Reads what is there, and writes nothing; whether anything was read.
    ///
    /// # Errors
    ///
    /// As for [`pump`](Self::pump).
    pub fn pull(&mut self) -> Result<bool, RingBroken> {
        let mut bytes = [0; 1024];
        let taken = XENSTORE_RSP.read(&self.memory, &mut bytes)?;
        self.incoming
            .extend_from_slice(bytes.get(..taken).unwrap_or_default());
        self.sort();
        Ok(taken > 0)
    }

    /// The oldest reply.
    pub fn take_reply(&mut self) -> Option<RingReply> {
        self.replies.pop_front()
    }

    /// The oldest watch event.
    pub fn take_event(&mut self) -> Option<WatchEvent> {
        self.events.pop_front()
    }

    /// Whether every byte queued is in the ring.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    fn sort(&mut self) {
        let incoming = core::mem::take(&mut self.incoming);
        let mut rest = incoming.as_slice();
        while let Ok(Some((message, after))) = Message::parse(rest) {
            rest = after;
            if message.header.kind == XS_WATCH_EVENT {
                self.events.extend(event(message.payload));
            } else {
                self.replies.push_back(RingReply {
                    req_id: message.header.req_id,
                    kind: message.header.kind,
                    result: wire::reply(message.header.kind, message.payload).map(<[u8]>::to_vec),
                });
            }
        }
        self.incoming = rest.to_vec();
    }
}

fn event(payload: &[u8]) -> Option<WatchEvent> {
    let [path, token] = wire::strings(payload).ok()?;
    Some(WatchEvent {
        path: String::from_utf8_lossy(path).into_owned(),
        token: String::from_utf8_lossy(token).into_owned(),
    })
}
