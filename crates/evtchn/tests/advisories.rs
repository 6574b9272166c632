//! Known wounds of event channels, each a test that an implementation with that flaw fails.
//!
//! Those of the FIFO interface (XSA-107, 188, 358, 359, 505) come with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cantle_abi::ring::HeapPages;
use cantle_abi::xen::{VIRQ_CONSOLE, VIRQ_TIMER};
use cantle_abi::{DomId, Errno, Port, SharedMemory, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{EventChannels, EvtchnError, GuestConfig, Hub, PortState};

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

/// XSA-221: polling a port that is unbound, closed, or no port at all.
#[test]
fn xsa_221_poll_on_unbound() {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, A, 1, 4096).unwrap();
    let unbound = guest.domain.alloc_unbound(A, A).unwrap();
    let _polling = guest.domain.poll();
    for port in [unbound, Port(0), Port(77), Port(4096), Port(u32::MAX)] {
        assert!(!guest.domain.is_pending(port));
    }
}

/// XSA-332 (and 391): a storm of signals must not cost the receiver one wake-up each.
#[test]
fn xsa_332_event_storm_wakes_once() {
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
        #[expect(unsafe_code, reason = "the test looks at the guest's page")]
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
