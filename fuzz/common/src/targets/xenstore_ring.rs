//! A guest's xenstore page: its indices and bytes written over, between proper requests.

use std::sync::Arc;

use arbitrary::Arbitrary;
use cantle_abi::DomId;
use cantle_abi::ring::HeapPages;
use cantle_xenstore::prelude::*;
use cantle_xenstore::transport::ring::{Pumped, Ring};
use cantle_xenstore::transport::ring_client::RingClient;
use cantle_xenstore::{Shared, TxId};

use super::xenstore_server::Request;
use crate::input::{self, Odd};
use crate::scribble;

#[derive(Arbitrary, Debug)]
enum Action<'a> {
    Ask(Request),
    Raw(&'a [u8]),
    /// The guest moves bytes.
    Guest,
    /// The server moves bytes.
    Server,
    /// The guest moves one of the four indices.
    Move(u8, i16),
    Set(u8, Odd),
    Write(Odd, u32),
    /// Somebody else changes the store.
    Toolstack(u8),
    Reconnect,
    Release,
}

const GUEST: DomId = DomId(1);
/// Where the indices are: of the requests, then of the replies.
const INDICES: usize = 2048;

/// Runs one input.
///
/// # Panics
///
/// Where the ring has more to do after a hundred calls than its work allows, or the store fails for others.
pub fn run(data: &[u8]) {
    let store = Shared::default();
    let Ok(toolstack) = store.client(DomId::DOM0) else {
        // No descriptor is free: nothing is learnt.
        return;
    };
    let introduced = store.introduce(GUEST);
    assert_eq!(introduced, Ok(true));
    let page = Arc::new(HeapPages::new(1));
    let mut ring = Ring::connect(&store, GUEST, page.clone(), Arc::new(|| ()));
    let mut guest = RingClient::new(page.clone());
    for action in input::actions::<Action<'_>>(data) {
        match action {
            Action::Ask(request) => {
                let (op, tx, payload) = request.parts();
                let _ = guest.send(op, TxId(tx), &[&payload]);
            }
            Action::Raw(bytes) => guest.send_raw(bytes),
            Action::Guest => {
                let _ = guest.pump();
            }
            Action::Server => {
                // What the guest has written cannot keep the server busy: it is a page.
                let calls = (0..100).take_while(|_| ring.pump(|| ()) == Pumped::More);
                assert!(calls.count() < 100, "the ring has no end");
            }
            Action::Move(index, by) => {
                let at = INDICES + usize::from(index % 4) * 4;
                let moved = scribble::read_u32(&page, at).wrapping_add_signed(by.into());
                scribble::write(&page, at, &moved.to_le_bytes());
            }
            Action::Set(index, to) => {
                let at = INDICES + usize::from(index % 4) * 4;
                scribble::write(&page, at, &to.word().to_le_bytes());
            }
            Action::Write(at, value) => {
                scribble::write(&page, usize::from(at.half()), &value.to_le_bytes());
            }
            Action::Toolstack(n) => {
                let path = format!("/local/domain/1/device/{}", n % 8);
                let written = toolstack.write(TxId::NONE, &path, b"1");
                assert!(written.is_ok(), "a neighbour suffers: {written:?}");
            }
            Action::Reconnect => {
                drop(ring);
                ring = Ring::connect(&store, GUEST, page.clone(), Arc::new(|| ()));
            }
            Action::Release => {
                let _ = store.release(GUEST);
                let _ = store.introduce(GUEST);
            }
        }
        while guest.take_reply().is_some() {}
        while guest.take_event().is_some() {}
    }
}
