//! Threads against each other: what a single thread's view cannot show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, Port, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{EventChannels, Hub};

/// Stops the other threads when the test's own part is done, or has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const V0: VcpuId = VcpuId(0);

/// A xorshift: the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 16) % u64::from(n)).expect("below a u32")
    }
}

#[test]
fn a_send_that_races_with_close_never_reaches_the_next_owner_of_the_port() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, DomId(1), 1, 64).unwrap();
    let system = hub.add_system(DomId(0)).unwrap();
    let channel = system.alloc_unbound(DomId(1)).unwrap();
    let stop = AtomicBool::new(false);
    let mut delivered = 0;
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                channel.notify().unwrap();
            }
        });
        let begin = Instant::now();
        // Long enough for the two to run side by side, also on a busy machine.
        while begin.elapsed() < Duration::from_secs(1)
            || (delivered < 100 && begin.elapsed().as_secs() < 30)
        {
            let port = guest
                .domain
                .bind_interdomain(DomId(0), channel.port())
                .unwrap();
            guest.take(V0);
            std::hint::spin_loop();
            delivered += u32::from(guest.domain.is_pending(port));
            guest.domain.close(port).unwrap();
            let next = guest.domain.bind_ipi(V0).unwrap();
            assert_eq!(next, port, "the number is used again at once");
            for _ in 0..20 {
                assert!(!guest.domain.is_pending(next), "a stranger's signal");
                std::hint::spin_loop();
            }
            guest.domain.close(next).unwrap();
        }
    });
    assert!(delivered > 0, "the sender never hit an open port");
}

#[test]
fn no_signal_is_lost_between_threads() {
    let hub = Hub::new();
    let front = hub.add_system(DomId(1)).unwrap();
    let back = hub.add_system(DomId(2)).unwrap();
    let tx = front.alloc_unbound(DomId(2)).unwrap();
    let rx = back.bind_interdomain(DomId(1), tx.port()).unwrap();
    rx.take();
    let work = AtomicU64::new(0);
    const ROUNDS: u64 = 100_000;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    work.fetch_add(1, Ordering::Relaxed);
                    tx.notify().unwrap();
                }
            });
        }
        let mut seen = 0;
        let begin = Instant::now();
        while seen != 2 * ROUNDS {
            // Only what `take` announced is looked at: a lost signal ends in the time-out.
            if rx.take() {
                seen = work.load(Ordering::Relaxed);
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "seen {seen}");
        }
    });
}

#[test]
fn guest_misses_nothing_while_its_vcpu_info_moves() {
    for _ in 0..300 {
        let hub = Hub::new();
        let guest = HeapGuest::new(&hub, DomId(1), 1, 64).unwrap();
        let system = hub.add_system(DomId(0)).unwrap();
        let port = guest.domain.alloc_unbound(DomId(1), DomId(0)).unwrap();
        let channel = system.bind_interdomain(DomId(1), port).unwrap();
        guest.upcalls.take();
        let page = Arc::new(HeapPages::new(1));
        thread::scope(|scope| {
            scope.spawn(|| channel.notify().unwrap());
            guest.domain.set_vcpu_info(V0, page.clone(), 0).unwrap();
        });
        assert!(guest.domain.is_pending(port) && guest.domain.upcall_pending(V0));
        assert!(!guest.upcalls.take().is_empty());
    }
}

/// Everything at once, few ports, so that all meet. Ends (no deadlock), and leaves nothing behind.
#[test]
fn storm_of_all_operations_ends_and_leaves_nothing() {
    let hub = Hub::new();
    let guests: Vec<_> = (1..=3)
        .map(|dom| HeapGuest::new(&hub, DomId(dom), 2, 10).unwrap())
        .collect();
    let system = hub.add_system(DomId(0)).unwrap();
    thread::scope(|scope| {
        for seed in 1..=4u64 {
            let (guests, system) = (&guests, &system);
            scope.spawn(move || {
                let mut random = Random(seed * 0x9e37_79b9);
                let mut channels = Vec::new();
                for _ in 0..30_000 {
                    let guest = &guests[random.below(3) as usize];
                    let domain = &guest.domain;
                    let remote = DomId(u16::try_from(random.below(4)).unwrap());
                    let port = Port(random.below(11));
                    let vcpu = VcpuId(random.below(2));
                    let _ = match random.below(16) {
                        0 => domain.alloc_unbound(DomId::SELF, remote).map(drop),
                        1..=3 => domain.bind_interdomain(remote, port).map(drop),
                        4 => domain.bind_virq(random.below(3), vcpu).map(drop),
                        5 => domain.bind_ipi(vcpu).map(drop),
                        6 => domain.close(port),
                        7..=9 => domain.send(port),
                        10 => domain.bind_vcpu(port, vcpu),
                        11 => {
                            domain.raise_virq(random.below(3), vcpu);
                            guest.take(vcpu);
                            Ok(())
                        }
                        12 if random.below(20) == 0 => domain.reset(DomId::SELF),
                        13 => system
                            .alloc_unbound(remote)
                            .map(|channel| channels.push(channel)),
                        14 => system
                            .bind_interdomain(remote, port)
                            .map(|channel| channels.push(channel)),
                        _ => {
                            if channels.len() > 5 {
                                channels.remove(0);
                            }
                            channels.iter().try_for_each(|channel| {
                                channel.take();
                                channel.notify()
                            })
                        }
                    };
                }
            });
        }
    });
    for guest in &guests {
        guest.domain.reset(DomId::SELF).unwrap();
        let stats = guest.domain.stats();
        assert_eq!(stats.bound_ports, 0);
        assert!(stats.sends > 0 && stats.virqs > 0 && stats.ipis > 0);
        for port in 1..10 {
            assert!(!guest.domain.is_pending(Port(port)));
        }
    }
}

/// Domains end and begin while others bind and send to them.
#[test]
fn domains_come_and_go_under_traffic() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, DomId(1), 1, 32).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let Ok(port) = guest.domain.alloc_unbound(DomId::SELF, DomId(0)) else {
                    guest.domain.reset(DomId::SELF).unwrap();
                    continue;
                };
                for _ in 0..50 {
                    guest.domain.send(port).unwrap();
                }
            }
        });
        for _ in 0..2_000 {
            let system = hub.add_system(DomId(0)).unwrap();
            let channels: Vec<_> = (1..32)
                .filter_map(|port| system.bind_interdomain(DomId(1), Port(port)).ok())
                .collect();
            for channel in &channels {
                let _ = channel.notify();
            }
            hub.remove(DomId(0));
            for channel in &channels {
                assert!(channel.notify().is_err(), "the domain has ended");
            }
        }
    });
}

/// Senders on two threads, a kernel that takes, masks and unmasks on a third, a fourth that moves ports between vCPUs and
/// priorities. Each send follows a count that the taker must come to see.
#[test]
fn fifo_loses_no_event() {
    const PORTS: u32 = 6;
    const SENDS: u64 = 60_000;
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, DomId(1), 2, 4096).unwrap();
    let host = hub.add_system(DomId(0)).unwrap();
    guest.start_fifo().unwrap();
    let channels: Vec<_> = (0..PORTS)
        .map(|_| {
            let port = guest.domain.alloc_unbound(DomId(1), DomId(0)).unwrap();
            (port, host.bind_interdomain(DomId(1), port).unwrap())
        })
        .collect();
    let work: Vec<_> = (0..PORTS).map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for seed in 1..=2u64 {
            let (channels, work) = (&channels, &work);
            scope.spawn(move || {
                let mut random = Random(seed * 77);
                for _ in 0..SENDS {
                    let n = random.below(PORTS) as usize;
                    work[n].fetch_add(1, Ordering::SeqCst);
                    channels[n].1.notify().unwrap();
                }
            });
        }
        scope.spawn(|| {
            let mut random = Random(991);
            while !stop.load(Ordering::Relaxed) {
                let port = channels[random.below(PORTS) as usize].0;
                let _ = guest.domain.bind_vcpu(port, VcpuId(random.below(2)));
                let _ = guest.domain.set_priority(port, random.below(16));
                thread::yield_now();
            }
        });
        let mut seen = [0; PORTS as usize];
        let mut random = Random(5);
        let begin = Instant::now();
        while seen.iter().sum::<u64>() != 2 * SENDS {
            let port = channels[random.below(PORTS) as usize].0;
            guest.mask(port);
            // Only what the queues bring is looked at: a lost event ends in the time-out.
            for vcpu in [V0, VcpuId(1)] {
                for taken in guest.take(vcpu) {
                    let n = channels.iter().position(|(port, _)| *port == taken);
                    let n = n.expect("one of ours");
                    seen[n] = work[n].load(Ordering::SeqCst);
                }
            }
            guest.unmask(port);
            assert!(begin.elapsed() < Duration::from_secs(60), "seen {seen:?}");
        }
    });
}

/// Expanding, placing control blocks and resetting while others send.
#[test]
fn fifo_comes_and_goes_under_traffic() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, DomId(1), 2, 4096).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for port in 1..4 {
                        let _ = guest.domain.send(Port(port));
                        let _ = guest.domain.unmask(Port(port));
                        let _ = guest.domain.is_pending(Port(port));
                        let _ = guest.domain.set_priority(Port(port), port);
                    }
                    let _ = guest.domain.bind_ipi(VcpuId(1));
                    guest.take(VcpuId(1));
                }
            });
        }
        for _ in 0..3_000 {
            let _ = guest.start_fifo();
            let _ = guest.expand_array(true);
            let _ = guest.domain.reset(DomId::SELF);
        }
    });
    guest.domain.reset(DomId::SELF).unwrap();
    guest.start_fifo().unwrap();
    let port = guest.domain.bind_ipi(VcpuId(1)).unwrap();
    guest.domain.send(port).unwrap();
    assert_eq!(guest.take(VcpuId(1)), [port]);
}
