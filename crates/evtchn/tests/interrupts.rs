//! Interrupts of emulated devices, global virtual interrupts, and limits.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

use std::time::Duration;

use cantle_abi::event_channel::BIND_PIRQ__WILL_SHARE;
use cantle_abi::xen::{VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TIMER};
use cantle_abi::{DomId, Errno, Port, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{EventChannels, EvtchnError, Hub, PirqStatus, PortState, RateLimit};

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const A: DomId = DomId(1);

fn guest(fifo: bool) -> (HeapGuest, Hub) {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, A, 2, 4096).unwrap();
    if fifo {
        guest.start_fifo().unwrap();
    }
    (guest, hub)
}

#[test]
fn edges_are_delivered_where_they_are_bound() {
    for fifo in [false, true] {
        let (guest, _hub) = guest(fifo);
        let domain = &guest.domain;
        assert_eq!(domain.raise_pirq(9), Ok(false), "not bound");
        let port = domain.bind_pirq(9, BIND_PIRQ__WILL_SHARE).unwrap();
        assert_eq!(domain.status(A, port).unwrap().state, PortState::Pirq(9));
        let shared = PirqStatus {
            needs_eoi: false,
            shared: true,
        };
        assert_eq!(domain.pirq_status(9), Ok(shared));
        assert_eq!(guest.take(V0), []);
        assert_eq!(domain.raise_pirq(9), Ok(true));
        assert_eq!(guest.take(V0), [port]);
        domain.bind_vcpu(port, V1).unwrap();
        domain.raise_pirq(9).unwrap();
        assert_eq!(guest.take(V1), [port]);
        assert_eq!(domain.send(port), Err(EvtchnError::BadPort(port)));
        let again = domain.bind_pirq(9, 0).unwrap_err();
        assert_eq!(again.errno(), Errno::EEXIST);
        for number in [256, u32::MAX] {
            assert_eq!(
                domain.bind_pirq(number, 0).unwrap_err().errno(),
                Errno::EINVAL
            );
            assert!(domain.raise_pirq(number).is_err() && domain.eoi(number).is_err());
        }
        domain.close(port).unwrap();
        assert_eq!(domain.raise_pirq(9), Ok(false));
        assert_eq!(domain.pirq_status(9), Ok(PirqStatus::default()));
        assert_eq!(domain.bind_pirq(9, 0).map(drop), Ok(()));
        assert_eq!(domain.stats().pirqs, 2);
    }
}

#[test]
fn a_line_is_raised_again_until_it_falls() {
    let (guest, _hub) = guest(true);
    let domain = &guest.domain;
    domain.set_pirq_line(4, true).unwrap();
    let port = domain.bind_pirq(4, 0).unwrap();
    assert_eq!(guest.take(V0), [port], "it was asserted already");
    domain.set_pirq_line(4, true).unwrap();
    assert_eq!(guest.take(V0), [], "it has not risen");
    domain.eoi(4).unwrap();
    assert_eq!(guest.take(V0), [port]);
    assert!(domain.pirq_status(4).unwrap().needs_eoi);
    domain.set_pirq_line(4, false).unwrap();
    domain.eoi(4).unwrap();
    assert_eq!(guest.take(V0), []);
    domain.set_pirq_line(4, true).unwrap();
    assert_eq!(guest.take(V0), [port]);
}

#[test]
fn a_global_interrupt_goes_to_its_handler_only() {
    let (guest, hub) = guest(false);
    let host = hub.add_system(DomId(0)).unwrap();
    assert!(!hub.raise_global_virq(VIRQ_DOM_EXC), "nobody's");
    let channel = host.bind_virq(VIRQ_DOM_EXC).unwrap();
    assert!(!channel.take() && channel.notify().is_err());
    assert!(host.bind_virq(VIRQ_DOM_EXC).is_err(), "bound once");
    assert!(host.bind_virq(VIRQ_TIMER).is_err(), "it has no vCPUs");
    hub.set_virq_handler(VIRQ_DOM_EXC, Some(DomId(0))).unwrap();
    assert!(hub.raise_global_virq(VIRQ_DOM_EXC));
    assert!(channel.take() && !channel.take());
    assert_eq!(
        host.status(channel.port()).unwrap().state,
        PortState::Virq(VIRQ_DOM_EXC)
    );

    let port = guest.domain.bind_virq(VIRQ_DOM_EXC, V0).unwrap();
    hub.set_virq_handler(VIRQ_DOM_EXC, Some(A)).unwrap();
    assert!(hub.raise_global_virq(VIRQ_DOM_EXC) && !channel.take());
    assert_eq!(guest.take(V0), [port]);
    assert!(!hub.raise_global_virq(VIRQ_CONSOLE));

    let bad = |virq, dom| hub.set_virq_handler(virq, dom).unwrap_err().errno();
    assert_eq!(bad(VIRQ_TIMER, Some(A)), Errno::EINVAL);
    assert_eq!(bad(24, None), Errno::EINVAL);
    assert_eq!(bad(VIRQ_CONSOLE, Some(DomId(7))), Errno::ESRCH);
    // The next domain of that number is not told.
    drop(guest);
    let next = HeapGuest::new(&hub, A, 1, 16).unwrap();
    next.domain.bind_virq(VIRQ_DOM_EXC, V0).unwrap();
    assert!(!hub.raise_global_virq(VIRQ_DOM_EXC));
    hub.set_virq_handler(VIRQ_DOM_EXC, Some(DomId(0))).unwrap();
    drop(channel);
    assert!(!hub.raise_global_virq(VIRQ_DOM_EXC));
    hub.set_virq_handler(VIRQ_DOM_EXC, None).unwrap();
}

#[test]
fn ports_are_limited_live_and_open_ones_stay() {
    let (guest, hub) = guest(true);
    let host = hub.add_system(DomId(0)).unwrap();
    let domain = &guest.domain;
    let ports: Vec<_> = (0..10).map(|_| domain.bind_ipi(V0).unwrap()).collect();
    domain.set_max_ports(6).unwrap();
    assert_eq!(domain.bind_ipi(V0), Err(EvtchnError::NoFreePort));
    domain.send(ports[9]).unwrap();
    assert_eq!(guest.take(V0), [ports[9]]);
    assert_eq!(domain.status(A, ports[9]).unwrap().state, PortState::Ipi);
    domain.close(ports[9]).unwrap();
    assert!(domain.status(A, ports[9]).is_err(), "beyond the limit now");
    domain.close(ports[2]).unwrap();
    assert_eq!(domain.alloc_unbound(A, DomId(0)), Ok(ports[2]));
    domain.set_max_ports(20_000).unwrap();
    host.bind_interdomain(A, ports[2]).unwrap();
    assert_eq!(domain.bind_ipi(V0), Ok(ports[9]));
    for none in [0, (1 << 17) + 1] {
        assert_eq!(domain.set_max_ports(none), Err(EvtchnError::BadConfig));
    }
}

#[test]
fn a_storm_is_delivered_and_its_sender_held_back() {
    let (guest, hub) = guest(true);
    let host = hub.add_system(DomId(0)).unwrap();
    let domain = &guest.domain;
    let port = domain.alloc_unbound(A, DomId(0)).unwrap();
    let ipi = domain.bind_ipi(V0).unwrap();
    let channel = host.bind_interdomain(A, port).unwrap();
    for _ in 0..1000 {
        domain.send(port).unwrap();
    }
    assert_eq!(domain.throttled(), None, "no limit yet");
    let limit = RateLimit {
        per_second: 10,
        burst: 3,
    };
    domain.set_rate_limit(Some(limit));
    for _ in 0..3 {
        domain.send(port).unwrap();
        domain.send(ipi).unwrap();
    }
    assert_eq!(domain.throttled(), None);
    channel.take();
    domain.send(port).unwrap();
    assert!(channel.take(), "delivered all the same");
    let owed = domain.throttled().unwrap();
    assert!(owed <= Duration::from_millis(100) && owed > Duration::ZERO);
    channel.notify().unwrap();
    assert_eq!(domain.stats().early, 1);
    domain.set_rate_limit(None);
    assert_eq!(domain.throttled(), None);
}

#[test]
fn what_had_nowhere_to_go_is_counted() {
    let (guest, _hub) = guest(false);
    let port = guest.domain.alloc_unbound(A, A).unwrap();
    guest.domain.send(port).unwrap();
    assert!(guest.domain.send(Port(9)).is_err());
    let stats = guest.domain.stats();
    assert_eq!((stats.dropped, stats.sends), (1, 0));
}
