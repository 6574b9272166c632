//! What interfaces cost that are connected and have nothing to do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use cantle_netback::test_utils::{FrontOptions, NetFront, TestDevice, World, settle};
use cantle_netback::{Backend, BackendOptions};
use cantle_xenstore::xenbus::XenbusState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const INTERFACES: usize = 1000;

/// The time that the process's threads have computed, and how often they were woken.
fn effort() -> (Duration, u64) {
    let (mut nanos, mut wakeups) = (0, 0);
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let stat = std::fs::read_to_string(task.unwrap().path().join("schedstat"));
        let stat = stat.unwrap_or_default();
        let mut words = stat.split_whitespace();
        nanos += words.next().map_or(0, |word| word.parse::<u64>().unwrap());
        // How often it was given a processor.
        wakeups += words.nth(1).map_or(0, |word| word.parse::<u64>().unwrap());
    }
    (Duration::from_nanos(nanos), wakeups)
}

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Each has a descriptor of its own, as an embedder polls it; some have a second queue with a thread.
#[test]
fn a_thousand_idle_interfaces_cost_no_time() {
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    // Each takes some twenty, with its world around it.
    let room = most.map_or(INTERFACES, |most| usize::try_from(most).unwrap() / 22);
    let count = INTERFACES.min(room);
    if count < INTERFACES {
        eprintln!("only {count} interfaces: this process may have {most:?} descriptors");
    }
    let fronts: Vec<(World, TestDevice, NetFront)> = (0..count)
        .map(|n| {
            let options = FrontOptions {
                queues: if n % 20 == 0 { 2 } else { 1 },
                buffers: 4,
                rx_buffers: 4,
                control: true,
                ..FrontOptions::default()
            };
            let world = World::with_pages(40);
            let device = if n % 2 == 0 {
                TestDevice::pulled(2)
            } else {
                TestDevice::pushed(2)
            };
            let front = world.front(&options);
            (world, device, front)
        })
        .collect();
    let before = (resident(), descriptors());
    let backends: Vec<Backend> = fronts
        .iter()
        .map(|(world, device, front)| {
            let device = Arc::new(device.clone());
            let backend = world.backend_with(device, BackendOptions::default());
            let mut backend = backend.unwrap();
            assert!(settle(&mut backend));
            assert_eq!(front.backend_state(), XenbusState::CONNECTED);
            backend
        })
        .collect();
    let kib = (resident() - before.0) / u64::try_from(count).unwrap();
    let descriptors = (descriptors() - before.1) / count;
    println!("{count} back ends: {kib} KiB and {descriptors} descriptors each");
    assert!(kib < 200, "{kib} KiB");
    std::thread::sleep(Duration::from_millis(100));
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(count);
    let borrowed: Vec<_> = backends.iter().map(Backend::fd).collect();
    fds.extend(borrowed.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
    let begin = effort();
    let second = Timespec::try_from(Duration::from_secs(1)).unwrap();
    let ready = poll(&mut fds, Some(&second)).unwrap();
    let end = effort();
    assert_eq!(ready, 0, "nothing is to be done");
    let (time, wakeups) = (end.0 - begin.0, end.1 - begin.1);
    println!("in a second: {time:?} of computing, {wakeups} wakeups");
    assert!(time < Duration::from_millis(20), "{time:?}");
    assert!(wakeups < 20, "{wakeups}");
}
