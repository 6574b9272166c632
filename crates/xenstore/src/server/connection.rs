//! One connection's state.

use std::collections::HashMap;
use std::sync::Arc;

use super::outbox::Outbox;
use super::stats::Counters;
use super::watches::{Watch, WatchKey};
use crate::store::{Actor, Transaction};
use crate::wire::{HEADER_SIZE, Message, TooLong};
use crate::xenbus::domain_path;

/// What a connection comes in by. It decides where relative paths begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnKind {
    /// The server's own process; paths begin at the domain's home, `/local/domain/<domid>`.
    InProcess,
    /// A guest's shared page; paths begin at the domain's home.
    Ring,
    /// A Unix socket of the host. Paths begin at domain 0's home: the protocol's document has no relative paths there, but this is what
    /// xenstored and oxenstored do.
    Socket,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) kind: ConnKind,
    pub(super) actor: Actor,
    /// Where its relative paths begin.
    pub(super) home: Arc<str>,
    pub(super) transactions: HashMap<u32, Transaction>,
    pub(super) next_tx: u32,
    pub(super) watches: HashMap<WatchKey, Arc<Watch>>,
    /// What its transactions and its watches take.
    pub(super) transaction_bytes: i64,
    pub(super) watch_bytes: i64,
    /// What its domain's budget knows of it.
    pub(super) settled: i64,
    /// Its requests are not taken, since it has not read what it was sent.
    pub(super) stalled: bool,
    pub(super) outbox: Outbox,
    /// The beginning of a message that is not all there.
    pub(super) partial: Vec<u8>,
    pub(super) counters: Counters,
    /// How many of its commands the host has not answered.
    pub(super) waiting: u32,
    /// It is in the server's list of those with something new.
    pub(super) ready: bool,
}

impl Connection {
    pub(super) fn new(kind: ConnKind, actor: Actor) -> Self {
        let home = domain_path(actor.domid).into();
        Self {
            kind,
            actor,
            home,
            transactions: HashMap::new(),
            next_tx: 1,
            watches: HashMap::new(),
            transaction_bytes: 0,
            watch_bytes: 0,
            settled: 0,
            stalled: false,
            outbox: Outbox::default(),
            partial: Vec::new(),
            counters: Counters::default(),
            waiting: 0,
            ready: false,
        }
    }

    /// Whether it is a guest's ring.
    pub(super) fn is_ring(&self) -> bool {
        self.kind == ConnKind::Ring
    }

    /// Its watches in the order in which they were set.
    pub(super) fn watches_in_order(&self) -> Vec<Arc<Watch>> {
        let mut watches: Vec<_> = self.watches.values().map(Arc::clone).collect();
        watches.sort_unstable_by_key(|watch| watch.id);
        watches
    }

    /// Adds what is missing of the message that has begun; returns what is left of `bytes`.
    pub(super) fn complete<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], TooLong> {
        let mut rest = bytes;
        // First up to the whole header, then up to the whole message.
        for _ in 0..2 {
            let whole = Message::length(&self.partial)?.unwrap_or(HEADER_SIZE);
            let missing = whole.saturating_sub(self.partial.len());
            let (more, after) = rest.split_at(missing.min(rest.len()));
            self.partial.extend_from_slice(more);
            rest = after;
        }
        Ok(rest)
    }

    /// A number for a new transaction: not 0, and not one that is open.
    pub(super) fn new_tx(&mut self) -> u32 {
        loop {
            let tx = self.next_tx;
            self.next_tx = self.next_tx.wrapping_add(1);
            if tx != 0 && !self.transactions.contains_key(&tx) {
                return tx;
            }
        }
    }
}
