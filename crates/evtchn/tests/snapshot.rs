//! Saving a guest's channels and bringing them back.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

use cantle_abi::xen::{VIRQ_CONSOLE, VIRQ_TIMER};
use cantle_abi::{DomId, Port, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{Abi, EventChannels, Hub, PortState, RestoreError, SavedPort, Snapshot};

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const A: DomId = DomId(1);
const HOST: DomId = DomId(0);

/// A guest with a port of each kind.
fn busy_guest(hub: &Hub) -> HeapGuest {
    let guest = HeapGuest::new(hub, A, 2, 4096).unwrap();
    let domain = &guest.domain;
    let given = domain.give_unbound(HOST).unwrap();
    assert_eq!(given, Port(1));
    guest.start_fifo().unwrap();
    domain.bind_virq(VIRQ_TIMER, V1).unwrap();
    domain.bind_virq(VIRQ_CONSOLE, V0).unwrap();
    domain.bind_ipi(V1).unwrap();
    domain.bind_pirq(7, 0).unwrap();
    let looped = domain.alloc_unbound(A, A).unwrap();
    domain.bind_interdomain(A, looped).unwrap();
    let hole = domain.bind_ipi(V0).unwrap();
    domain.alloc_unbound(A, HOST).unwrap();
    domain.close(hole).unwrap();
    domain.set_priority(Port(4), 2).unwrap();
    guest
}

/// The guest's memory goes along; the hub is another.
fn moved(guest: HeapGuest, snapshot: &Snapshot, hub: &Hub) -> HeapGuest {
    let guest = guest.moved_to(hub).unwrap();
    guest.domain.restore(snapshot).unwrap();
    if snapshot.abi == Abi::Fifo {
        guest.hand_in_again().unwrap();
    }
    guest
}

#[test]
fn everything_comes_back_where_it_was() {
    let (here, there) = (Hub::new(), Hub::new());
    let _host = here.add_system(HOST).unwrap();
    let host_there = there.add_system(HOST).unwrap();
    let guest = busy_guest(&here);
    let channel = _host.bind_interdomain(A, Port(1)).unwrap();
    guest.take(V0);
    channel.notify().unwrap();
    guest.domain.send(Port(4)).unwrap();
    let saved = guest.domain.snapshot();
    assert_eq!(saved.ports.len(), 8);
    let guest = moved(guest, &saved, &there);

    // What was pending and linked is taken from the old chains, and new events go behind it.
    assert!(guest.domain.raise_virq(VIRQ_TIMER, V1));
    assert!(guest.domain.raise_virq(VIRQ_CONSOLE, V0));
    assert_eq!(guest.take(V1), [Port(4), Port(2)]);
    assert_eq!(guest.take(V0), [Port(1), Port(3)]);
    let state = |port| guest.domain.status(A, Port(port)).unwrap().state;
    assert_eq!(state(1), PortState::Unbound { remote: HOST });
    let to = |port| PortState::Interdomain {
        remote: A,
        port: Port(port),
    };
    assert_eq!((state(6), state(7)), (to(7), to(6)));
    assert_eq!(guest.domain.raise_pirq(7), Ok(true));
    guest.domain.send(Port(6)).unwrap();
    assert_eq!(guest.take(V0), [Port(5), Port(7)]);
    let again = host_there.bind_interdomain(A, Port(1)).unwrap();
    again.notify().unwrap();
    assert_eq!(guest.take(V0), [Port(1)]);
    assert!(guest.domain.bind_virq(VIRQ_TIMER, V1).is_err());
    assert_eq!(guest.domain.bind_ipi(V0), Ok(Port(8)), "the hole");
}

#[test]
fn an_event_between_its_queue_and_its_handler_survives() {
    let (here, there) = (Hub::new(), Hub::new());
    let guest = HeapGuest::new(&here, A, 1, 4096).unwrap();
    guest.start_fifo().unwrap();
    let ports: Vec<_> = (0..3).map(|_| guest.domain.bind_ipi(V0).unwrap()).collect();
    // One masked and pending, one pending and dropped from its queue by the kernel, one at rest.
    guest.mask(ports[0]);
    guest.domain.send(ports[0]).unwrap();
    guest.domain.send(ports[1]).unwrap();
    guest.take(V0);
    guest.scribble(ports[1], |word| word | 1 << 31);
    let saved = guest.domain.snapshot();
    let guest = moved(guest, &saved, &there);
    assert_eq!(guest.take(V0), [ports[1]]);
    guest.domain.unmask(ports[0]).unwrap();
    guest.domain.send(ports[2]).unwrap();
    assert_eq!(guest.take(V0), [ports[0], ports[2]]);
}

#[test]
fn a_two_level_guest_comes_back_too() {
    let (here, there) = (Hub::new(), Hub::new());
    let guest = HeapGuest::new(&here, A, 2, 100).unwrap();
    let port = guest.domain.bind_ipi(V1).unwrap();
    guest.domain.send(port).unwrap();
    let saved = guest.domain.snapshot();
    assert_eq!((saved.abi, saved.tails.len()), (Abi::TwoLevel, 0));
    let guest = moved(guest, &saved, &there);
    assert_eq!(guest.domain.snapshot(), saved);
    assert_eq!(guest.take(V1), [port]);
}

/// Each field of a snapshot, broken: refused, and the guest is as new.
#[test]
fn what_a_stranger_wrote_is_checked() {
    let (here, there) = (Hub::new(), Hub::new());
    let host = here.add_system(HOST).unwrap();
    let guest = busy_guest(&here);
    let saved = guest.domain.snapshot();
    let fresh = HeapGuest::new(&there, A, 2, 4096).unwrap();
    let refused = |change: &dyn Fn(&mut Snapshot)| {
        let mut broken = saved.clone();
        change(&mut broken);
        let error = fresh.domain.restore(&broken).unwrap_err();
        assert_eq!(fresh.domain.stats().bound_ports, 0);
        assert_eq!(fresh.domain.abi(), Abi::TwoLevel);
        error
    };
    let port = |n: usize, change: fn(&mut SavedPort)| {
        refused(&|saved: &mut Snapshot| change(&mut saved.ports[n]))
    };
    assert_eq!(refused(&|_| ()), RestoreError::NoDomain(Port(1), HOST));
    let _host = there.add_system(HOST).unwrap();
    assert_eq!(refused(&|s| s.max_ports = 0), RestoreError::BadLimit(0));
    let limit = refused(&|s| s.max_ports = u32::MAX);
    assert_eq!(limit, RestoreError::BadLimit(u32::MAX));
    for bad in [0, 3, 1 << 17, u32::MAX].map(Port) {
        let error = refused(&|s| s.ports[0].port = bad);
        assert_eq!(error, RestoreError::BadPort(bad));
        let error = refused(&|s| s.resting.push(bad));
        assert_eq!(error, RestoreError::BadPort(bad));
    }
    let error = refused(&|s| {
        s.abi = Abi::TwoLevel;
        s.ports[0].port = Port(4096);
    });
    assert_eq!(error, RestoreError::BadPort(Port(4096)));
    let queue = RestoreError::BadQueue(Port(4));
    assert_eq!(port(3, |p| p.queue.vcpu = VcpuId(2)), queue);
    assert_eq!(port(3, |p| p.queue.priority = 16), queue);
    assert_eq!(port(3, |p| p.last.vcpu = VcpuId(u32::MAX)), queue);
    assert_eq!(port(3, |p| p.last.priority = u32::MAX), queue);
    let binding = RestoreError::BadBinding(Port(4));
    assert_eq!(port(3, |p| p.state = PortState::Closed), binding);
    assert_eq!(port(3, |p| p.state = PortState::Virq(24)), binding);
    assert_eq!(port(3, |p| p.state = PortState::Virq(VIRQ_TIMER)), binding);
    assert_eq!(port(3, |p| p.state = PortState::Pirq(256)), binding);
    let twice = port(3, |p| p.state = PortState::Pirq(7));
    assert_eq!(twice, RestoreError::BadBinding(Port(5)));
    for bad in [4, 6, 5, 99] {
        let error = refused(&|s| {
            s.ports[5].state = PortState::Interdomain {
                remote: A,
                port: Port(bad),
            };
        });
        assert_eq!(error, RestoreError::BadBinding(Port(6)));
    }
    let tails = RestoreError::BadTails;
    assert_eq!(refused(&|s| s.tails.push([0; 16])), tails);
    assert_eq!(refused(&|s| s.tails[1][15] = 1 << 17), tails);
    assert_eq!(refused(&|s| s.abi = Abi::TwoLevel), tails);

    // Whatever passes is taken as a guest's own mistakes are.
    let mut odd = saved.clone();
    odd.tails[0] = [131_071; 16];
    odd.ports.iter_mut().for_each(|port| port.waiting = true);
    fresh.domain.restore(&odd).unwrap();
    assert_eq!(fresh.domain.restore(&saved), Err(RestoreError::NotNew));
    fresh.forget_fifo();
    fresh.expand_array(false).unwrap();
    for vcpu in [V0, V1] {
        fresh.init_control(vcpu).unwrap();
    }
    fresh.domain.send(Port(6)).unwrap();
    assert!(fresh.take(V0).contains(&Port(7)));
    drop(host);
}
