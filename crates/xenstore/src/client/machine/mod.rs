//! A client's side of the protocol: requests become bytes, bytes become replies and events. No I/O.
//!
//! The server is not trusted: whatever it sends, what is kept is bounded, and nothing panics. What no server may send ends the
//! connection ([`Broken`]).

mod watched;

use std::collections::{HashMap, VecDeque};

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{
    XS_ERROR, XS_RESET_WATCHES, XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH,
    XS_WATCH_EVENT, XsType,
};

use super::{TxId, WatchEvent, reply};
use crate::Error;
use crate::wire::{self, Message, TooLong};
use watched::{WatchId, Watches};

/// Names a request that is on its way, within one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u32);

/// What a server must not send. Nothing that follows can be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// A message that is too long to be one.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// A reply to no request.
    #[error("the server answered what was not asked (request {req_id})")]
    Unasked {
        /// The number that it named.
        req_id: u32,
    },
    /// A reply of another kind.
    #[error("the server answered {asked:?} by {got:?}")]
    WrongKind {
        /// What was asked.
        asked: XsType,
        /// What came.
        got: XsType,
    },
    /// An event that is not a path and a token.
    #[error("the server sent a malformed event")]
    BadEvent,
}

/// A request that waits for its reply.
#[derive(Debug)]
struct Asked {
    op: XsType,
    then: Then,
}

/// What a reply changes here.
#[derive(Debug)]
enum Then {
    Nothing,
    /// A transaction has begun.
    Begun,
    /// This transaction is over, unless the request was malformed.
    Over(TxId),
    /// This watch is set, or is not.
    Watching(WatchId),
    /// As `Watching`, asked by nobody but [`Machine::renew`].
    Renewed(WatchId),
    /// This watch is no more.
    Unwatched(String, String),
    /// All watches before this one are no more, and no transaction is open.
    Reset(WatchId),
}

/// The client's side of one connection after another.
///
/// Transactions have numbers of this client's own: one that was open when the connection was lost cannot be taken for another
/// that the next server gave the same number.
#[derive(Debug, Default)]
pub(super) struct Machine {
    outgoing: Vec<u8>,
    /// How much of `outgoing` was sent already.
    sent: usize,
    partial: Vec<u8>,
    asked: HashMap<u32, Asked>,
    replies: VecDeque<(Ticket, Result<Vec<u8>, Errno>)>,
    watches: Watches,
    refused: Vec<Error>,
    /// The server's numbers of the open transactions, by ours.
    transactions: HashMap<TxId, u32>,
    next_req: u32,
    next_tx: u32,
}

impl Machine {
    /// Queues a request.
    ///
    /// # Errors
    ///
    /// [`Errno::E2BIG`] for a payload that no message holds, [`Errno::ENOENT`] for a transaction that is not open.
    pub(super) fn request(
        &mut self,
        op: XsType,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Ticket, Errno> {
        let wire_tx = if tx == TxId::NONE {
            0
        } else {
            *self.transactions.get(&tx).ok_or(Errno::ENOENT)?
        };
        let req_id = self.free_number();
        wire::emit(&mut self.outgoing, op, req_id, wire_tx, &[payload])?;
        let then = self.then(op, tx, payload);
        self.asked.insert(req_id, Asked { op, then });
        Ok(Ticket(req_id))
    }

    /// A number that no request on its way has. 0 is left to events.
    fn free_number(&mut self) -> u32 {
        loop {
            self.next_req = self.next_req.wrapping_add(1);
            if self.next_req != 0 && !self.asked.contains_key(&self.next_req) {
                return self.next_req;
            }
        }
    }

    fn then(&mut self, op: XsType, tx: TxId, payload: &[u8]) -> Then {
        // What is no path and token is refused by the server and changes nothing.
        let named = || {
            let (path, rest) = wire::string_and_rest(payload).ok()?;
            let (token, _) = wire::string_and_rest(rest).ok()?;
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            Some((text(path), text(token)))
        };
        match op {
            XS_TRANSACTION_START => Then::Begun,
            XS_TRANSACTION_END => Then::Over(tx),
            XS_RESET_WATCHES => Then::Reset(self.watches.mark()),
            XS_WATCH => named().map_or(Then::Nothing, |(path, token)| {
                Then::Watching(self.watches.add(path, token, payload.to_vec()))
            }),
            XS_UNWATCH => {
                named().map_or(Then::Nothing, |(path, token)| Then::Unwatched(path, token))
            }
            _ => Then::Nothing,
        }
    }

    /// The bytes to be sent: whole messages, but for the first one's part that is sent already.
    pub(super) fn outgoing(&self) -> &[u8] {
        self.outgoing.get(self.sent..).unwrap_or_default()
    }

    /// `len` bytes were sent.
    pub(super) fn sent(&mut self, len: usize) {
        self.sent += len;
        // Moved to the front only where that is less than what was sent: a long queue is not moved again and again.
        if self.sent >= self.outgoing.len() / 2 {
            self.outgoing.drain(..self.sent.min(self.outgoing.len()));
            self.sent = 0;
        }
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    ///
    /// What no server may send; the connection is to be given up then.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        if self.partial.is_empty() {
            let rest = self.messages(bytes)?;
            self.partial.extend_from_slice(rest);
            return Ok(());
        }
        let mut whole = core::mem::take(&mut self.partial);
        whole.extend_from_slice(bytes);
        let left = self.messages(&whole)?.len();
        whole.drain(..whole.len() - left);
        self.partial = whole;
        Ok(())
    }

    /// Handles the messages that are all there, and returns the beginning of the next one.
    fn messages<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Broken> {
        while let Some((message, rest)) = Message::parse(bytes)? {
            if message.header.kind == XS_WATCH_EVENT {
                self.event(message.payload)?;
            } else {
                self.reply(&message)?;
            }
            bytes = rest;
        }
        Ok(bytes)
    }

    fn event(&mut self, payload: &[u8]) -> Result<(), Broken> {
        let (path, rest) = wire::string_and_rest(payload).map_err(|_| Broken::BadEvent)?;
        let (token, _) = wire::string_and_rest(rest).map_err(|_| Broken::BadEvent)?;
        self.watches.queue(WatchEvent {
            path: String::from_utf8_lossy(path).into_owned(),
            token: String::from_utf8_lossy(token).into_owned(),
        });
        Ok(())
    }

    fn reply(&mut self, message: &Message<'_>) -> Result<(), Broken> {
        let (req_id, got) = (message.header.req_id, message.header.kind);
        let unasked = Broken::Unasked { req_id };
        let asked = self.asked.get(&req_id).ok_or(unasked)?.op;
        if got != asked && got != XS_ERROR {
            // It stays asked, to be answered when the connection is given up.
            return Err(Broken::WrongKind { asked, got });
        }
        let asked = self.asked.remove(&req_id).ok_or(unasked)?;
        let result = wire::reply(got, message.payload).map(<[u8]>::to_vec);
        if let Some(result) = self.learn(asked.then, result) {
            self.replies.push_back((Ticket(req_id), result));
        }
        Ok(())
    }

    /// What a reply changes here, and what of it the one who asked is told.
    fn learn(
        &mut self,
        then: Then,
        result: Result<Vec<u8>, Errno>,
    ) -> Option<Result<Vec<u8>, Errno>> {
        match (then, &result) {
            (Then::Begun, Ok(payload)) => return Some(self.begun(payload)),
            (Then::Over(tx), result) if *result != Err(Errno::EINVAL) => {
                self.transactions.remove(&tx);
            }
            (Then::Watching(id), Err(_)) => {
                self.watches.remove(id);
            }
            (Then::Renewed(id), result) => {
                if let Err(errno) = *result
                    && let Some((path, _)) = self.watches.remove(id)
                {
                    self.refused.push(Error::new(XS_WATCH, &path, errno));
                }
                return None;
            }
            (Then::Unwatched(path, token), Ok(_)) => self.watches.remove_named(&path, &token),
            (Then::Reset(mark), Ok(_)) => {
                self.watches.remove_before(mark);
                self.transactions.clear();
            }
            _ => {}
        }
        Some(result)
    }

    /// Gives a new transaction a number of our own.
    fn begun(&mut self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let theirs = reply::number(payload)?;
        loop {
            self.next_tx = self.next_tx.wrapping_add(1);
            let ours = TxId(self.next_tx);
            if ours != TxId::NONE && !self.transactions.contains_key(&ours) {
                self.transactions.insert(ours, theirs);
                return Ok(format!("{}\0", ours.0).into_bytes());
            }
        }
    }

    /// The oldest reply that nobody has taken.
    pub(super) fn take_reply(&mut self) -> Option<(Ticket, Result<Vec<u8>, Errno>)> {
        self.replies.pop_front()
    }

    /// The oldest event.
    pub(super) fn take_event(&mut self) -> Option<WatchEvent> {
        self.watches.take()
    }

    /// Whether an event waits.
    pub(super) fn has_event(&self) -> bool {
        self.watches.is_waiting()
    }

    /// The watches that the new server refused since the last call.
    pub(super) fn take_refused(&mut self) -> Vec<Error> {
        core::mem::take(&mut self.refused)
    }

    /// Whether watches are being set anew.
    pub(super) fn is_renewing(&self) -> bool {
        let renewed = |asked: &Asked| matches!(asked.then, Then::Renewed(_));
        self.asked.values().any(renewed)
    }

    /// The connection is lost: every request on its way fails with [`Errno::EIO`], and no transaction is open any more.
    pub(super) fn lose(&mut self) {
        self.outgoing = Vec::new();
        self.sent = 0;
        self.partial = Vec::new();
        self.transactions.clear();
        let mut lost: Vec<_> = self.asked.drain().collect();
        lost.sort_unstable_by_key(|(req_id, _)| *req_id);
        for (req_id, asked) in lost {
            match asked.then {
                Then::Renewed(_) => continue,
                Then::Watching(id) => {
                    self.watches.remove(id);
                }
                _ => {}
            }
            self.replies.push_back((Ticket(req_id), Err(Errno::EIO)));
        }
    }

    /// There is a new connection: asks for all watches again. Each has its first event anew, since nobody knows what happened
    /// meanwhile.
    pub(super) fn renew(&mut self) {
        for (id, payload) in self.watches.payloads() {
            let req_id = self.free_number();
            // It was short enough the first time.
            if wire::emit(&mut self.outgoing, XS_WATCH, req_id, 0, &[&payload]).is_ok() {
                let then = Then::Renewed(id);
                self.asked.insert(req_id, Asked { op: XS_WATCH, then });
            }
        }
    }
}

#[cfg(test)]
mod tests;
