//! The shared ring's two ends and the ring of bytes, in pages whose indices and slots the other side writes as it likes.

use std::sync::Arc;

use arbitrary::Arbitrary;
use cantle_abi::io::blkif::{BlkifRequest, BlkifResponse};
use cantle_abi::ring::{BackRing, ByteRing, FrontRing, HeapPages};
use zerocopy::FromZeros;

use crate::input::{self, Odd};
use crate::scribble;

/// What happens next.
#[derive(Arbitrary, Debug)]
enum Action {
    /// The other side moves one of four indices by this much.
    Move(u8, i8),
    /// The other side writes any index.
    Set(u8, Odd),
    /// The other side writes anywhere.
    Write(Odd, u32),
    Back(Back),
    Front(Front),
    Bytes(Bytes),
}

#[derive(Arbitrary, Debug)]
enum Back {
    Attach,
    Available,
    Next,
    Drain,
    Respond,
    Publish,
    FinalCheck,
}

#[derive(Arbitrary, Debug)]
enum Front {
    Attach,
    Push,
    Publish,
    Next,
    Drain,
    FinalCheck,
}

#[derive(Arbitrary, Debug)]
enum Bytes {
    Read(u16),
    Write(u16),
    Readable,
    Writable,
}

type Page = Arc<HeapPages>;
type BlkBack = BackRing<BlkifRequest, BlkifResponse, Page>;
type BlkFront = FrontRing<BlkifRequest, BlkifResponse, Page>;

/// One ring of bytes, with indices where a shared ring has its first two.
const BYTES: ByteRing = ByteRing::new(2048, 1024, 0, 4);

/// Runs one input.
///
/// # Panics
///
/// Where a ring hands out more than it has slots, or counts wrongly.
pub fn run(data: &[u8]) {
    let page = Arc::new(HeapPages::new(1));
    let mut back = BlkBack::attach(page.clone()).ok();
    let mut front = BlkFront::init(page.clone()).ok();
    for action in input::actions(data) {
        match action {
            Action::Move(index, by) => {
                let at = usize::from(index % 4) * 4;
                let moved = scribble::read_u32(&page, at).wrapping_add_signed(by.into());
                scribble::write(&page, at, &moved.to_le_bytes());
            }
            Action::Set(index, to) => {
                scribble::write(&page, usize::from(index % 4) * 4, &to.word().to_le_bytes());
            }
            Action::Write(at, value) => {
                scribble::write(&page, usize::from(at.half()), &value.to_le_bytes());
            }
            Action::Back(Back::Attach) => back = BlkBack::attach(page.clone()).ok(),
            Action::Back(call) => back.iter_mut().for_each(|ring| on_back(ring, &call)),
            Action::Front(Front::Attach) => front = BlkFront::attach(page.clone()).ok(),
            Action::Front(call) => front.iter_mut().for_each(|ring| on_front(ring, &call)),
            Action::Bytes(call) => on_bytes(&page, &call),
        }
    }
}

fn on_back(ring: &mut BlkBack, call: &Back) {
    let before = ring.outstanding();
    match call {
        Back::Attach => {}
        Back::Available => {
            if let Ok(available) = ring.available() {
                assert!(available <= ring.slots(), "more requests than slots");
            }
        }
        Back::Next => {
            if let Ok(Some(_)) = ring.next_request() {
                assert_eq!(ring.outstanding(), before + 1);
            } else {
                assert_eq!(ring.outstanding(), before);
            }
        }
        Back::Drain => {
            let mut taken = 0;
            while let Ok(Some(_)) = ring.next_request() {
                taken += 1;
                assert!(taken <= ring.slots(), "requests without end");
            }
        }
        Back::Respond => {
            let pushed = ring.push_response(&BlkifResponse::new_zeroed());
            assert_eq!(pushed.is_ok(), before > 0, "a response to no request");
        }
        Back::Publish => {
            let _ = ring.publish_responses();
        }
        Back::FinalCheck => {
            let _ = ring.final_check_for_requests();
        }
    }
    assert!(
        ring.outstanding() <= ring.slots(),
        "more outstanding than slots"
    );
}

fn on_front(ring: &mut BlkFront, call: &Front) {
    let before = ring.free();
    match call {
        Front::Attach => {}
        Front::Push => {
            let pushed = ring.push_request(&BlkifRequest::new_zeroed());
            assert_eq!(pushed.is_ok(), before > 0, "a request over another");
        }
        Front::Publish => {
            let _ = ring.publish_requests();
        }
        Front::Next => {
            let _ = ring.next_response();
        }
        Front::Drain => {
            let mut taken = 0;
            while let Ok(Some(_)) = ring.next_response() {
                taken += 1;
                assert!(taken <= ring.slots(), "responses without end");
            }
        }
        Front::FinalCheck => {
            let _ = ring.final_check_for_responses();
        }
    }
    assert!(ring.free() <= ring.slots(), "more free than slots");
}

fn on_bytes(page: &Page, call: &Bytes) {
    let mut buffer = [0; 2048];
    match call {
        Bytes::Read(len) => {
            let into = &mut buffer[..usize::from(len % 2048)];
            let room = into.len();
            if let Ok(read) = BYTES.read(page, into) {
                assert!(read <= room && read <= BYTES.size() as usize);
            }
        }
        Bytes::Write(len) => {
            let from = &buffer[..usize::from(len % 2048)];
            if let Ok(written) = BYTES.write(page, from) {
                assert!(written <= from.len() && written <= BYTES.size() as usize);
            }
        }
        Bytes::Readable => {
            assert!(BYTES.readable(page).unwrap_or(0) <= BYTES.size());
        }
        Bytes::Writable => {
            assert!(BYTES.writable(page).unwrap_or(0) <= BYTES.size());
        }
    }
}
