//! The rings against a plain model: a queue each way, counted in numbers that never wrap.
//!
//! Random sequences of both sides' calls run on real rings and on the model. Order, contents, fullness and the notification
//! rule must agree; indices start anywhere, so that they wrap. Indices that lie end in `RingBroken` and never in a panic.

// UNSAFETY: the test plays a peer that writes a ring's header directly.
#![expect(unsafe_code)]

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cantle_abi::io::blkif::{BLKIF_OP_READ, BlkifRequest, BlkifRequestSegment, BlkifResponse};
use cantle_abi::io::netif::{NetifRxRequest, NetifRxResponse, NetifTxRequest, NetifTxResponse};
use cantle_abi::ring::{BackRing, ByteRing, FrontRing, HeapPages, RingBroken, RingFull};
use cantle_abi::{GrantRef, SharedMemory};
use proptest::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;

fn word(page: &HeapPages, offset: usize) -> &AtomicU32 {
    assert!(offset.is_multiple_of(4) && offset + 4 <= page.len());
    // SAFETY: aligned and inside the pages, which outlive the borrow; all access to these words is atomic.
    unsafe { AtomicU32::from_ptr(page.as_ptr().add(offset).cast().as_ptr()) }
}

/// A kind of ring, with requests and responses that carry a number in all of their fields.
trait Kind {
    type Q: FromBytes + IntoBytes + Immutable + PartialEq + Debug + Copy;
    type S: FromBytes + IntoBytes + Immutable + PartialEq + Debug + Copy;
    const PAGES: usize;
    const SLOTS: u32;
    fn request(n: u32) -> Self::Q;
    fn response(n: u32) -> Self::S;
}

fn low(n: u32) -> u16 {
    u16::try_from(n & 0xffff).unwrap_or_default()
}

fn lowest(n: u32) -> u8 {
    n.to_le_bytes()[0]
}

#[derive(Debug)]
struct Blk<const PAGES: usize>;

impl<const N: usize> Kind for Blk<N> {
    type Q = BlkifRequest;
    type S = BlkifResponse;
    const PAGES: usize = N;
    const SLOTS: u32 = if N == 1 { 32 } else { 128 };
    fn request(n: u32) -> BlkifRequest {
        let segment = |i| BlkifRequestSegment {
            gref: GrantRef(n.wrapping_mul(31).wrapping_add(i)),
            first_sect: lowest(n),
            last_sect: lowest(i),
            pad: 0,
        };
        BlkifRequest {
            operation: BLKIF_OP_READ,
            nr_segments: lowest(n),
            handle: low(n),
            pad: 0,
            id: u64::from(n),
            sector_number: u64::from(!n),
            seg: std::array::from_fn(|i| segment(u32::try_from(i).unwrap_or_default())),
        }
    }
    fn response(n: u32) -> BlkifResponse {
        BlkifResponse {
            id: u64::from(n),
            operation: BLKIF_OP_READ,
            pad: 0,
            status: -1,
            pad2: n,
        }
    }
}

#[derive(Debug)]
struct Tx;

impl Kind for Tx {
    type Q = NetifTxRequest;
    type S = NetifTxResponse;
    const PAGES: usize = 1;
    const SLOTS: u32 = 256;
    fn request(n: u32) -> NetifTxRequest {
        NetifTxRequest {
            gref: GrantRef(n),
            offset: low(n),
            flags: low(!n),
            id: low(n >> 3),
            size: low(n >> 5),
        }
    }
    fn response(n: u32) -> NetifTxResponse {
        NetifTxResponse {
            id: low(n),
            status: -2,
        }
    }
}

#[derive(Debug)]
struct Rx;

impl Kind for Rx {
    type Q = NetifRxRequest;
    type S = NetifRxResponse;
    const PAGES: usize = 1;
    const SLOTS: u32 = 256;
    fn request(n: u32) -> NetifRxRequest {
        NetifRxRequest {
            id: low(n),
            pad: 0,
            gref: GrantRef(!n),
        }
    }
    fn response(n: u32) -> NetifRxResponse {
        NetifRxResponse {
            id: low(n),
            offset: low(n >> 1),
            flags: low(!n),
            status: 7,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    PushRequests(u8),
    PublishRequests,
    TakeRequests(u8),
    BackSleeps,
    PushResponses(u8),
    PublishResponses,
    TakeResponses(u8),
    FrontSleeps,
}

fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    let one = prop_oneof![
        any::<u8>().prop_map(Op::PushRequests),
        Just(Op::PublishRequests),
        any::<u8>().prop_map(Op::TakeRequests),
        Just(Op::BackSleeps),
        any::<u8>().prop_map(Op::PushResponses),
        Just(Op::PublishResponses),
        any::<u8>().prop_map(Op::TakeResponses),
        Just(Op::FrontSleeps),
    ];
    prop::collection::vec(one, 0..most)
}

/// Where indices start: anywhere, and often just below the wrap.
fn start() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), any::<u32>(), (0_u32..600).prop_map(|n| !n)]
}

/// One direction: what was pushed, shown and not yet taken, and who waits for it.
#[derive(Debug, Default)]
struct Way {
    pushed: VecDeque<u32>,
    shown: VecDeque<u32>,
    /// The consumer was told that there is nothing, and sleeps until it is notified.
    asleep: bool,
    /// The consumer asked at some time after the last notification.
    asked: bool,
}

impl Way {
    fn new() -> Self {
        Self {
            // A fresh ring asks for the very first entry.
            asked: true,
            ..Self::default()
        }
    }

    /// The producer publishes, and was told whether to notify.
    fn publish(&mut self, notify: bool) {
        if self.pushed.is_empty() {
            assert!(!notify, "nothing was published");
            return;
        }
        self.shown.append(&mut self.pushed);
        assert!(notify || !self.asleep, "a wake-up was lost");
        assert!(!notify || self.asked, "nobody asked for this notification");
        if notify {
            self.asleep = false;
            self.asked = false;
        }
    }

    /// The consumer wants to sleep, and was told whether there is work.
    fn sleep(&mut self, work: bool) {
        assert_eq!(work, !self.shown.is_empty(), "whether there is work");
        self.asked = true;
        self.asleep |= !work;
    }
}

fn rings_agree_with_the_model<K: Kind>(start: u32, ops: &[Op]) -> Result<(), RingBroken> {
    let page = Arc::new(HeapPages::new(K::PAGES));
    for (index, value) in [
        (REQ_PROD, start),
        (RSP_PROD, start),
        (REQ_EVENT, start.wrapping_add(1)),
        (RSP_EVENT, start.wrapping_add(1)),
    ] {
        word(&page, index).store(value, Ordering::Relaxed);
    }
    let mut front = if start == 0 {
        FrontRing::<K::Q, K::S, _>::init(page.clone())?
    } else {
        FrontRing::<K::Q, K::S, _>::attach(page.clone())?
    };
    let mut back = BackRing::<K::Q, K::S, _>::attach(page)?;
    assert_eq!((front.slots(), back.slots()), (K::SLOTS, K::SLOTS));

    let (mut requests, mut responses) = (Way::new(), Way::new());
    let mut taken = VecDeque::new();
    let mut in_flight = 0;
    let mut next = start;
    for op in ops {
        match *op {
            Op::PushRequests(count) => {
                for _ in 0..count {
                    assert_eq!(front.free(), K::SLOTS - in_flight);
                    let pushed = front.push_request(&K::request(next));
                    if in_flight == K::SLOTS {
                        assert_eq!(pushed, Err(RingFull));
                        break;
                    }
                    assert_eq!(pushed, Ok(()));
                    requests.pushed.push_back(next);
                    in_flight += 1;
                    next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                }
            }
            Op::PublishRequests => requests.publish(front.publish_requests()),
            Op::TakeRequests(count) => {
                for _ in 0..count {
                    let expected = requests.shown.pop_front();
                    assert_eq!(back.next_request()?, expected.map(K::request));
                    let Some(n) = expected else { break };
                    taken.push_back(n);
                }
            }
            Op::BackSleeps => requests.sleep(back.final_check_for_requests()),
            Op::PushResponses(count) => {
                for _ in 0..count {
                    // The model's back end answers the newest first: order is the ring's, not the requests'.
                    let Some(n) = taken.pop_back() else {
                        let unasked = back.push_response(&K::response(0));
                        assert!(unasked.is_err(), "no request was outstanding");
                        break;
                    };
                    back.push_response(&K::response(n))?;
                    responses.pushed.push_back(n);
                }
            }
            Op::PublishResponses => responses.publish(back.publish_responses()),
            Op::TakeResponses(count) => {
                for _ in 0..count {
                    let expected = responses.shown.pop_front();
                    assert_eq!(front.next_response()?, expected.map(K::response));
                    if expected.is_none() {
                        break;
                    }
                    in_flight -= 1;
                }
            }
            Op::FrontSleeps => responses.sleep(front.final_check_for_responses()),
        }
        assert_eq!(back.outstanding() as usize, taken.len());
    }
    Ok(())
}

/// What a peer may write at any time.
fn lie() -> impl Strategy<Value = (usize, u32)> {
    let near = (any::<i16>()).prop_map(|n| i32::from(n).cast_unsigned());
    let value = prop_oneof![any::<u32>(), near];
    (0_usize..4).prop_flat_map(move |index| (Just(index * 4), value.clone()))
}

/// Both sides stay bounded and calm whatever the header says: no more is taken than the ring has slots.
fn lies_are_survived<K: Kind>(start: u32, steps: &[(usize, u32, Op)]) {
    let page = Arc::new(HeapPages::new(K::PAGES));
    word(&page, REQ_PROD).store(start, Ordering::Relaxed);
    word(&page, RSP_PROD).store(start, Ordering::Relaxed);
    let mut front =
        FrontRing::<K::Q, K::S, _>::attach(page.clone()).expect("no request is in flight");
    let mut back =
        BackRing::<K::Q, K::S, _>::attach(page.clone()).expect("no request is in flight");
    // What each side may have taken at most, from what it knows itself.
    let (mut answered, mut taken, mut pushed, mut heard) = (0_u32, 0_u32, 0_u32, 0_u32);
    for (index, value, op) in steps {
        word(&page, *index).store(*value, Ordering::Relaxed);
        match *op {
            Op::PushRequests(count) => {
                for n in 0..u32::from(count) {
                    pushed += u32::from(front.push_request(&K::request(n)).is_ok());
                }
            }
            Op::PublishRequests => {
                let _ = front.publish_requests();
            }
            Op::TakeRequests(count) => {
                for _ in 0..count {
                    let before = word(&page, REQ_PROD).load(Ordering::Relaxed);
                    match back.next_request() {
                        Ok(Some(_)) => taken += 1,
                        Ok(None) => break,
                        Err(broken) => assert_eq!(broken.prod, before),
                    }
                }
            }
            Op::BackSleeps => {
                let _ = back.final_check_for_requests();
            }
            Op::PushResponses(count) => {
                for n in 0..u32::from(count) {
                    answered += u32::from(back.push_response(&K::response(n)).is_ok());
                }
            }
            Op::PublishResponses => {
                let _ = back.publish_responses();
            }
            Op::TakeResponses(count) => {
                for _ in 0..count {
                    heard += u32::from(matches!(front.next_response(), Ok(Some(_))));
                }
            }
            Op::FrontSleeps => {
                let _ = front.final_check_for_responses();
            }
        }
        let _ = back.available();
        assert!(back.outstanding() <= K::SLOTS, "more taken than slots");
        assert_eq!(back.outstanding(), taken - answered);
        assert!(heard <= pushed, "more answers than questions");
        assert_eq!(front.free(), K::SLOTS - (pushed - heard));
    }
}

fn lying_steps() -> impl Strategy<Value = Vec<(usize, u32, Op)>> {
    (prop::collection::vec(lie(), 80), ops(80)).prop_map(|(lies, ops)| {
        let pairs = lies.into_iter().zip(ops);
        pairs
            .map(|((index, value), op)| (index, value, op))
            .collect()
    })
}

proptest! {
    #[test]
    fn blkif_ring_agrees_with_the_model(start in start(), ops in ops(120)) {
        prop_assert_eq!(rings_agree_with_the_model::<Blk<1>>(start, &ops), Ok(()));
    }

    #[test]
    fn blkif_ring_of_four_pages_agrees_with_the_model(start in start(), ops in ops(120)) {
        prop_assert_eq!(rings_agree_with_the_model::<Blk<4>>(start, &ops), Ok(()));
    }

    #[test]
    fn netif_tx_ring_agrees_with_the_model(start in start(), ops in ops(120)) {
        prop_assert_eq!(rings_agree_with_the_model::<Tx>(start, &ops), Ok(()));
    }

    #[test]
    fn netif_rx_ring_agrees_with_the_model(start in start(), ops in ops(120)) {
        prop_assert_eq!(rings_agree_with_the_model::<Rx>(start, &ops), Ok(()));
    }

    #[test]
    fn a_peer_that_lies_in_the_header_is_survived(start in start(), steps in lying_steps()) {
        lies_are_survived::<Blk<1>>(start, &steps);
        lies_are_survived::<Tx>(start, &steps);
        lies_are_survived::<Rx>(start, &steps);
    }

    #[test]
    fn an_impossible_request_index_breaks_the_ring(
        start in start(),
        taken in 0_u32..=32,
        beyond in prop_oneof![Just(33), 33_u32..=u32::MAX - 32],
    ) {
        let page = Arc::new(HeapPages::new(1));
        word(&page, REQ_PROD).store(start.wrapping_add(taken), Ordering::Relaxed);
        word(&page, RSP_PROD).store(start, Ordering::Relaxed);
        let mut back = BackRing::<BlkifRequest, BlkifResponse, _>::attach(page.clone()).unwrap();
        for _ in 0..taken {
            prop_assert!(back.next_request().unwrap().is_some());
        }
        let (prod, cons) = (start.wrapping_add(beyond), start.wrapping_add(taken));
        word(&page, REQ_PROD).store(prod, Ordering::Relaxed);
        let broken = RingBroken { prod, cons };
        prop_assert_eq!(back.next_request(), Err(broken));
        prop_assert_eq!(back.available(), Err(broken));
        prop_assert!(back.final_check_for_requests(), "the next call reports it");
        let again = BackRing::<BlkifRequest, BlkifResponse, _>::attach(page).map(|_| ());
        prop_assert_eq!(again, Err(RingBroken { prod, cons: start }));
    }

    #[test]
    fn an_impossible_response_index_breaks_the_ring(start in start(), asked in 0_u32..=32, beyond in prop_oneof![Just(1), 1_u32..=u32::MAX - 32]) {
        let page = Arc::new(HeapPages::new(1));
        word(&page, REQ_PROD).store(start, Ordering::Relaxed);
        word(&page, RSP_PROD).store(start, Ordering::Relaxed);
        let mut front = FrontRing::<BlkifRequest, BlkifResponse, _>::attach(page.clone()).unwrap();
        for n in 0..asked {
            front.push_request(&Blk::<1>::request(n)).unwrap();
        }
        let _ = front.publish_requests();
        let prod = start.wrapping_add(asked).wrapping_add(beyond);
        word(&page, RSP_PROD).store(prod, Ordering::Relaxed);
        prop_assert_eq!(front.next_response(), Err(RingBroken { prod, cons: start }));
        prop_assert!(front.final_check_for_responses());
    }
}

#[derive(Clone, Debug)]
enum ByteOp {
    Write(Vec<u8>),
    Read(usize),
}

fn byte_ops() -> impl Strategy<Value = Vec<ByteOp>> {
    let one = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100).prop_map(ByteOp::Write),
        (0_usize..100).prop_map(ByteOp::Read),
    ];
    prop::collection::vec(one, 0..200)
}

/// A small ring at an odd place, and the console's and xenstore's.
const BYTE_RINGS: [ByteRing; 4] = [
    ByteRing::new(129, 64, 8, 4),
    ByteRing::new(0, 1, 4000, 4092),
    cantle_abi::io::console::XENCONS_OUT,
    cantle_abi::io::xs_wire::XENSTORE_RSP,
];
const CONS_PROD: [(usize, usize); 4] = [(8, 4), (4000, 4092), (3080, 3084), (2056, 2060)];

/// How far apart a byte ring's indices are: anything, and often around a ring's size.
fn distance() -> impl Strategy<Value = u32> {
    let around = (0_usize..4, 0_u32..4).prop_map(|(ring, more)| BYTE_RINGS[ring].size() + more - 1);
    prop_oneof![any::<u32>(), around]
}

proptest! {
    #[test]
    fn byte_rings_agree_with_the_model(which in 0_usize..4, start in start(), ops in byte_ops()) {
        let (ring, (cons, prod)) = (BYTE_RINGS[which], CONS_PROD[which]);
        let page = HeapPages::new(1);
        word(&page, cons).store(start, Ordering::Relaxed);
        word(&page, prod).store(start, Ordering::Relaxed);
        let size = ring.size() as usize;
        let mut model = VecDeque::new();
        for op in ops {
            match op {
                ByteOp::Write(bytes) => {
                    let fit = bytes.len().min(size - model.len());
                    prop_assert_eq!(ring.write(&page, &bytes), Ok(fit));
                    model.extend(&bytes[..fit]);
                }
                ByteOp::Read(most) => {
                    let mut buf = vec![0xee; most];
                    let expected: Vec<u8> = model.drain(..most.min(model.len())).collect();
                    prop_assert_eq!(ring.read(&page, &mut buf), Ok(expected.len()));
                    prop_assert_eq!(&buf[..expected.len()], &expected[..]);
                    prop_assert!(buf[expected.len()..].iter().all(|b| *b == 0xee), "written past the end");
                }
            }
            prop_assert_eq!(ring.readable(&page).map(|n| n as usize), Ok(model.len()));
            prop_assert_eq!(ring.writable(&page).map(|n| n as usize), Ok(size - model.len()));
        }
    }

    #[test]
    fn impossible_byte_indices_break_the_ring(which in 0_usize..4, at in start(), distance in distance()) {
        let (ring, (cons, prod)) = (BYTE_RINGS[which], CONS_PROD[which]);
        let page = HeapPages::new(1);
        let to = at.wrapping_add(distance);
        word(&page, cons).store(at, Ordering::Relaxed);
        word(&page, prod).store(to, Ordering::Relaxed);
        let (read, written) = (ring.read(&page, &mut [0; 2]), ring.write(&page, &[1, 2]));
        if distance > ring.size() {
            let broken = Err(RingBroken { prod: to, cons: at });
            prop_assert_eq!((read, written), (broken, broken));
            prop_assert_eq!(word(&page, cons).load(Ordering::Relaxed), at, "nothing is consumed");
            prop_assert_eq!(word(&page, prod).load(Ordering::Relaxed), to, "nothing is produced");
        } else {
            prop_assert!(read.is_ok() && written.is_ok());
        }
    }
}

#[test]
fn memory_too_small_for_a_ring_is_refused() {
    /// The first bytes of some pages.
    struct Part(HeapPages, usize);
    // SAFETY: a prefix of memory that keeps the promise.
    unsafe impl SharedMemory for Part {
        fn as_ptr(&self) -> std::ptr::NonNull<u8> {
            self.0.as_ptr()
        }
        fn len(&self) -> usize {
            self.1
        }
    }
    let nothing = RingBroken { prod: 0, cons: 0 };
    for (len, fits) in [(0, false), (64, false), (175, false), (176, true)] {
        let front = FrontRing::<BlkifRequest, BlkifResponse, _>::init(Part(HeapPages::new(1), len));
        assert_eq!(front.is_ok(), fits, "{len} bytes");
        let back = BackRing::<BlkifRequest, BlkifResponse, _>::attach(Part(HeapPages::new(1), len));
        assert_eq!(back.is_ok(), fits, "{len} bytes");
        let small = Part(HeapPages::new(1), 2063);
        assert_eq!(
            cantle_abi::io::xs_wire::XENSTORE_RSP.readable(&small),
            Err(nothing)
        );
    }
}
