//! One batch: each connection that is ready has one turn. What they have is read first, then handled under one lock, then
//! what waits for anybody is sent, each by one call.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use super::Service;
use super::end::{End, Got};
use super::slots::{Key, Slot, Slots};
use super::turn::{Found, Turn};
use crate::server::{ConnId, ConnMap, Server};

/// The most bytes that are read in one turn.
const READ_MAX: usize = 16 * 1024;
/// The most bytes that are read in one batch.
const INPUT_MAX: usize = 256 * 1024;
/// The most turns in one batch. Few, so that those who are answered first can go on while the next are served, and so that
/// the store is not locked for long; many enough that what a batch costs is shared.
const TURNS_MAX: usize = 16;
/// The work that a turn allows; a request is one unit at least. What a request does beyond it is a debt that costs turns.
pub(super) const QUANTUM: u32 = 64;
/// How many bytes of output are taken for a connection at a time, or one message more.
const OUTPUT_MAX: usize = 64 * 1024;
/// How many bytes of output are taken in one batch, or one connection's more.
const OUTPUTS_MAX: usize = 1024 * 1024;

/// What a batch needs; its memory is used again and again.
#[derive(Debug)]
pub(super) struct Batch {
    turns: Vec<Turn>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Whose output is where in `output`.
    outputs: Vec<(Key, Range<usize>)>,
    /// Those who are to be looked at for output.
    waiting: Vec<Key>,
    /// The server's list of those for whom there is something.
    ready: Vec<ConnId>,
    /// Connections that took the place of others.
    renewed: Vec<(ConnId, ConnId, Key)>,
    pub(super) closing: Vec<Key>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            turns: Vec::new(),
            input: vec![0; INPUT_MAX],
            output: Vec::new(),
            outputs: Vec::new(),
            waiting: Vec::new(),
            ready: Vec::new(),
            renewed: Vec::new(),
            closing: Vec::new(),
        }
    }
}

/// Gives a connection a turn in a later batch, unless it waits for one.
pub(super) fn enqueue(queue: &mut VecDeque<Key>, slot: &mut Slot, key: Key) {
    if !core::mem::replace(&mut slot.queued, true) {
        queue.push_back(key);
    }
}

impl Service {
    /// Runs one batch.
    pub(super) fn batch(&mut self) -> io::Result<()> {
        self.collect();
        let Self {
            store,
            slots,
            queue,
            by_conn,
            batch,
            before_output,
            ..
        } = self;
        store.batch(|server, others| {
            batch.feed(server, slots);
            batch.sort_ready(server, slots, by_conn, others);
            if let Some(hook) = before_output {
                hook(server)?;
            }
            batch.take_output(server, slots, queue);
            Ok::<_, io::Error>(())
        })?;
        self.send();
        self.finish();
        Ok(())
    }

    /// Reads from those whose turn it is.
    fn collect(&mut self) {
        let mut at = 0;
        self.batch.turns.clear();
        for _ in 0..self.queue.len().min(TURNS_MAX) {
            if at + READ_MAX > INPUT_MAX {
                break;
            }
            let Some(key) = self.queue.pop_front() else {
                break;
            };
            let Some(slot) = self.slots.get_mut(key) else {
                continue;
            };
            slot.queued = false;
            let reset = slot.end.as_ring().is_some_and(|ring| ring.wants_reset());
            if !reset
                && !slot.unsent.is_empty()
                && !flush(&self.epoll, slot, key, &mut self.batch.closing)
            {
                continue;
            }
            slot.debt = slot.debt.saturating_sub(QUANTUM);
            if slot.debt > 0 && !self.queue.is_empty() {
                enqueue(&mut self.queue, slot, key);
                continue;
            }
            let mut found = Found::Input(at..at);
            if reset || (slot.held.is_empty() && slot.readable && !slot.ended) {
                let buffer = self.batch.input.get_mut(at..at + READ_MAX);
                found = read(slot, at, buffer.unwrap_or_default());
            }
            if let Found::Input(range) = &found {
                at = range.end;
            }
            self.batch.turns.push(Turn { key, found });
        }
    }

    /// Sends what was taken.
    fn send(&mut self) {
        for (old, new, key) in self.batch.renewed.drain(..) {
            self.by_conn.remove(&old);
            self.by_conn.insert(new, key);
            self.store.move_waker(old, new);
        }
        let batch = &mut self.batch;
        for (key, range) in &batch.outputs {
            let bytes = batch.output.get(range.clone()).unwrap_or_default();
            let Some(slot) = self.slots.get_mut(*key) else {
                continue;
            };
            if bytes.is_empty() {
                continue;
            }
            match slot.end.write(bytes) {
                Ok(sent) if sent == bytes.len() => {}
                Ok(sent) => {
                    let rest = bytes.get(sent..).unwrap_or_default();
                    slot.unsent.extend_from_slice(rest);
                    flush(&self.epoll, slot, *key, &mut batch.closing);
                }
                Err(_) => batch.closing.push(*key),
            }
        }
    }

    /// Signals the guests, ends what has ended, and queues what has more to do.
    fn finish(&mut self) {
        let batch = &mut self.batch;
        let served = batch.turns.iter().map(|turn| turn.key);
        for key in served.chain(batch.outputs.iter().map(|(key, _)| *key)) {
            let Some(slot) = self.slots.get_mut(key) else {
                continue;
            };
            if let Some(ring) = slot.end.as_ring() {
                ring.notify();
            }
            if slot.is_over() {
                batch.closing.push(key);
            } else if slot.is_busy() {
                enqueue(&mut self.queue, slot, key);
            }
        }
        batch.outputs.clear();
        batch.output.clear();
        if !batch.closing.is_empty() {
            self.close_all();
        }
    }
}

impl Batch {
    /// Gives the server what was read.
    fn feed(&mut self, server: &mut Server, slots: &mut Slots) {
        for turn in &mut self.turns {
            let Some(slot) = slots.get_mut(turn.key) else {
                continue;
            };
            let old = slot.conn;
            if !turn.feed(server, slot, &self.input) {
                self.closing.push(turn.key);
            }
            if slot.conn != old {
                self.renewed.push((old, slot.conn, turn.key));
            }
        }
    }

    /// Lists for whom of ours there may be output, and leaves the others to be woken.
    fn sort_ready(
        &mut self,
        server: &mut Server,
        slots: &mut Slots,
        by_conn: &ConnMap<Key>,
        others: &mut Vec<ConnId>,
    ) {
        self.waiting.clear();
        for turn in &self.turns {
            if let Some(slot) = slots.get_mut(turn.key)
                && slot.more_output
            {
                self.waiting.push(turn.key);
            }
        }
        server.swap_ready(&mut self.ready);
        for conn in &self.ready {
            match by_conn.get(conn) {
                None => others.push(*conn),
                Some(key) => self.waiting.push(*key),
            }
        }
    }

    fn take_output(&mut self, server: &mut Server, slots: &mut Slots, queue: &mut VecDeque<Key>) {
        for key in &self.waiting {
            let Some(slot) = slots.get_mut(*key) else {
                continue;
            };
            slot.more_output = true;
            // What waits for room is looked at again when there is room.
            if !slot.unsent.is_empty() {
                continue;
            }
            if self.output.len() > OUTPUTS_MAX {
                enqueue(queue, slot, *key);
                continue;
            }
            let bytes = server.output(slot.conn, OUTPUT_MAX);
            let len = match &mut slot.end {
                End::Socket(_) => {
                    let start = self.output.len();
                    self.output.extend_from_slice(bytes);
                    self.outputs.push((*key, start..start + bytes.len()));
                    bytes.len()
                }
                // A page takes no system call, and what it has no room for stays with the server.
                End::Ring(ring) => {
                    let written = ring.write(bytes);
                    slot.full = written < bytes.len();
                    self.outputs.push((*key, 0..0));
                    written
                }
            };
            server.consume_output(slot.conn, len);
            slot.more_output = server.has_output(slot.conn);
        }
    }
}

/// Reads once.
fn read(slot: &mut Slot, at: usize, buffer: &mut [u8]) -> Found {
    slot.readable = false;
    match slot.end.read(buffer) {
        Got::Bytes(len, more) => {
            slot.readable = more;
            return Found::Input(at..at + len);
        }
        Got::End => slot.ended = true,
        Got::Reset => return Found::Reset,
        Got::Broken(fault) => return Found::Broken(fault),
    }
    Found::Input(at..at)
}

/// Sends what waits; whether all of it went.
fn flush(epoll: &OwnedFd, slot: &mut Slot, key: Key, closing: &mut Vec<Key>) -> bool {
    let result = slot.end.write(&slot.unsent).and_then(|sent| {
        slot.unsent.drain(..sent);
        let lacking = !slot.unsent.is_empty();
        slot.end.await_room(epoll, key, lacking)
    });
    if result.is_err() {
        closing.push(key);
        return false;
    }
    if slot.unsent.is_empty() {
        slot.unsent = Vec::new();
    }
    slot.unsent.is_empty()
}
