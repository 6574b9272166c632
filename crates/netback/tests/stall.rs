//! A guest that posts no pages: what waits is bounded, gets too old, and nobody is said to be there in the end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use cantle_netback::BackendOptions;
use cantle_netback::test_utils::{
    FrontOptions, PATIENCE, TestDevice, Vif, outgoing, plain, settle, step, until,
};

const DRAIN: Duration = Duration::from_millis(60);
const STALL: Duration = Duration::from_millis(150);

fn options() -> BackendOptions {
    let mut options = BackendOptions::default();
    options.drain_after = DRAIN;
    options.stall_after = STALL;
    options
}

fn without_pages(device: TestDevice, pages: u16) -> Vif {
    let front = FrontOptions {
        rx_buffers: pages,
        ..FrontOptions::default()
    };
    Vif::connect(device, options(), &front)
}

fn link(vif: &Vif) -> bool {
    vif.device.open()[0].link()
}

/// Lets the back end work, woken by nothing but itself, until something is so.
#[track_caller]
fn by_itself(vif: &mut Vif, mut is_so: impl FnMut(&mut Vif) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so(vif) {
        assert!(Instant::now() < end, "it does not come");
        let woken = step(&mut vif.backend, Duration::from_secs(5));
        assert!(woken, "it does not wake by itself");
    }
}

fn dropped(vif: &Vif) -> u64 {
    vif.backend.stats().rx.counts().dropped
}

/// Frames get too old and the link goes down, both in time and without anybody's doing; pages bring it up again.
fn stalls_and_recovers(mut vif: Vif, frame: &[u8], waiting: u64) {
    let begin = Instant::now();
    for n in 0..waiting {
        let port = usize::try_from(n).unwrap();
        assert!(vif.device.inject(port, plain(frame.to_vec())));
    }
    settle(&mut vif.backend);
    assert_eq!(dropped(&vif), 0);
    by_itself(&mut vif, |vif| dropped(vif) == waiting);
    let drained = begin.elapsed();
    assert!(drained >= DRAIN, "{drained:?}");
    assert!(link(&vif), "not yet");
    // What comes now is not kept.
    assert_eq!(
        vif.device.inject(0, plain(frame.to_vec())),
        !vif.device.pushes()
    );
    by_itself(&mut vif, |vif| !link(vif));
    let stalled = begin.elapsed();
    assert!(stalled >= STALL, "{stalled:?}");
    assert_eq!(vif.backend.stats().stalls(), 1);
    assert_eq!(dropped(&vif), waiting + 1);
    assert!(vif.front.receive().is_empty());

    // Pages are enough: where nobody is there, no frame might come.
    vif.front.post(200);
    until(&mut vif.backend, |_| vif.device.open()[0].link());
    assert!(vif.device.inject(0, plain(vec![9; 100])));
    settle(&mut vif.backend);
    let incoming = vif.front.receive();
    assert_eq!(incoming.len(), 1);
    assert_eq!(incoming[0].bytes, [9; 100]);
    assert!(link(&vif));
    assert_eq!(vif.backend.stats().stalls(), 1);
}

#[test]
fn a_port_that_is_read_stalls_and_recovers() {
    stalls_and_recovers(without_pages(TestDevice::pulled(1), 0), &[1; 1000], 20);
}

#[test]
fn a_port_that_pushes_stalls_and_recovers() {
    stalls_and_recovers(without_pages(TestDevice::pushed(1), 0), &[1; 1000], 20);
}

/// Fewer pages than the next frame needs are none.
#[test]
fn xsa_392_a_free_slot_does_not_prevent_the_stall() {
    for device in [TestDevice::pulled(1), TestDevice::pushed(1)] {
        stalls_and_recovers(without_pages(device, 1), &[1; 9000], 20);
    }
}

/// Nor do pages that come one by one, each too few.
#[test]
fn xsa_392_pages_in_dribs_do_not_prevent_the_stall() {
    for device in [TestDevice::pulled(1), TestDevice::pushed(1)] {
        let mut vif = without_pages(device, 0);
        let begin = Instant::now();
        assert!(vif.device.inject(0, plain(vec![1; 60_000])));
        settle(&mut vif.backend);
        for _ in 0..10 {
            vif.front.post(1);
            step(&mut vif.backend, DRAIN / 20);
        }
        by_itself(&mut vif, |vif| dropped(vif) == 1);
        let time = begin.elapsed();
        assert!(time < DRAIN * 10, "{time:?}");
    }
}

/// The other direction's work does not take the clock away.
#[test]
fn a_guest_that_sends_but_takes_nothing_stalls() {
    for device in [TestDevice::pulled(1), TestDevice::pushed(1)] {
        let mut vif = without_pages(device, 0);
        assert!(vif.device.inject(0, plain(vec![1; 100])));
        settle(&mut vif.backend);
        assert!(vif.front.send(&outgoing(&[2; 100])));
        vif.front.kick();
        settle(&mut vif.backend);
        assert_eq!(vif.front.responses().len(), 1);
        by_itself(&mut vif, |vif| dropped(vif) == 1);
        by_itself(&mut vif, |vif| !link(vif));
    }
}

/// A flood for a guest without pages: what waits is bounded in bytes and in number.
#[test]
fn xsa_392_a_flood_is_bounded() {
    let most = BackendOptions::default().queue_bytes;
    for len in [60, 1500, 60_000] {
        let front = FrontOptions {
            rx_buffers: 0,
            ..FrontOptions::default()
        };
        let mut vif = Vif::connect(TestDevice::pushed(1), BackendOptions::default(), &front);
        let frames: Vec<_> = (0..100).map(|_| plain(vec![3; len])).collect();
        let mut taken = 0;
        for _ in 0..100 {
            taken += vif
                .device
                .deliver(&frames)
                .iter()
                .filter(|taken| **taken)
                .count();
        }
        assert!(
            taken > 0 && taken * len <= most && taken <= 1024,
            "{taken} of {len} bytes"
        );
        // Some are kept: half of what there is room for, at least.
        assert!(
            taken * len * 2 > most || taken == 1024,
            "{taken} of {len} bytes"
        );
        let counts = vif.backend.stats().rx.counts();
        assert_eq!(counts.dropped, 10_000 - u64::try_from(taken).unwrap());
        let mut got = 0;
        while got < taken {
            vif.front.post(256);
            settle(&mut vif.backend);
            let incoming = vif.front.receive();
            assert!(!incoming.is_empty(), "after {got}");
            got += incoming.len();
        }
        assert_eq!(got, taken);
    }
}

/// A guest that never takes its responses has a full ring, and that is all.
#[test]
fn a_guest_that_never_takes_responses_gets_no_more_than_a_ring() {
    for device in [TestDevice::pulled(1), TestDevice::pushed(1)] {
        let mut vif = without_pages(device, 256);
        for n in 0..1000_u32 {
            let port = usize::try_from(n).unwrap();
            vif.device.inject(port, plain(vec![4; 100]));
        }
        settle(&mut vif.backend);
        assert_eq!(vif.backend.stats().rx.counts().packets, 256);
        by_itself(&mut vif, |vif| dropped(vif) == 744);
        by_itself(&mut vif, |vif| !link(vif));
        assert_eq!(vif.front.receive().len(), 256);
    }
}

/// Times that contradict each other are no reason to panic.
#[test]
fn a_stall_before_the_drain_is_one_at_the_drain() {
    for (drain, stall) in [(40, 10), (0, 0), (u64::MAX / 2000, u64::MAX / 1000)] {
        let mut options = BackendOptions::default();
        options.drain_after = Duration::from_millis(drain);
        options.stall_after = Duration::from_millis(stall);
        let front = FrontOptions {
            rx_buffers: 0,
            ..FrontOptions::default()
        };
        for device in [TestDevice::pulled(1), TestDevice::pushed(1)] {
            let mut vif = Vif::connect(device, options, &front);
            vif.device.inject(0, plain(vec![1; 100]));
            settle(&mut vif.backend);
            if drain < 1000 {
                until(&mut vif.backend, |_| !vif.device.open()[0].link());
            }
        }
    }
}
