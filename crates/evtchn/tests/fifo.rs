//! The FIFO interface from the outside: a guest that takes from its queues as a kernel does.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

use cantle_abi::ring::HeapPages;
use cantle_abi::xen::VIRQ_TIMER;
use cantle_abi::{DomId, Errno, Port, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{Abi, EventChannels, EvtchnError, FifoError, Hub, SystemDomain};
use std::sync::Arc;

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const A: DomId = DomId(1);
const PENDING: u32 = 1 << 31;
const LINKED: u32 = 1 << 29;

fn guest_and_host(ports: u32) -> (HeapGuest, Arc<SystemDomain>, Hub) {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, A, 3, ports).unwrap();
    let host = hub.add_system(DomId(0)).unwrap();
    (guest, host, hub)
}

fn ipis(guest: &HeapGuest, n: usize) -> Vec<Port> {
    (0..n).map(|_| guest.domain.bind_ipi(V0).unwrap()).collect()
}

#[test]
fn events_come_in_their_order_with_one_upcall() {
    let (guest, _host, _hub) = guest_and_host(4096);
    guest.start_fifo().unwrap();
    assert_eq!(guest.domain.abi(), Abi::Fifo);
    let ports = ipis(&guest, 5);
    for n in [3, 1, 4, 1, 3, 0] {
        guest.domain.send(ports[n]).unwrap();
    }
    assert!(guest.domain.is_pending(ports[3]) && guest.domain.upcall_pending(V0));
    assert_eq!(guest.upcalls.take(), [V0]);
    assert_eq!(guest.take(V0), [3, 1, 4, 0].map(|n| ports[n]));
    assert_eq!(guest.take(V0), []);
    guest.domain.send(ports[0]).unwrap();
    guest.domain.send(ports[1]).unwrap();
    assert_eq!(guest.upcalls.take(), [V0]);
    assert_eq!(guest.take(V0), [ports[0], ports[1]], "the last tail first");
}

#[test]
fn higher_priorities_come_first_and_a_linked_event_stays_where_it_is() {
    let (guest, _host, _hub) = guest_and_host(4096);
    guest.start_fifo().unwrap();
    let ports = ipis(&guest, 3);
    guest.domain.set_priority(ports[0], 15).unwrap();
    guest.domain.set_priority(ports[2], 0).unwrap();
    let send_all = || {
        ports
            .iter()
            .for_each(|port| guest.domain.send(*port).unwrap())
    };
    send_all();
    assert_eq!(guest.take(V0), [ports[2], ports[1], ports[0]]);
    send_all();
    guest.domain.set_priority(ports[0], 0).unwrap();
    guest.domain.set_priority(ports[2], 15).unwrap();
    assert_eq!(
        guest.take(V0),
        [ports[2], ports[1], ports[0]],
        "linked before"
    );
    send_all();
    assert_eq!(guest.take(V0), [ports[0], ports[1], ports[2]]);
    let refused = |port, priority| guest.domain.set_priority(port, priority).unwrap_err();
    assert_eq!(refused(ports[0], 16), FifoError::BadPriority(16));
    assert_eq!(refused(ports[0], u32::MAX).errno(), Errno::EINVAL);
    assert_eq!(refused(Port(100), 3).errno(), Errno::EACCES);
    assert_eq!(refused(Port(0), 3).errno(), Errno::EINVAL);
    assert_eq!(refused(Port(4096), 3).errno(), Errno::EINVAL);
}

#[test]
fn masked_events_wait_and_unmasking_links_them() {
    let (guest, _host, _hub) = guest_and_host(4096);
    guest.start_fifo().unwrap();
    let ports = ipis(&guest, 2);
    guest.mask(ports[0]);
    guest.domain.send(ports[0]).unwrap();
    assert!(guest.domain.is_pending(ports[0]) && !guest.domain.upcall_pending(V0));
    assert!(!guest.is_linked(ports[0]));
    guest.unmask(ports[0]);
    assert_eq!(guest.upcalls.take(), [V0]);
    // Masked again on the queue: the kernel passes over it, and unmasking brings it back.
    guest.mask(ports[0]);
    assert_eq!(guest.take(V0), []);
    guest.unmask(ports[0]);
    assert_eq!(guest.take(V0), [ports[0]]);
    guest.mask(ports[0]);
    guest.unmask(ports[0]);
    assert_eq!(guest.upcalls.take(), [V0], "only the second one was new");
    assert_eq!(guest.take(V0), []);
}

#[test]
fn a_port_moves_to_another_vcpu_with_its_next_event() {
    let (guest, host, _hub) = guest_and_host(4096);
    guest.start_fifo().unwrap();
    let port = guest.domain.alloc_unbound(A, DomId(0)).unwrap();
    let other = guest.domain.alloc_unbound(A, DomId(0)).unwrap();
    let channel = host.bind_interdomain(A, port).unwrap();
    let second = host.bind_interdomain(A, other).unwrap();
    channel.notify().unwrap();
    guest.domain.bind_vcpu(port, V1).unwrap();
    channel.notify().unwrap();
    assert_eq!((guest.take(V0), guest.take(V1)), (vec![port], vec![]));
    // The port was vCPU 0's tail: the next there must not be linked behind it.
    channel.notify().unwrap();
    second.notify().unwrap();
    assert_eq!((guest.take(V0), guest.take(V1)), (vec![other], vec![port]));
    guest.domain.bind_vcpu(port, V0).unwrap();
    second.notify().unwrap();
    channel.notify().unwrap();
    assert_eq!(
        (guest.take(V0), guest.take(V1)),
        (vec![other, port], vec![])
    );
}

#[test]
fn pending_events_are_carried_over_and_wait_for_their_word() {
    let (guest, host, _hub) = guest_and_host(4096);
    let (store, console) = (
        guest.domain.give_unbound(DomId(0)).unwrap(),
        guest.domain.give_unbound(DomId(0)).unwrap(),
    );
    let channels = [store, console].map(|port| host.bind_interdomain(A, port).unwrap());
    channels[0].notify().unwrap();
    assert!(guest.domain.is_pending(store));
    guest.forget_fifo();
    guest.init_control(V0).unwrap();
    channels[1].notify().unwrap();
    assert!(!guest.domain.is_pending(store) && !guest.domain.is_pending(console));
    guest.take(V0);
    guest.upcalls.take();
    guest.expand_array(false).unwrap();
    assert_eq!(guest.upcalls.take(), [V0]);
    assert_eq!(guest.take(V0), [store, console]);
    channels[0].notify().unwrap();
    assert_eq!(guest.take(V0), [store]);
}

#[test]
fn an_event_for_a_vcpu_without_control_block_comes_with_it() {
    let (guest, host, _hub) = guest_and_host(4096);
    guest.init_control(V0).unwrap();
    guest.expand_array(false).unwrap();
    let port = guest.domain.alloc_unbound(A, DomId(0)).unwrap();
    let channel = host.bind_interdomain(A, port).unwrap();
    guest.domain.bind_vcpu(port, V1).unwrap();
    let timer = guest.domain.bind_virq(VIRQ_TIMER, V1).unwrap();
    channel.notify().unwrap();
    assert!(guest.domain.raise_virq(VIRQ_TIMER, V1));
    assert!(guest.domain.is_pending(port) && !guest.domain.upcall_pending(V1));
    guest.init_control(V1).unwrap();
    assert_eq!(guest.take(V1), [port, timer]);
    assert_eq!(
        guest.init_control(V1),
        Err(FifoError::ControlBlockPlaced(V1))
    );
    // Or it comes when the port goes to another one.
    guest.domain.bind_vcpu(port, VcpuId(2)).unwrap();
    channel.notify().unwrap();
    guest.domain.bind_vcpu(port, V0).unwrap();
    assert_eq!(guest.take(V0), [port]);
}

#[test]
fn the_interface_is_frozen_once_it_is_used_until_a_reset() {
    let (guest, host, _hub) = guest_and_host(1 << 17);
    let given = guest.domain.give_unbound(DomId(0)).unwrap();
    let own = guest.domain.bind_ipi(V0).unwrap();
    assert_eq!(guest.init_control(V0).unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(guest.domain.abi(), Abi::TwoLevel);
    assert_eq!(guest.expand_array(false), Err(FifoError::NotFifo));
    let priority = guest.domain.set_priority(own, 3);
    assert_eq!(priority.unwrap_err().errno(), Errno::ENOSYS);
    guest.domain.close(own).unwrap();
    guest.start_fifo().unwrap();

    let _channel = host.bind_interdomain(A, given).unwrap();
    let own = guest.domain.bind_ipi(V0).unwrap();
    guest.domain.send(own).unwrap();
    assert!(guest.is_linked(own));
    guest.domain.reset(A).unwrap();
    assert_eq!(guest.domain.abi(), Abi::TwoLevel);
    assert_eq!(guest.domain.stats().bound_ports, 0);
    let own = guest.domain.bind_ipi(V0).unwrap();
    assert_eq!(own, Port(1), "nothing rests any more");
    guest.domain.send(own).unwrap();
    assert_eq!(guest.take(V0), [own]);
    guest.domain.reset(A).unwrap();
    guest.start_fifo().unwrap();
    let own = guest.domain.bind_ipi(V1).unwrap();
    guest.domain.send(own).unwrap();
    assert_eq!(guest.take(V1), [own]);
}

#[test]
fn all_131071_channels_work() {
    let (guest, _host, _hub) = guest_and_host(1 << 17);
    guest.start_fifo().unwrap();
    let mut ports = Vec::new();
    while let Ok(port) = guest.domain.bind_ipi(VcpuId(2)) {
        guest.domain.send(port).unwrap();
        ports.push(port);
    }
    assert_eq!(ports.len(), (1 << 17) - 1);
    assert_eq!(guest.domain.bind_ipi(V0), Err(EvtchnError::NoFreePort));
    while guest.expand_array(false).is_ok() {}
    assert_eq!(
        guest.expand_array(false).unwrap_err().errno(),
        Errno::ENOSPC
    );
    assert_eq!(guest.take(VcpuId(2)), ports);
    assert_eq!(guest.upcalls.take(), [VcpuId(2)]);
    guest.domain.reset(A).unwrap();
    assert_eq!(guest.domain.stats().bound_ports, 0);
}

#[test]
fn control_blocks_are_aligned_and_within_a_page() {
    let (guest, _host, _hub) = guest_and_host(4096);
    let page = || Arc::new(HeapPages::new(2));
    for offset in [4, 1, 4096 - 64, 4096, 8192, usize::MAX - 7] {
        let refused = guest.domain.init_control(V0, page(), offset);
        assert_eq!(refused, Err(FifoError::BadControlBlock(offset)));
    }
    let no_vcpu = guest.domain.init_control(VcpuId(3), page(), 0);
    assert_eq!(no_vcpu.unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(guest.domain.abi(), Abi::TwoLevel);
    guest.domain.init_control(V0, page(), 4096 - 72).unwrap();
    assert_eq!(guest.domain.abi(), Abi::Fifo);
}

#[test]
fn a_port_closed_while_linked_rests_until_the_guest_has_taken_it_off() {
    let (guest, _host, _hub) = guest_and_host(4096);
    guest.start_fifo().unwrap();
    let ports = ipis(&guest, 2);
    guest.domain.send(ports[0]).unwrap();
    guest.domain.close(ports[0]).unwrap();
    assert!(!guest.domain.is_pending(ports[0]));
    assert_ne!(guest.domain.bind_ipi(V1).unwrap(), ports[0]);
    assert_eq!(guest.take(V0), [], "nothing for the dead");
    assert_eq!(guest.domain.bind_ipi(V1).unwrap(), ports[0]);
    guest.domain.send(ports[1]).unwrap();
    assert_eq!(guest.take(V0), [ports[1]]);
}

/// Whatever the guest writes into its words, the host's part ends and its own order comes back when the guest behaves again.
#[test]
fn a_guest_that_scribbles_harms_itself_only() {
    let (guest, _host, _hub) = guest_and_host(4096);
    guest.start_fifo().unwrap();
    let ports = ipis(&guest, 8);
    for (n, garbage) in [u32::MAX, LINKED, PENDING | LINKED | 5, 0x0fff_ffff, 1]
        .into_iter()
        .enumerate()
    {
        for port in &ports {
            guest.domain.send(*port).unwrap();
            guest.scribble(ports[n], |_| garbage);
        }
        for port in &ports {
            guest.scribble(*port, |_| 0);
        }
        guest.take(V0);
        for port in &ports {
            guest.domain.send(*port).unwrap();
        }
        let mut taken = guest.take(V0);
        taken.sort();
        assert_eq!(taken, ports);
    }
}
