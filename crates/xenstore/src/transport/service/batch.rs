//! One batch: each connection that is ready has one turn. What they have is read first, then handled under one lock, then
//! what waits for anybody is sent, each by one call.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::Service;
use super::end::{End, Got};
use super::slots::{Key, Slot, Slots};
use crate::server::{ConnId, ConnMap, Server};

/// The most bytes that are read in one turn.
const READ_MAX: usize = 16 * 1024;
/// The most bytes that are read in one batch.
const INPUT_MAX: usize = 256 * 1024;
/// The most turns in one batch.
const TURNS_MAX: usize = 64;
/// How many bytes of output are taken for a connection at a time, or one message more.
const OUTPUT_MAX: usize = 64 * 1024;
/// How many bytes of output are taken in one batch, or one connection's more.
const OUTPUTS_MAX: usize = 1024 * 1024;

/// One connection's turn.
#[derive(Debug)]
struct Turn {
    key: Key,
    /// What was read, in the batch's input.
    input: Range<usize>,
}

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
            if !slot.unsent.is_empty() && !flush(&self.epoll, slot, key, &mut self.batch.closing) {
                continue;
            }
            let mut len = 0;
            if slot.held.is_empty() && slot.readable && !slot.ended {
                let buffer = self.batch.input.get_mut(at..at + READ_MAX);
                len = read(slot, buffer.unwrap_or_default());
            }
            let input = at..at + len;
            at += len;
            self.batch.turns.push(Turn { key, input });
        }
    }

    /// Sends what was taken.
    fn send(&mut self) {
        let batch = &mut self.batch;
        for (key, range) in batch.outputs.drain(..) {
            let bytes = batch.output.get(range).unwrap_or_default();
            let Some(slot) = self.slots.get_mut(key) else {
                continue;
            };
            let End::Socket(socket) = &slot.end;
            match socket.send(bytes) {
                Ok(sent) if sent == bytes.len() => {}
                Ok(sent) => {
                    slot.unsent
                        .extend_from_slice(bytes.get(sent..).unwrap_or_default());
                    flush(&self.epoll, slot, key, &mut batch.closing);
                }
                Err(_) => batch.closing.push(key),
            }
        }
        batch.output.clear();
    }

    /// Ends what has ended, and queues what has more to do.
    fn finish(&mut self) {
        let batch = &mut self.batch;
        for turn in &batch.turns {
            let Some(slot) = self.slots.get_mut(turn.key) else {
                continue;
            };
            if slot.is_over() {
                batch.closing.push(turn.key);
            } else if slot.is_busy() {
                enqueue(&mut self.queue, slot, turn.key);
            }
        }
        if !batch.closing.is_empty() {
            self.close_all();
        }
    }
}

impl Batch {
    /// Gives the server what was read.
    fn feed(&mut self, server: &mut Server, slots: &mut Slots) {
        for turn in &self.turns {
            let Some(slot) = slots.get_mut(turn.key) else {
                continue;
            };
            let fed = if slot.held.is_empty() {
                let bytes = self.input.get(turn.input.clone()).unwrap_or_default();
                server.feed(slot.conn, bytes).map(|taken| {
                    slot.held
                        .extend_from_slice(bytes.get(taken..).unwrap_or_default());
                })
            } else {
                server.feed(slot.conn, &slot.held).map(|taken| {
                    slot.held.drain(..taken);
                    if slot.held.is_empty() {
                        slot.held = Vec::new();
                    }
                })
            };
            if let Err(closed) = fed {
                tracing::info!(conn = ?slot.conn, %closed, "xenstore client closed");
                self.closing.push(turn.key);
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
        for conn in server.take_ready() {
            match by_conn.get(&conn) {
                None => others.push(conn),
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
            let start = self.output.len();
            let bytes = server.output(slot.conn, OUTPUT_MAX);
            let len = bytes.len();
            self.output.extend_from_slice(bytes);
            server.consume_output(slot.conn, len);
            slot.more_output = server.has_output(slot.conn);
            if slot.more_output {
                enqueue(queue, slot, *key);
            }
            if len > 0 {
                self.outputs.push((*key, start..start + len));
            }
        }
    }
}

/// Reads once; how many bytes.
fn read(slot: &mut Slot, buffer: &mut [u8]) -> usize {
    let End::Socket(socket) = &slot.end;
    match socket.read(buffer) {
        Ok(Got::Bytes(len, more)) => {
            slot.readable = more;
            len
        }
        // An error of a stream socket is its end: nothing comes after a reset.
        Ok(Got::End) | Err(_) => {
            slot.readable = false;
            slot.ended = true;
            0
        }
    }
}

/// Sends what waits; whether all of it went.
fn flush(epoll: &std::os::fd::OwnedFd, slot: &mut Slot, key: Key, closing: &mut Vec<Key>) -> bool {
    let End::Socket(socket) = &mut slot.end;
    let result = socket.send(&slot.unsent).and_then(|sent| {
        slot.unsent.drain(..sent);
        socket.await_room(epoll, key, !slot.unsent.is_empty())
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
