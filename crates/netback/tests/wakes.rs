//! A guest that sleeps between packets is woken for each, and so is a back end that waits for pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cantle_netback::BackendOptions;
use cantle_netback::test_utils::{FrontOptions, Shape, TestDevice, World};
use cantle_netport::headers::IpVersion;
use cantle_netport::test_utils::Recorded;
use cantle_netport::{Checksum, Gso, GsoKind, Offload};
use cantle_xenstore::xenbus::XenbusState;

const PATIENCE: Duration = Duration::from_secs(20);

fn frame(payload: usize, gso: bool) -> Recorded {
    let shape = Shape::tcp(IpVersion::V4, vec![7; payload]);
    Recorded {
        bytes: shape.build(true),
        offload: Offload {
            checksum: Checksum::Blank {
                start: u16::try_from(shape.start()).expect("near the start"),
                offset: 16,
            },
            gso: gso.then_some(Gso {
                kind: GsoKind::TcpV4,
                size: 1448,
                header_len: 54,
                ecn: false,
            }),
        },
    }
}

/// Frames are delivered by another thread, in bursts and one by one; the guest has few pages, sleeps, and posts them late. Each frame that
/// was taken arrives, though nothing comes after it.
fn deliver_to_a_sleeper(split_channels: bool, rx_buffers: u16) {
    let world = World::new();
    let device = Arc::new(TestDevice::pushed(1));
    let backend = world
        .backend_with(device.clone(), BackendOptions::default())
        .expect("the directories are there");
    let options = FrontOptions {
        split_channels,
        rx_buffers,
        ..FrontOptions::default()
    };
    let mut front = world.front(&options);
    let running = World::serve(backend);
    assert!(front.wait_state(XenbusState::CONNECTED, PATIENCE));
    let (taken, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (large, small) = (frame(45 * 1448, true), frame(100, false));
            for round in 0..600_u64 {
                let burst: Vec<Recorded> = match round % 7 {
                    0 => vec![large.clone(); 3],
                    1 => vec![small.clone(); 5],
                    2 => vec![small.clone(), large.clone(), small.clone()],
                    _ => vec![if round % 2 == 0 { &large } else { &small }.clone()],
                };
                let count = device
                    .deliver(&burst)
                    .into_iter()
                    .filter(|taken| *taken)
                    .count();
                taken.fetch_add(count as u64, Ordering::SeqCst);
                if round % 3 == 0 {
                    std::thread::sleep(Duration::from_micros(round % 11 * 40));
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut arrived = 0;
        let mut last = Instant::now();
        loop {
            let finished = done.load(Ordering::SeqCst);
            if finished && arrived == taken.load(Ordering::SeqCst) {
                break;
            }
            if !front.wait_rx(Duration::from_millis(50)) {
                assert!(
                    last.elapsed() < PATIENCE,
                    "{arrived} of {taken:?} have arrived, {} pages are posted: {front:?} {:?}",
                    front.posted(),
                    running.stats()
                );
                continue;
            }
            let packets = front.receive().len() as u64;
            arrived += packets;
            if packets > 0 {
                last = Instant::now();
            }
            if arrived % 5 == 0 {
                std::thread::sleep(Duration::from_micros(100));
            }
            let used = usize::from(rx_buffers) - front.posted();
            front.post(u16::try_from(used).expect("at most as many as there are"));
        }
    });
}

#[test]
fn a_sleeper_gets_what_was_delivered() {
    for split_channels in [true, false] {
        for rx_buffers in [18, 19, 40, 256] {
            deliver_to_a_sleeper(split_channels, rx_buffers);
        }
    }
}
