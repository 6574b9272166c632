//! The rings against a plain model: a queue each way, counted in numbers that never wrap.
//!
//! Random sequences of both sides' calls run on real rings and on the model. Order, contents, fullness and the notification
//! rule must agree; indices start anywhere, so that they wrap. Indices that lie end in `RingBroken` and never in a panic.
//! Rings whose pages lie apart must in the end hold the same bytes as rings in one piece, and nothing may lie between their pages.

// UNSAFETY: the test plays a peer that writes a ring's header directly.
#![expect(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cantle_abi::io::blkif::{BlkifRequest, BlkifResponse, BlkifX86_32Request, BlkifX86_32Response};
use cantle_abi::ring::{BackRing, ByteRing, FrontRing, HeapPages, Paged, RingBroken, RingFull};
use cantle_abi::{PAGE_SIZE, SharedMemory};
use proptest::prelude::*;

#[path = "ring_model/kinds.rs"]
mod kinds;
#[path = "ring_model/memory.rs"]
mod memory;

use kinds::{Blk, Blk32, Kind, Rx, Tx};
use memory::{Memory, OneOf, word};

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;

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

/// Gives the ring's memory at the end.
fn rings_agree_with_the_model<K: Kind, M: Memory>(
    start: u32,
    ops: &[Op],
) -> Result<Vec<u32>, RingBroken> {
    let page = M::new(K::PAGES);
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
    let mut back = BackRing::<K::Q, K::S, _>::attach(page.clone())?;
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
    Ok(page.words())
}

type InOnePiece = Arc<HeapPages>;
type Apart = Paged<OneOf>;

/// A ring with pages apart does what the model does, and leaves the bytes that a ring in one piece leaves.
fn pages_may_lie_apart<K: Kind>(start: u32, ops: &[Op]) {
    let apart = rings_agree_with_the_model::<K, Apart>(start, ops);
    let whole = rings_agree_with_the_model::<K, InOnePiece>(start, ops);
    assert!(apart.is_ok());
    assert_eq!(apart, whole, "other bytes than in one piece");
}

/// What a peer may write at any time.
fn lie() -> impl Strategy<Value = (usize, u32)> {
    let near = (any::<i16>()).prop_map(|n| i32::from(n).cast_unsigned());
    let value = prop_oneof![any::<u32>(), near];
    (0_usize..4).prop_flat_map(move |index| (Just(index * 4), value.clone()))
}

/// Both sides stay bounded and calm whatever the header says: no more is taken than the ring has slots.
fn lies_are_survived<K: Kind, M: Memory>(start: u32, steps: &[(usize, u32, Op)]) {
    let page = M::new(K::PAGES);
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
    // For pages apart: nothing lies between them.
    drop(page.words());
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
        prop_assert!(rings_agree_with_the_model::<Blk<1>, InOnePiece>(start, &ops).is_ok());
        prop_assert!(rings_agree_with_the_model::<Blk32<1>, InOnePiece>(start, &ops).is_ok());
    }

    #[test]
    fn blkif_ring_of_pages_apart_agrees_with_the_model(start in start(), ops in ops(120)) {
        pages_may_lie_apart::<Blk<1>>(start, &ops);
        pages_may_lie_apart::<Blk<2>>(start, &ops);
        pages_may_lie_apart::<Blk<4>>(start, &ops);
        pages_may_lie_apart::<Blk<16>>(start, &ops);
    }

    #[test]
    fn blkif_ring_of_a_32_bit_guest_and_pages_apart_agrees_with_the_model(start in start(), ops in ops(120)) {
        pages_may_lie_apart::<Blk32<1>>(start, &ops);
        pages_may_lie_apart::<Blk32<2>>(start, &ops);
        pages_may_lie_apart::<Blk32<4>>(start, &ops);
        pages_may_lie_apart::<Blk32<16>>(start, &ops);
    }

    #[test]
    fn netif_tx_ring_agrees_with_the_model(start in start(), ops in ops(120)) {
        prop_assert!(rings_agree_with_the_model::<Tx, InOnePiece>(start, &ops).is_ok());
    }

    #[test]
    fn netif_rx_ring_agrees_with_the_model(start in start(), ops in ops(120)) {
        prop_assert!(rings_agree_with_the_model::<Rx, InOnePiece>(start, &ops).is_ok());
    }

    #[test]
    fn a_peer_that_lies_in_the_header_is_survived(start in start(), steps in lying_steps()) {
        lies_are_survived::<Blk<1>, InOnePiece>(start, &steps);
        lies_are_survived::<Tx, InOnePiece>(start, &steps);
        lies_are_survived::<Rx, InOnePiece>(start, &steps);
    }

    #[test]
    fn a_peer_that_lies_in_the_header_of_pages_apart_is_survived(start in start(), steps in lying_steps()) {
        lies_are_survived::<Blk<2>, Apart>(start, &steps);
        lies_are_survived::<Blk<16>, Apart>(start, &steps);
        lies_are_survived::<Blk32<4>, Apart>(start, &steps);
        lies_are_survived::<Blk32<16>, Apart>(start, &steps);
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

/// Fills a whole ring, answers all of it, and gives its memory.
fn every_slot_is_used<K: Kind, M: Memory>() -> [Vec<u32>; 2] {
    let memory = M::new(K::PAGES);
    let mut front =
        FrontRing::<K::Q, K::S, _>::init(memory.clone()).expect("the memory holds a ring");
    let mut back =
        BackRing::<K::Q, K::S, _>::attach(memory.clone()).expect("no request is in flight");
    for n in 0..K::SLOTS {
        front.push_request(&K::request(n)).expect("a slot is free");
    }
    let full = memory.words();
    let _ = front.publish_requests();
    for n in 0..K::SLOTS {
        assert_eq!(back.next_request(), Ok(Some(K::request(n))));
        back.push_response(&K::response(n))
            .expect("it was asked for");
    }
    let _ = back.publish_responses();
    for n in 0..K::SLOTS {
        assert_eq!(front.next_response(), Ok(Some(K::response(n))));
    }
    [full, memory.words()]
}

#[test]
fn every_slot_of_pages_apart_lies_as_in_one_piece() {
    fn check<K: Kind>() {
        let (slot, pages) = (size_of::<K::Q>(), K::PAGES);
        let starts = (0..K::SLOTS as usize).map(|n| 64 + n * slot);
        let straddling = starts.filter(|at| at / PAGE_SIZE != (at + slot - 1) / PAGE_SIZE);
        assert!(
            straddling.count() >= pages / 2,
            "slots that lie in two pages"
        );
        let whole = every_slot_is_used::<K, InOnePiece>();
        assert_eq!(every_slot_is_used::<K, Apart>(), whole);
    }
    check::<Blk<4>>();
    check::<Blk<16>>();
    check::<Blk32<2>>();
    check::<Blk32<4>>();
    check::<Blk32<16>>();
}

/// Says that a thread panicked, to the one that waits for it.
struct Panicked<'a>(&'a AtomicBool);

impl Drop for Panicked<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(std::thread::panicking(), Ordering::Relaxed);
    }
}

/// A front end and a back end that run at the same time, each waiting for the other in a loop.
#[test]
fn two_threads_exchange_requests_over_pages_apart() {
    type K = Blk32<4>;
    type Q = BlkifX86_32Request;
    type S = BlkifX86_32Response;
    const REQUESTS: u32 = if cfg!(miri) { 200 } else { 100_000 };
    let memory = <Apart as Memory>::new(K::PAGES);
    let mut front = FrontRing::<Q, S, _>::init(memory.clone()).expect("the memory holds a ring");
    let back = BackRing::<Q, S, _>::attach(memory).expect("no request is in flight");
    let panicked = AtomicBool::new(false);
    let wait = || {
        assert!(!panicked.load(Ordering::Relaxed), "the other thread failed");
        std::thread::yield_now();
    };
    std::thread::scope(|scope| {
        let _says = Panicked(&panicked);
        scope.spawn(|| {
            let (_says, mut back) = (Panicked(&panicked), back);
            let mut n = 0;
            while n < REQUESTS {
                while let Some(request) = back.next_request().expect("the front end is honest") {
                    assert_eq!(request, K::request(n));
                    back.push_response(&K::response(n)).expect("it was asked");
                    n += 1;
                }
                let _ = back.publish_responses();
                wait();
            }
        });
        let (mut asked, mut heard) = (0, 0);
        while heard < REQUESTS {
            while asked < REQUESTS && front.free() != 0 {
                front
                    .push_request(&K::request(asked))
                    .expect("a slot is free");
                asked += 1;
            }
            let _ = front.publish_requests();
            while let Some(response) = front.next_response().expect("the back end is honest") {
                assert_eq!(response, K::response(heard));
                heard += 1;
            }
            wait();
        }
    });
}
