//! Known wounds of event channels, each a test that an implementation with that flaw fails.

// UNSAFETY: the tests look at the guest's pages.
#![expect(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cantle_abi::ring::HeapPages;
use cantle_abi::xen::{VIRQ_CONSOLE, VIRQ_TIMER};
use cantle_abi::{DomId, Errno, Port, SharedMemory, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{Abi, EventChannels, EvtchnError, GuestConfig, Hub, PortState, RateLimit};

/// Stops the other threads when the test's own part is done, or has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const V0: VcpuId = VcpuId(0);
const A: DomId = DomId(1);
const B: DomId = DomId(2);

/// A word of a page that the host writes meanwhile.
fn word(page: &HeapPages, offset: usize) -> &AtomicU32 {
    assert!(offset + 4 <= page.len());
    // SAFETY: in range and aligned, and the page lives as long as the borrow; all accesses are atomic.
    unsafe { AtomicU32::from_ptr(page.as_ptr().as_ptr().add(offset).cast()) }
}

/// XSA-107: an event for a vCPU without control block went through a null pointer.
#[test]
fn xsa_107_send_without_control_block() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, A, 2, 4096).unwrap();
    guest.init_control(V0).unwrap();
    guest.expand_array(false).unwrap();
    let port = guest.domain.bind_ipi(VcpuId(1)).unwrap();
    guest.domain.send(port).unwrap();
    assert!(guest.domain.is_pending(port) && !guest.is_linked(port));
    assert!(!guest.domain.upcall_pending(VcpuId(1)));
    guest.domain.unmask(port).unwrap();
    assert!(!guest.is_linked(port));
}

/// XSA-188: the control blocks were freed by a reset and used afterwards.
#[test]
fn xsa_188_control_block_after_reset() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, A, 2, 4096).unwrap();
    let (control, array) = (Arc::new(HeapPages::new(1)), Arc::new(HeapPages::new(1)));
    let setup = |domain: &cantle_evtchn::GuestDomain| {
        domain.init_control(V0, control.clone(), 0).unwrap();
        domain
            .init_control(VcpuId(1), control.clone(), 128)
            .unwrap();
        domain.expand_array(array.clone()).unwrap();
    };
    setup(&guest.domain);
    let port = guest.domain.bind_ipi(V0).unwrap();
    guest.domain.send(port).unwrap();
    assert_eq!(word(&control, 0).swap(0, Ordering::SeqCst), 1 << 7);
    guest.domain.reset(A).unwrap();
    assert_eq!(Arc::strong_count(&control), 1, "the host has let go");
    assert_eq!(Arc::strong_count(&array), 1);
    word(&array, 4).store(0, Ordering::SeqCst);
    let port = guest.domain.bind_ipi(V0).unwrap();
    guest.domain.send(port).unwrap();
    assert_eq!(word(&control, 0).load(Ordering::SeqCst), 0);
    assert_eq!(word(&array, 4).load(Ordering::SeqCst), 0);
    guest.domain.reset(A).unwrap();
    setup(&guest.domain);
}

/// XSA-221: polling a port that is unbound, closed, or no port at all.
#[test]
fn xsa_221_poll_on_unbound() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, A, 1, 4096).unwrap();
    let unbound = guest.domain.alloc_unbound(A, A).unwrap();
    let _polling = guest.domain.poll();
    let ports = [unbound, Port(0), Port(77), Port(4096), Port(u32::MAX)];
    for port in ports {
        assert!(!guest.domain.is_pending(port));
    }
    guest.domain.close(unbound).unwrap();
    guest.init_control(V0).unwrap();
    for port in ports {
        assert!(!guest.domain.is_pending(port), "there is no event word");
    }
}

/// XSA-332 (and 391): a storm of signals must not cost the receiver one wake-up each.
#[test]
fn xsa_332_391_event_storm_wakes_once() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, A, 1, 64).unwrap();
    let other = HeapGuest::new(&hub, B, 1, 64).unwrap();
    let system = hub.add_system(DomId(0)).unwrap();
    let port = guest.domain.alloc_unbound(A, DomId(0)).unwrap();
    let channel = system.bind_interdomain(A, port).unwrap();
    let to_other = guest.domain.alloc_unbound(A, B).unwrap();
    other.domain.bind_interdomain(A, to_other).unwrap();
    channel.take();
    other.take(V0);
    other.upcalls.take();
    for _ in 0..10_000 {
        guest.domain.send(port).unwrap();
        guest.domain.send(to_other).unwrap();
    }
    assert!(channel.take() && !channel.take());
    assert_eq!(other.upcalls.take(), [V0]);
}

/// XSA-332 and 391, the other half: a storm can be slowed down, and nobody else is late for it.
#[test]
fn xsa_332_391_event_storm_is_held_back() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, A, 1, 64).unwrap();
    let other = HeapGuest::new(&hub, B, 1, 64).unwrap();
    let system = hub.add_system(DomId(0)).unwrap();
    let ends = [&guest, &other].map(|guest| {
        let id = guest.domain.id();
        let port = guest.domain.alloc_unbound(id, DomId(0)).unwrap();
        (port, system.bind_interdomain(id, port).unwrap())
    });
    guest.domain.set_rate_limit(Some(RateLimit {
        per_second: 100,
        burst: 10,
    }));
    for _ in 0..1000 {
        ends[0].1.take();
        guest.domain.send(ends[0].0).unwrap();
        assert!(ends[0].1.take(), "none is lost");
    }
    let owed = guest.domain.throttled().unwrap();
    assert!(owed > Duration::from_millis(500) && owed <= Duration::from_secs(1));
    other.domain.send(ends[1].0).unwrap();
    assert!(ends[1].1.take());
    assert_eq!(other.domain.throttled(), None);
}

/// XSA-340: a port's number must not be usable before what stands behind it is there for all CPUs to see.
#[test]
fn xsa_340_port_valid_before_its_memory() {
    for _ in 0..20 {
        let hub = Hub::new();
        let guest = HeapGuest::new(&hub, A, 1, 4096).unwrap();
        let highest = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while let Ok(port) = guest.domain.bind_ipi(V0) {
                    highest.store(port.0, Ordering::Release);
                }
                highest.store(u32::MAX, Ordering::Release);
            });
            loop {
                let port = highest.load(Ordering::Acquire);
                if port == u32::MAX {
                    break;
                }
                if port != 0 {
                    guest.domain.send(Port(port)).unwrap();
                }
                // Whatever comes next is there or not; never half.
                let _ = guest.domain.send(Port(port + 1));
            }
        });
        assert_eq!(guest.domain.stats().bound_ports, 4095);
    }
}

/// XSA-342: with more ports than the 2-level interface has, bits went past the arrays into the rest of shared info.
#[test]
fn xsa_342_ports_beyond_the_page() {
    let hub = Hub::new();
    let memory = Arc::new(HeapPages::new(1));
    let too_many = GuestConfig {
        vcpus: 1,
        max_ports: (1 << 17) + 1,
    };
    let refused = hub.add_guest(A, too_many, memory.clone(), Arc::new(()));
    assert_eq!(refused.err(), Some(EvtchnError::BadConfig));

    let all = GuestConfig {
        vcpus: 1,
        max_ports: 1 << 17,
    };
    let guest = hub.add_guest(A, all, memory.clone(), Arc::new(())).unwrap();
    let mut ports = Vec::new();
    while let Ok(port) = guest.bind_ipi(V0) {
        guest.send(port).unwrap();
        ports.push(port);
    }
    assert_eq!(ports.last(), Some(&Port(4095)));
    for port in [4096, 4160, u32::MAX] {
        assert!(guest.send(Port(port)).is_err() && !guest.is_pending(Port(port)));
        let _ = guest.unmask(Port(port));
    }
    let page = memory.as_ptr();
    for offset in 2560..memory.len() {
        // SAFETY: within the page, which nobody writes now.
        let byte = unsafe { page.add(offset).read_volatile() };
        assert_eq!(byte, 0, "masks and clock are untouched, at {offset}");
    }
}

/// XSA-343: resetting while others bind, close and send to the same ports.
#[test]
fn xsa_343_reset_races() {
    let hub = Hub::new();
    let a = HeapGuest::new(&hub, A, 1, 64).unwrap();
    let b = HeapGuest::new(&hub, B, 1, 64).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(port) = a.domain.alloc_unbound(A, B)
                    && let Ok(local) = b.domain.bind_interdomain(A, port)
                {
                    let _ = a.domain.send(port);
                    let _ = b.domain.send(local);
                    let _ = b.domain.close(local);
                }
                let _ = a.domain.bind_virq(VIRQ_TIMER, V0);
                a.domain.raise_virq(VIRQ_TIMER, V0);
            }
        });
        for _ in 0..3_000 {
            a.domain.reset(DomId::SELF).unwrap();
            b.domain.reset(DomId::SELF).unwrap();
        }
    });
    a.domain.reset(A).unwrap();
    b.domain.reset(B).unwrap();
    for guest in [&a, &b] {
        assert_eq!(guest.domain.stats().bound_ports, 0);
        guest.domain.bind_virq(VIRQ_TIMER, V0).unwrap();
    }
}

/// XSA-344: a reset of many ports must not keep others waiting until it is done.
#[test]
fn xsa_344_reset_lets_others_in() {
    let hub = Hub::new();
    let a = HeapGuest::new(&hub, A, 1, 4096).unwrap();
    let b = HeapGuest::new(&hub, B, 1, 4096).unwrap();
    let mut between = 0;
    let begin = Instant::now();
    while between == 0 && begin.elapsed() < Duration::from_secs(30) {
        for _ in 1..4096 {
            let port = a.domain.alloc_unbound(A, B).unwrap();
            b.domain.bind_interdomain(A, port).unwrap();
        }
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                a.domain.reset(A).unwrap();
                done.store(true, Ordering::Release);
            });
            // The peer's own calls get their turn: ports close one by one under its eyes.
            while !done.load(Ordering::Acquire) {
                let bound = a.domain.stats().bound_ports;
                between += u32::from(bound != 0 && bound != 4095);
            }
        });
        b.domain.reset(B).unwrap();
    }
    assert!(between > 0, "nobody got in");
}

/// The same with all ports that the FIFO interface has.
#[test]
fn xsa_344_fifo_reset_lets_others_in() {
    let hub = Hub::new();
    let a = HeapGuest::new(&hub, A, 1, 1 << 17).unwrap();
    let b = HeapGuest::new(&hub, B, 1, 1 << 17).unwrap();
    a.start_fifo().unwrap();
    let port = a.domain.alloc_unbound(A, B).unwrap();
    for _ in 2..1 << 17 {
        a.domain.bind_ipi(V0).unwrap();
    }
    let near = b.domain.alloc_unbound(B, B).unwrap();
    let far = b.domain.bind_interdomain(B, near).unwrap();
    b.take(V0);
    let done = AtomicBool::new(false);
    let mut between = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            a.domain.reset(A).unwrap();
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            // The peer's own channels, and calls that need the other's locks.
            b.domain.send(near).unwrap();
            assert!(b.take(V0).contains(&far));
            let _ = b.domain.bind_interdomain(A, port);
            let bound = a.domain.stats().bound_ports;
            between += u32::from(bound != 0 && bound != (1 << 17) - 1);
        }
    });
    assert!(between > 0, "nobody got in");
    assert_eq!(a.domain.abi(), Abi::TwoLevel);
}

/// XSA-358: an event was linked to a vCPU's queue while its control block was just being placed.
#[test]
fn xsa_358_ready_before_head() {
    const READY: u32 = 1 << 7;
    for _ in 0..300 {
        let hub = Hub::new();
        let guest = HeapGuest::new(&hub, A, 2, 64).unwrap();
        guest.init_control(V0).unwrap();
        guest.expand_array(false).unwrap();
        let port = guest.domain.bind_ipi(VcpuId(1)).unwrap();
        let control = Arc::new(HeapPages::new(1));
        thread::scope(|scope| {
            scope.spawn(|| guest.domain.send(port).unwrap());
            scope.spawn(|| {
                guest
                    .domain
                    .init_control(VcpuId(1), control.clone(), 0)
                    .unwrap()
            });
            // The vCPU looks at the head as soon as it is told of the queue, and is told whoever was first.
            let begin = Instant::now();
            while word(&control, 0).load(Ordering::SeqCst) & READY == 0 {
                assert!(begin.elapsed() < Duration::from_secs(30), "never told");
                std::hint::spin_loop();
            }
            assert_eq!(word(&control, 8 + 7 * 4).load(Ordering::SeqCst), port.0);
        });
    }
}

/// XSA-359: a port's number was in range before the page of its event word was there to see.
#[test]
fn xsa_359_array_page_before_its_words() {
    for _ in 0..300 {
        let hub = Hub::new();
        let guest = HeapGuest::new(&hub, A, 1, 4096).unwrap();
        guest.init_control(V0).unwrap();
        let ports: Vec<_> = (0..40)
            .map(|_| guest.domain.bind_ipi(V0).unwrap())
            .collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                for port in &ports {
                    guest.domain.send(*port).unwrap();
                }
            });
            guest.expand_array(false).unwrap();
        });
        let mut taken = guest.take(V0);
        taken.sort();
        assert_eq!(taken, ports, "remembered or delivered, never lost");
    }
}

/// XSA-505: a page that was added while a reset was under way stayed behind, or was used after it had gone.
#[test]
fn xsa_505_expand_against_reset() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, A, 1, 4096).unwrap();
    let (control, array) = (Arc::new(HeapPages::new(1)), Arc::new(HeapPages::new(1)));
    let stop = AtomicBool::new(false);
    let mut expanded = AtomicU32::new(0);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if guest.domain.expand_array(array.clone()).is_ok() {
                        expanded.fetch_add(1, Ordering::Relaxed);
                    }
                    let _ = guest.domain.send(Port(1));
                }
            });
        }
        let begin = Instant::now();
        let mut resets = 0;
        while (resets < 1000 || expanded.load(Ordering::Relaxed) < 100)
            && begin.elapsed() < Duration::from_secs(30)
        {
            guest.domain.init_control(V0, control.clone(), 0).unwrap();
            guest.domain.bind_ipi(V0).unwrap();
            guest.domain.reset(A).unwrap();
            resets += 1;
        }
    });
    assert!(*expanded.get_mut() > 0, "they never met");
    assert_eq!(Arc::strong_count(&control), 1, "nothing is left behind");
    assert_eq!(Arc::strong_count(&array), 1);
}

/// XSA-496: binding a virtual interrupt with no port left must undo only its own, not what others have.
#[test]
fn xsa_496_bind_virq_error_path() {
    let hub = Hub::new();
    let a = HeapGuest::new(&hub, A, 2, 4).unwrap();
    let b = HeapGuest::new(&hub, B, 2, 4).unwrap();
    let console = b.domain.bind_virq(VIRQ_CONSOLE, V0).unwrap();
    let timer = a.domain.bind_virq(VIRQ_TIMER, V0).unwrap();
    let ipi = a.domain.bind_ipi(V0).unwrap();
    a.domain.bind_ipi(V0).unwrap();
    for (virq, vcpu) in [(VIRQ_CONSOLE, V0), (VIRQ_TIMER, VcpuId(1))] {
        let error = a.domain.bind_virq(virq, vcpu).unwrap_err();
        assert_eq!(error.errno(), Errno::ENOSPC);
        assert!(!a.domain.raise_virq(virq, vcpu), "half bound");
    }
    assert_eq!(
        b.domain.status(B, console).unwrap().state,
        PortState::Virq(VIRQ_CONSOLE)
    );
    assert!(b.domain.raise_virq(VIRQ_CONSOLE, V0));
    assert!(a.domain.raise_virq(VIRQ_TIMER, V0) && a.domain.is_pending(timer));
    a.domain.close(ipi).unwrap();
    assert_eq!(a.domain.bind_virq(VIRQ_CONSOLE, V0), Ok(ipi));
}

/// The class of XSA-322, 417 and 419, for channels: what was left for a domain is not its successor's.
#[test]
fn domid_reuse_inherits_no_permission() {
    let hub = Hub::new();
    let a = HeapGuest::new(&hub, A, 1, 64).unwrap();
    let b = HeapGuest::new(&hub, B, 1, 64).unwrap();
    let port = a.domain.alloc_unbound(A, B).unwrap();
    drop(b);
    let b = HeapGuest::new(&hub, B, 1, 64).unwrap();
    let bind = b.domain.bind_interdomain(A, port);
    assert_eq!(bind.unwrap_err().errno(), Errno::EINVAL);
}
