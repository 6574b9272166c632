use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use cantle_abi::ring::HeapPages;
use cantle_image::test_utils::{Driven, FaultImage, Faults};
use cantle_image::{Completion, Io, IoOp, NullDisk, NullImage, Pages};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::*;

fn io(token: u64, op: IoOp, bytes: usize) -> Io {
    let mut io = Io::new();
    io.begin(token, op, 0);
    if bytes != 0 {
        let pages = Pages::Shared(Arc::new(HeapPages::new(bytes.div_ceil(4096))));
        io.push(pages, 0, bytes).unwrap();
    }
    io
}

fn disk(limits: Limits) -> Throttle<NullDisk> {
    Throttle::new(NullDisk { sectors: 1 << 20 }, limits)
}

/// Waits until so many are over; their tokens in order.
fn collect(image: &mut dyn BlockImage, count: usize) -> Vec<u64> {
    let mut done: Vec<Completion> = Vec::new();
    loop {
        image.completions(&mut done);
        if done.len() >= count {
            return done.into_iter().map(|done| done.io.token()).collect();
        }
        image.wait(None).unwrap();
    }
}

#[test]
fn without_a_limit_nothing_waits() {
    let mut image = disk(Limits::default()).open_queue().unwrap();
    (0..100).for_each(|token| image.queue(io(token, IoOp::Write, 65536)));
    image.submit().unwrap();
    assert_eq!(collect(&mut *image, 100).len(), 100);
}

#[test]
fn a_limit_of_bytes_holds_and_order_is_kept() {
    let limits = Limits {
        write_bps: 1 << 20,
        write_bps_burst: 65536,
        ..Limits::default()
    };
    let mut image = disk(limits).open_queue().unwrap();
    let began = Instant::now();
    for token in 0..16 {
        let op = if token == 7 { IoOp::Flush } else { IoOp::Write };
        image.queue(io(token, op, if token == 7 { 0 } else { 16384 }));
    }
    image.submit().unwrap();
    assert_eq!(collect(&mut *image, 16), (0..16).collect::<Vec<_>>());
    // 15 times 16 KiB, of which 64 are there at once, at 1 MiB a second.
    let least = Duration::from_micros(171_875);
    let took = began.elapsed();
    assert!(took >= least && took < least * 10, "{took:?}");
}

#[test]
fn reads_do_not_pay_for_writes() {
    let limits = Limits {
        write_iops: 1,
        ..Limits::default()
    };
    let throttle = disk(limits);
    let (mut one, mut two) = (
        throttle.open_queue().unwrap(),
        throttle.open_queue().unwrap(),
    );
    one.queue(io(0, IoOp::Write, 512));
    one.queue(io(1, IoOp::Write, 512));
    one.submit().unwrap();
    (0..100).for_each(|token| two.queue(io(token, IoOp::Read, 512)));
    two.submit().unwrap();
    assert_eq!(collect(&mut *two, 100).len(), 100);
    assert_eq!(collect(&mut *one, 1), [0]);
}

#[test]
fn limits_change_for_what_waits() {
    let throttle = disk(Limits {
        read_bps: 1,
        ..Limits::default()
    });
    let mut image = throttle.open_queue().unwrap();
    (0..50).for_each(|token| image.queue(io(token, IoOp::Read, 512)));
    image.submit().unwrap();
    let handle = throttle.handle();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        handle.set(Limits::default());
        handle.limits()
    });
    let began = Instant::now();
    assert_eq!(collect(&mut *image, 50).len(), 50);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(thread.join().unwrap(), Limits::default());
}

#[test]
fn a_request_larger_than_the_bucket_passes() {
    let limits = Limits {
        read_bps: 1 << 20,
        read_bps_burst: 4096,
        ..Limits::default()
    };
    let mut image = disk(limits).open_queue().unwrap();
    let began = Instant::now();
    image.queue(io(0, IoOp::Read, 65536));
    image.queue(io(1, IoOp::Read, 4096));
    image.submit().unwrap();
    assert_eq!(collect(&mut *image, 2), [0, 1]);
    // The debt of 60 KiB, and the 4 KiB.
    assert!(began.elapsed() >= Duration::from_micros(62_500));
}

#[test]
fn queues_share_and_one_that_sleeps_or_ends_holds_up_nobody() {
    let limits = Limits {
        read_iops: 200,
        read_iops_burst: 1,
        ..Limits::default()
    };
    let throttle = disk(limits);
    let (mut one, mut two, mut three) = (
        throttle.open_queue().unwrap(),
        throttle.open_queue().unwrap(),
        throttle.open_queue().unwrap(),
    );
    for image in [&mut one, &mut two, &mut three] {
        (0..20).for_each(|token| image.queue(io(token, IoOp::Read, 512)));
        image.submit().unwrap();
    }
    drop(two);
    // Nobody serves `one` meanwhile.
    assert_eq!(collect(&mut *three, 20).len(), 20);
    assert_eq!(collect(&mut *one, 20).len(), 20);
}

#[test]
fn two_busy_queues_get_the_same() {
    let limits = Limits {
        read_bps: 64 << 20,
        ..Limits::default()
    };
    let throttle = Arc::new(disk(limits));
    let end = Instant::now() + Duration::from_millis(600);
    let threads = [4096, 65536].map(|size| {
        let throttle = Arc::clone(&throttle);
        std::thread::spawn(move || {
            let mut image = throttle.open_queue().unwrap();
            (0..8).for_each(|token| image.queue(io(token, IoOp::Read, size)));
            let (mut had, mut done) = (0, Vec::new());
            while Instant::now() < end {
                image.wait(None).unwrap();
                image.completions(&mut done);
                for done in done.drain(..) {
                    had += done.io.bytes();
                    image.queue(done.io);
                }
                image.submit().unwrap();
            }
            had
        })
    });
    let [small, large] = threads.map(|thread| thread.join().unwrap());
    let sum = small + large;
    assert!(sum < (64 << 20) * 3 / 4 + (64 << 20) / 10, "{sum}");
    assert!(
        small * 3 > large && large * 3 > small,
        "{small} and {large}"
    );
}

#[test]
fn the_descriptor_tells_and_the_wake_wakes() {
    let limits = Limits {
        read_iops: 20,
        read_iops_burst: 1,
        ..Limits::default()
    };
    let mut image = disk(limits).open_queue().unwrap();
    let readable = |image: &dyn BlockImage, millis: i32| {
        let mut fds = [PollFd::from_borrowed_fd(
            image.completion_fd(),
            PollFlags::IN,
        )];
        let wait = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(millis) * 1_000_000,
        };
        poll(&mut fds, Some(&wait)).unwrap() == 1
    };
    let wake = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
    image.queue(io(0, IoOp::Read, 512));
    image.queue(io(1, IoOp::Read, 512));
    image.submit().unwrap();
    let mut done = Vec::new();
    image.completions(&mut done);
    assert_eq!(done.len(), 1);
    assert!(!readable(&*image, 10));
    assert!(image.wait(Some(wake.as_fd())).unwrap());
    while done.len() < 2 {
        assert!(readable(&*image, 900));
        image.completions(&mut done);
    }
    // Nothing is left that would keep a waiter awake.
    assert!(!readable(&*image, 100));
}

/// A disk whose queues fail and hold as they are told.
struct Faulty(Mutex<Vec<Arc<Faults>>>, AtomicU64);

impl Disk for Faulty {
    fn geometry(&self) -> Geometry {
        NullDisk { sectors: 1 << 20 }.geometry()
    }
    fn open_queue(&self) -> Result<Box<dyn BlockImage>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let image = FaultImage::new(NullImage::new(1 << 20)?)?;
        self.0.lock().unwrap().push(image.faults());
        Ok(Box::new(image))
    }
}

#[test]
fn errors_and_delays_of_the_disk_come_through() {
    let throttle = Throttle::new(
        Faulty(Mutex::default(), AtomicU64::new(0)),
        Limits {
            write_iops: 1000,
            ..Limits::default()
        },
    );
    let mut driven = Driven::new(&throttle).unwrap();
    let faults = Arc::clone(&throttle.inner.0.lock().unwrap()[0]);
    faults.plan(|_| cantle_image::test_utils::Fault::Fail(cantle_image::ImageError::Host(5)));
    assert_eq!(
        driven.write(0, &[0; 512]),
        Err(cantle_image::ImageError::Host(5))
    );
    faults.plan(|_| cantle_image::test_utils::Fault::Pass);
    driven.write(0, &[0; 512]).unwrap();
    driven.flush().unwrap();
}

#[test]
fn a_queue_that_ends_takes_its_place_in_the_line_along() {
    let limits = Limits {
        read_bps: 8192,
        read_bps_burst: 4096,
        ..Limits::default()
    };
    let throttle = disk(limits);
    let (mut one, mut two) = (
        throttle.open_queue().unwrap(),
        throttle.open_queue().unwrap(),
    );
    let large = io(1, IoOp::Read, 1 << 20);
    one.queue(io(0, IoOp::Read, 4096));
    // Two minutes' worth of debt, if it passed.
    one.queue(large);
    two.queue(io(2, IoOp::Read, 4096));
    two.queue(io(3, IoOp::Read, 4096));
    drop(one);
    two.submit().unwrap();
    let began = Instant::now();
    assert_eq!(collect(&mut *two, 2), [2, 3]);
    assert!(began.elapsed() < Duration::from_secs(30));
}
