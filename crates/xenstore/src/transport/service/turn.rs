//! One connection's turn with the server.

use std::ops::Range;

use super::batch::QUANTUM;
use super::end::End;
use super::slots::{Key, Slot};
use crate::server::{Closed, Server};
use crate::transport::ring::{RingFault, renew};

/// What a turn is about.
#[derive(Debug)]
pub(super) enum Found {
    /// What was read, in the batch's input; nothing where something is held already.
    Input(Range<usize>),
    /// The guest wants a new connection.
    Reset,
    /// The guest broke its ring.
    Broken(RingFault),
}

#[derive(Debug)]
pub(super) struct Turn {
    pub(super) key: Key,
    pub(super) found: Found,
}

impl Turn {
    /// Has the server do what there is to do; whether the connection goes on.
    pub(super) fn feed(&self, server: &mut Server, slot: &mut Slot, input: &[u8]) -> bool {
        match &self.found {
            Found::Input(range) => {
                let bytes = input.get(range.clone()).unwrap_or_default();
                match feed(server, slot, bytes) {
                    Ok(work) => {
                        slot.debt = slot.debt.saturating_add(work.saturating_sub(QUANTUM));
                        true
                    }
                    Err(closed) => break_off(server, slot, closed.into()),
                }
            }
            Found::Reset => {
                let alive = server.is_connected(slot.conn);
                if !alive {
                    return break_off(server, slot, Closed::Unknown.into());
                }
                if let End::Ring(ring) = &mut slot.end {
                    let conn = renew(server, slot.conn, ring.domid);
                    ring.reset();
                    slot.renew(conn);
                }
                true
            }
            Found::Broken(fault) => {
                let alive = server.is_connected(slot.conn);
                let fault = if alive {
                    *fault
                } else {
                    Closed::Unknown.into()
                };
                break_off(server, slot, fault)
            }
        }
    }
}

/// Feeds what is held, or what was read; returns the work that it made.
fn feed(server: &mut Server, slot: &mut Slot, bytes: &[u8]) -> Result<u32, Closed> {
    if slot.held.is_empty() {
        let fed = server.feed_within(slot.conn, bytes, QUANTUM)?;
        slot.held
            .extend_from_slice(bytes.get(fed.taken..).unwrap_or_default());
        return Ok(fed.work);
    }
    let fed = server.feed_within(slot.conn, &slot.held, QUANTUM)?;
    slot.held.drain(..fed.taken);
    if slot.held.is_empty() {
        slot.held = Vec::new();
    }
    Ok(fed.work)
}

/// Ends a connection that cannot go on. A guest's ring waits for the guest to ask for a new one, and a new one stands by, so
/// that the end of the domain finds something to end; but the ring of a domain that is gone is over, as a socket is.
fn break_off(server: &mut Server, slot: &mut Slot, fault: RingFault) -> bool {
    let End::Ring(ring) = &mut slot.end else {
        tracing::info!(conn = ?slot.conn, %fault, "xenstore client closed");
        return false;
    };
    tracing::warn!(domid = %ring.domid, %fault, "xenstore ring given up");
    ring.fail(fault);
    if fault.is_final() {
        return false;
    }
    let conn = renew(server, slot.conn, ring.domid);
    slot.renew(conn);
    slot.readable = false;
    true
}
