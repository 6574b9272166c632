//! Limits of what passes: they hold, for all queues together and in both directions, and those who wait are woken.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cantle_netback::credit::Rate;
use cantle_netback::test_utils::{
    FrontOptions, FrontQueue, StopAtEnd, TestDevice, Vif, World, eventually, outgoing, plain,
    settle, step, until,
};
use cantle_netback::{BackendOptions, Stats};
use cantle_netport::headers::IpVersion;
use cantle_netport::test_utils::{Recorded, Shape};

/// A full bucket holds this much at least.
const BURST_MIN: u64 = 64 * 1024;

fn rate(bytes: u64, micros: u32) -> Option<Rate> {
    let bytes = NonZeroU64::new(bytes).unwrap();
    Some(Rate::new(bytes, NonZeroU32::new(micros).unwrap()))
}

/// Hardly anything after the first bucket.
fn trickle() -> Option<Rate> {
    rate(1000, 1_000_000_000)
}

fn options(tx_rate: Option<Rate>, rx_rate: Option<Rate>) -> BackendOptions {
    let mut options = BackendOptions::default();
    options.tx_rate = tx_rate;
    options.rx_rate = rx_rate;
    options
}

fn queues(queues: u32) -> FrontOptions {
    FrontOptions {
        queues,
        ..FrontOptions::default()
    }
}

/// Sends as fast as the ring allows.
fn send_greedily(queue: &mut FrontQueue, stop: &AtomicBool) {
    let bytes = [7; 1500];
    while !stop.load(Ordering::Relaxed) {
        while queue.send(&outgoing(&bytes)) {}
        queue.kick();
        let _ = queue.wait_tx(Duration::from_millis(2));
        queue.responses();
    }
}

/// Takes whatever comes.
fn take_greedily(queue: &mut FrontQueue, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let _ = queue.wait_rx(Duration::from_millis(2));
        queue.drain();
    }
}

fn flow(n: u8) -> Recorded {
    let mut shape = Shape::tcp(IpVersion::V4, vec![n; 1400]);
    shape.options = usize::from(n % 4);
    let mut bytes = shape.build(false);
    // Another address for each flow; nobody looks at the sums.
    bytes[29] = n;
    plain(bytes)
}

/// Runs greedy traffic for a while, and compares what has passed with the limit.
fn hold(vif: Vif, bytes_per_second: u64, bucket: u64, passed: fn(&Stats) -> u64, rx: bool) {
    let Vif {
        world: _world,
        device,
        backend,
        mut front,
    } = vif;
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let running = World::serve(backend);
    let (first, after) = std::thread::scope(|scope| {
        let _end = StopAtEnd(&stop);
        for queue in front.queues() {
            let stop = &stop;
            scope.spawn(move || {
                if rx {
                    take_greedily(queue, stop);
                } else {
                    send_greedily(queue, stop);
                }
            });
        }
        if rx {
            let (stop, device) = (&stop, &device);
            scope.spawn(move || {
                let frames: Vec<Recorded> = (0..32).map(flow).collect();
                while !stop.load(Ordering::Relaxed) {
                    if device.pushes() {
                        let _ = device.deliver(&frames);
                    }
                    for (n, frame) in frames.iter().enumerate() {
                        if !device.pushes() && device.open()[0].waiting() < 200 {
                            device.inject(n, frame.clone());
                        }
                    }
                    std::thread::sleep(Duration::from_micros(500));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        let first = (Instant::now(), passed(running.stats()));
        std::thread::sleep(Duration::from_millis(600));
        let after = (passed(running.stats()), begin.elapsed());
        ((first.0.elapsed(), first.1), after)
    });
    let (total, time) = after;
    let most = bucket + bytes_per_second * u64::try_from(time.as_millis() + 1).unwrap() / 1000;
    // Each queue's thread may have a batch under way that it has asked for already.
    let slack = 4 * 64 * 1500;
    assert!(total <= most + slack, "{total} bytes of {most} in {time:?}");
    let steady = total - first.1;
    let due = bytes_per_second * u64::try_from(first.0.as_millis()).unwrap() / 1000;
    assert!(steady * 10 >= due * 7, "{steady} bytes of {due}");
}

#[test]
fn what_a_guest_sends_is_held_to_the_rate() {
    for count in [1, 2] {
        let device = TestDevice::pulled(4);
        let vif = Vif::connect(device, options(rate(50_000, 5000), None), &queues(count));
        hold(
            vif,
            10_000_000,
            BURST_MIN,
            |stats| stats.tx.counts().bytes,
            false,
        );
    }
}

#[test]
fn what_a_guest_is_sent_is_held_to_the_rate() {
    for (device, count) in [
        (TestDevice::pulled(4), 1),
        (TestDevice::pushed(4), 1),
        (TestDevice::pushed(4), 3),
    ] {
        let vif = Vif::connect(device, options(None, rate(50_000, 5000)), &queues(count));
        hold(
            vif,
            10_000_000,
            BURST_MIN,
            |stats| stats.rx.counts().bytes,
            true,
        );
    }
}

#[test]
fn who_waits_for_credit_to_send_is_woken_by_another_rate() {
    let device = TestDevice::pulled(4);
    let mut vif = Vif::connect(device, options(trickle(), None), &queues(2));
    for queue in vif.front.queues() {
        for _ in 0..100 {
            assert!(queue.send(&outgoing(&[1; 1500])));
        }
        queue.kick();
    }
    let control = vif.backend.control();
    let running = World::serve(vif.backend);
    let sent = || running.stats().tx.counts().packets;
    eventually(|| sent() >= 43);
    std::thread::sleep(Duration::from_millis(50));
    let before = sent();
    assert!(before < 200, "{before}");
    control.set_tx_rate(rate(1_000_000, 10_000));
    eventually(|| sent() == 200);
    control.set_tx_rate(trickle());
    control.set_tx_rate(None);
}

#[test]
fn who_waits_for_credit_to_receive_is_woken_by_another_rate() {
    for device in [TestDevice::pulled(4), TestDevice::pushed(4)] {
        let vif = Vif::connect(device, options(None, trickle()), &queues(2));
        let control = vif.backend.control();
        let running = World::serve(vif.backend);
        for n in 0..100 {
            assert!(vif.device.inject(usize::from(n), flow(n)), "it waits");
        }
        let got = || running.stats().rx.counts().packets;
        eventually(|| got() >= 40);
        std::thread::sleep(Duration::from_millis(50));
        let before = got();
        assert!(before < 100, "{before}");
        control.set_rx_rate(None);
        eventually(|| got() == 100);
    }
}

/// The queue's clock serves both directions: the one that is served again must not forget what the other waits for.
#[test]
fn traffic_one_way_does_not_make_who_waits_the_other_way_wait_for_ever() {
    let device = TestDevice::pulled(1);
    let mut vif = Vif::connect(device, options(rate(100_000, 10_000), None), &queues(1));
    let mut answered = 0;
    for _ in 0..100 {
        assert!(vif.front.send(&outgoing(&[1; 1500])));
    }
    vif.front.kick();
    settle(&mut vif.backend);
    answered += vif.front.responses().len();
    assert!(answered < 100, "the bucket is empty");
    vif.device.inject(0, flow(1));
    settle(&mut vif.backend);
    while answered < 100 {
        assert!(step(&mut vif.backend, Duration::from_secs(2)), "it sleeps");
        answered += vif.front.responses().len();
    }

    let device = TestDevice::pulled(1);
    let mut vif = Vif::connect(device, options(None, rate(100_000, 10_000)), &queues(1));
    for n in 0..100 {
        vif.device.inject(0, flow(n));
    }
    settle(&mut vif.backend);
    let mut got = vif.front.receive().len();
    assert!(got < 100, "the bucket is empty");
    assert!(vif.front.send(&outgoing(&[1; 1500])));
    vif.front.kick();
    settle(&mut vif.backend);
    while got < 100 {
        assert!(step(&mut vif.backend, Duration::from_secs(2)), "it sleeps");
        got += vif.front.receive().len();
    }
}

#[test]
fn a_link_that_is_down_passes_nothing_and_one_that_is_up_again_does() {
    for device in [TestDevice::pulled(4), TestDevice::pushed(4)] {
        let mut vif = Vif::connect(device, BackendOptions::default(), &queues(2));
        let control = vif.backend.control();
        control.set_link(false);
        until(&mut vif.backend, |_| !vif.device.open()[0].link());
        assert!(!control.link());
        vif.device.inject(0, flow(1));
        assert!(vif.front.send(&outgoing(&[1; 100])));
        vif.front.kick();
        let mut answers = Vec::new();
        until(&mut vif.backend, |_| {
            answers.extend(vif.front.responses());
            !answers.is_empty()
        });
        assert_eq!(answers[0].status, -2, "dropped");
        assert!(vif.device.take_sent().concat().is_empty());
        until(&mut vif.backend, |backend| {
            backend.stats().rx.counts().dropped == 1
        });
        control.set_link(true);
        until(&mut vif.backend, |_| vif.device.open()[0].link());
        assert!(vif.device.inject(0, flow(2)));
        until(&mut vif.backend, |_| {
            let queues = vif.front.queues().iter_mut();
            queues.map(|queue| queue.receive().len()).sum::<usize>() == 1
        });
    }
}
