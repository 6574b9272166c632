//! What each call does, from the outside: two guests and two system domains.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

use cantle_abi::event_channel::{EVTCHNSTAT_interdomain, EvtchnStatus};
use cantle_abi::xen::{NR_VIRQS, VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_TIMER};
use cantle_abi::{DomId, Errno, Port, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{EventChannels, EvtchnError, Hub, PortState, Status};

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const A: DomId = DomId(1);
const B: DomId = DomId(2);

fn two_guests() -> (Hub, HeapGuest, HeapGuest) {
    let hub = Hub::new();
    let a = HeapGuest::new(&hub, A, 2, 4096).unwrap();
    let b = HeapGuest::new(&hub, B, 2, 4096).unwrap();
    (hub, a, b)
}

fn state(guest: &HeapGuest, port: Port) -> PortState {
    guest.domain.status(DomId::SELF, port).unwrap().state
}

#[test]
fn guest_to_guest_and_back() {
    let (_hub, a, b) = two_guests();
    let pa = a.domain.alloc_unbound(DomId::SELF, B).unwrap();
    assert_eq!(pa, Port(1), "the first port is 1");
    assert_eq!(state(&a, pa), PortState::Unbound { remote: B });
    a.domain.send(pa).unwrap();
    let pb = b.domain.bind_interdomain(A, pa).unwrap();
    assert_eq!(b.take(V0), [pb], "the end that binds begins pending");
    assert_eq!(a.take(V0), [], "the other does not");
    assert_eq!(
        state(&a, pa),
        PortState::Interdomain {
            remote: B,
            port: pb
        }
    );
    assert_eq!(
        state(&b, pb),
        PortState::Interdomain {
            remote: A,
            port: pa
        }
    );

    b.upcalls.take();
    a.domain.send(pa).unwrap();
    a.domain.send(pa).unwrap();
    assert_eq!(b.upcalls.take(), [V0]);
    assert_eq!(b.take(V0), [pb]);
    b.domain.send(pb).unwrap();
    assert_eq!(a.take(V0), [pa]);

    let stats = a.domain.stats();
    assert_eq!((stats.sends, stats.upcalls, stats.bound_ports), (2, 1, 1));

    b.domain.close(pb).unwrap();
    assert_eq!(state(&a, pa), PortState::Unbound { remote: B });
    a.domain.send(pa).unwrap();
    assert_eq!(b.domain.bind_interdomain(A, pa), Ok(pb), "it may come back");
}

#[test]
fn status_as_the_call_tells_it() {
    let (_hub, a, b) = two_guests();
    let pa = a.domain.alloc_unbound(A, B).unwrap();
    let pb = b.domain.bind_interdomain(A, pa).unwrap();
    let mut out = EvtchnStatus {
        dom: DomId::SELF,
        pad: 0,
        port: pa,
        status: 0,
        vcpu: VcpuId(9),
        u0: 0,
        u1: 0,
    };
    a.domain.status(DomId::SELF, pa).unwrap().fill(&mut out);
    assert_eq!((out.status, out.vcpu), (EVTCHNSTAT_interdomain, V0));
    assert_eq!((out.u0, out.u1), (2, pb.0));
}

#[test]
fn loopback_in_one_domain() {
    let (_hub, a, _b) = two_guests();
    let p = a.domain.alloc_unbound(DomId::SELF, DomId::SELF).unwrap();
    let q = a.domain.bind_interdomain(DomId::SELF, p).unwrap();
    a.take(V0);
    a.domain.send(p).unwrap();
    assert_eq!(a.take(V0), [q]);
    a.domain.send(q).unwrap();
    assert_eq!(a.take(V0), [p]);
    a.domain.close(p).unwrap();
    assert_eq!(state(&a, q), PortState::Unbound { remote: A });
    a.domain.close(q).unwrap();
    assert_eq!(a.domain.stats().bound_ports, 0);
}

#[test]
fn errors_are_xens() {
    let (_hub, a, b) = two_guests();
    let errno = |result: Result<Port, EvtchnError>| result.unwrap_err().errno();
    let unit = |result: Result<(), EvtchnError>| result.unwrap_err().errno();
    let pa = a.domain.alloc_unbound(A, B).unwrap();

    assert_eq!(errno(a.domain.alloc_unbound(B, A)), Errno::EPERM);
    assert_eq!(errno(a.domain.alloc_unbound(A, DomId(9))), Errno::ESRCH);
    assert_eq!(errno(b.domain.bind_interdomain(DomId(9), pa)), Errno::ESRCH);
    assert_eq!(errno(b.domain.bind_interdomain(A, Port(0))), Errno::EINVAL);
    assert_eq!(errno(b.domain.bind_interdomain(A, Port(2))), Errno::EINVAL);
    assert_eq!(
        errno(b.domain.bind_interdomain(A, Port(4096))),
        Errno::EINVAL
    );
    assert_eq!(
        errno(a.domain.bind_interdomain(A, pa)),
        Errno::EINVAL,
        "left for another"
    );
    let pb = b.domain.bind_interdomain(A, pa).unwrap();
    assert_eq!(errno(b.domain.bind_interdomain(A, pa)), Errno::EINVAL);

    assert_eq!(errno(a.domain.bind_virq(NR_VIRQS, V0)), Errno::EINVAL);
    assert_eq!(errno(a.domain.bind_virq(VIRQ_CONSOLE, V1)), Errno::EINVAL);
    assert_eq!(
        errno(a.domain.bind_virq(VIRQ_TIMER, VcpuId(2))),
        Errno::ENOENT
    );
    a.domain.bind_virq(VIRQ_TIMER, V1).unwrap();
    assert_eq!(errno(a.domain.bind_virq(VIRQ_TIMER, V1)), Errno::EEXIST);
    assert_eq!(errno(a.domain.bind_ipi(VcpuId(2))), Errno::ENOENT);

    for port in [Port(0), Port(40), Port(4096), Port(u32::MAX)] {
        assert_eq!(unit(a.domain.send(port)), Errno::EINVAL);
        assert_eq!(unit(a.domain.close(port)), Errno::EINVAL);
        assert_eq!(unit(a.domain.bind_vcpu(port, V0)), Errno::EINVAL);
    }
    assert_eq!(unit(a.domain.unmask(Port(4096))), Errno::EINVAL);
    assert_eq!(unit(a.domain.bind_vcpu(pa, VcpuId(2))), Errno::ENOENT);
    assert_eq!(unit(a.domain.reset(B)), Errno::EPERM);
    assert_eq!(a.domain.status(B, pb).unwrap_err().errno(), Errno::EPERM);
    let closed = Status {
        vcpu: V0,
        state: PortState::Closed,
    };
    assert_eq!(a.domain.status(A, Port(4095)), Ok(closed));
    let beyond = a.domain.status(A, Port(4096));
    assert_eq!(beyond.unwrap_err().errno(), Errno::EINVAL);
}

#[test]
fn virqs_per_vcpu_and_global() {
    let (_hub, a, _b) = two_guests();
    assert!(!a.domain.raise_virq(VIRQ_TIMER, V0), "not bound");
    let t0 = a.domain.bind_virq(VIRQ_TIMER, V0).unwrap();
    let t1 = a.domain.bind_virq(VIRQ_TIMER, V1).unwrap();
    let console = a.domain.bind_virq(VIRQ_CONSOLE, V0).unwrap();
    assert!(a.domain.raise_virq(VIRQ_TIMER, V1));
    assert_eq!((a.take(V0), a.take(V1)), (vec![], vec![t1]));
    assert!(a.domain.raise_virq(VIRQ_TIMER, V0));
    assert_eq!(a.take(V0), [t0]);
    assert_eq!(
        a.domain.bind_vcpu(t0, V1),
        Err(EvtchnError::BadPort(t0)),
        "a vCPU's own stays"
    );
    a.domain.bind_vcpu(console, V1).unwrap();
    assert!(a.domain.raise_virq(VIRQ_CONSOLE, V0));
    assert_eq!(a.take(V1), [console]);
    assert!(a.domain.send(console).is_err(), "nobody sends those");
    assert!(!a.domain.raise_virq(NR_VIRQS, V0) && !a.domain.raise_virq(VIRQ_TIMER, VcpuId(2)));

    a.domain.close(console).unwrap();
    assert!(!a.domain.raise_virq(VIRQ_CONSOLE, V0));
    let again = a.domain.bind_virq(VIRQ_CONSOLE, V0).unwrap();
    assert_eq!(again, console);
    let status = a.domain.status(A, again).unwrap();
    assert_eq!(status.vcpu, V0, "a new port begins on vCPU 0");
    assert_eq!(a.domain.stats().virqs, 3);
    assert!(!a.domain.raise_virq(VIRQ_DEBUG, V0));
}

#[test]
fn ipi_reaches_its_vcpu() {
    let (_hub, a, _b) = two_guests();
    let ipi = a.domain.bind_ipi(V1).unwrap();
    a.domain.send(ipi).unwrap();
    assert_eq!((a.upcalls.take(), a.take(V1)), (vec![V1], vec![ipi]));
    assert_eq!(a.domain.bind_vcpu(ipi, V0), Err(EvtchnError::BadPort(ipi)));
    assert_eq!(state(&a, ipi), PortState::Ipi);
    assert_eq!(a.domain.stats().ipis, 1);
}

#[test]
fn ports_run_out_at_the_limit_and_nothing_is_half_done() {
    let hub = Hub::new();
    let a = HeapGuest::new(&hub, A, 1, 4).unwrap();
    let b = HeapGuest::new(&hub, B, 1, 2).unwrap();
    let port = a.domain.alloc_unbound(A, B).unwrap();
    let full = Err(EvtchnError::NoFreePort);
    b.domain.bind_ipi(V0).unwrap();
    assert_eq!(b.domain.bind_interdomain(A, port), full);
    assert_eq!(state(&a, port), PortState::Unbound { remote: B });
    a.domain.bind_ipi(V0).unwrap();
    a.domain.bind_ipi(V0).unwrap();
    assert_eq!(a.domain.alloc_unbound(A, B), full);
    assert_eq!(a.domain.bind_ipi(V0), full);
    assert_eq!(EvtchnError::NoFreePort.errno(), Errno::ENOSPC);
}

#[test]
fn closed_port_leaves_nothing_pending_for_the_next_owner() {
    let (_hub, a, b) = two_guests();
    let pa = a.domain.alloc_unbound(A, B).unwrap();
    let pb = b.domain.bind_interdomain(A, pa).unwrap();
    b.domain.bind_vcpu(pb, V1).unwrap();
    a.domain.send(pa).unwrap();
    assert!(b.domain.is_pending(pb));
    b.domain.close(pb).unwrap();
    assert!(!b.domain.is_pending(pb));
    let next = b.domain.alloc_unbound(B, A).unwrap();
    assert_eq!(next, pb);
    a.domain.send(pa).unwrap();
    assert!(!b.domain.is_pending(next));
}

#[test]
fn reset_closes_all_and_the_peers_wait_again() {
    let (_hub, a, b) = two_guests();
    let pa = a.domain.alloc_unbound(A, B).unwrap();
    let pb = b.domain.bind_interdomain(A, pa).unwrap();
    let _timer = b.domain.bind_virq(VIRQ_TIMER, V1).unwrap();
    let _ipi = b.domain.bind_ipi(V1).unwrap();
    b.domain.reset(DomId::SELF).unwrap();
    assert_eq!(b.domain.stats().bound_ports, 0);
    assert_eq!(state(&b, pb), PortState::Closed);
    assert_eq!(state(&a, pa), PortState::Unbound { remote: B });
    assert!(!b.domain.raise_virq(VIRQ_TIMER, V1));
    assert_eq!(b.domain.bind_virq(VIRQ_TIMER, V1), Ok(Port(1)));
}

#[test]
fn system_to_system() {
    let hub = Hub::new();
    let front = hub.add_system(A).unwrap();
    let back = hub.add_system(B).unwrap();
    let f = front.alloc_unbound(B).unwrap();
    let b = back.bind_interdomain(A, f.port()).unwrap();
    assert!(b.take(), "begins signalled");
    assert!(!f.take() && !b.take());
    f.notify().unwrap();
    f.notify().unwrap();
    assert!(b.take() && !b.take());
    b.notify().unwrap();
    assert!(f.take() && !f.take());
    drop(b);
    f.notify().unwrap();
    let status = front.status(f.port()).unwrap();
    assert_eq!(status.state, PortState::Unbound { remote: B });
    // The domain lives as long as its channels.
    let b = back.bind_interdomain(A, f.port()).unwrap();
    drop((front, back));
    f.notify().unwrap();
    assert!(b.take());
}

#[test]
fn hub_refuses_what_cannot_be() {
    let hub = Hub::new();
    let _a = HeapGuest::new(&hub, A, 1, 16).unwrap();
    let error = HeapGuest::new(&hub, A, 1, 16).unwrap_err();
    assert_eq!(error, EvtchnError::DomainExists(A));
    assert_eq!(error.errno(), Errno::EEXIST);
    assert!(hub.add_system(A).is_err());
    assert!(hub.add_system(DomId::SELF).is_err());
    for (vcpus, ports) in [(0, 16), (1025, 16), (1, 0), (1, (1 << 17) + 1)] {
        let error = HeapGuest::new(&hub, B, vcpus, ports).unwrap_err();
        assert_eq!(error, EvtchnError::BadConfig);
    }
}

#[test]
fn a_domain_that_ends_leaves_its_peers_unbound_for_good() {
    let (hub, a, b) = two_guests();
    let sys = hub.add_system(DomId(0)).unwrap();
    let pa = a.domain.alloc_unbound(A, B).unwrap();
    let _pb = b.domain.bind_interdomain(A, pa).unwrap();
    let ps = a.domain.alloc_unbound(A, DomId(0)).unwrap();
    let channel = sys.bind_interdomain(A, ps).unwrap();

    hub.remove(B);
    assert_eq!(state(&a, pa), PortState::Unbound { remote: B });
    assert_eq!(b.domain.alloc_unbound(B, A), Err(EvtchnError::NoDomain(B)));
    assert_eq!(b.domain.bind_ipi(V0), Err(EvtchnError::NoDomain(B)));
    assert_eq!(b.domain.stats().bound_ports, 0);
    // The next domain of that number is another.
    let b2 = HeapGuest::new(&hub, B, 1, 16).unwrap();
    let bind = b2.domain.bind_interdomain(A, pa);
    assert_eq!(bind, Err(EvtchnError::BadPort(pa)));
    drop(b);
    b2.domain.bind_ipi(V0).unwrap();

    hub.remove(DomId(0));
    assert!(channel.notify().is_err());
    assert_eq!(state(&a, ps), PortState::Unbound { remote: DomId(0) });
    let sys2 = hub.add_system(DomId(0)).unwrap();
    assert!(sys2.bind_interdomain(A, ps).is_err());
    drop(channel);
    let mine = sys2.alloc_unbound(A).unwrap();
    assert!(a.domain.bind_interdomain(DomId(0), mine.port()).is_ok());
}

#[test]
fn dropping_the_last_handle_ends_a_domain() {
    let (hub, a, b) = two_guests();
    let pa = a.domain.alloc_unbound(A, B).unwrap();
    b.domain.bind_interdomain(A, pa).unwrap();
    drop(b);
    assert_eq!(state(&a, pa), PortState::Unbound { remote: B });
    HeapGuest::new(&hub, B, 1, 16).unwrap();
}
