use cantle_abi::xen::{__HYPERVISOR_event_channel_op, VIRQ_TIMER};
use cantle_abi::{DomId, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::*;
use crate::test_utils::{ARGS, GUEST, Harness, MEMORY, VCPUS};
use cantle_abi::event_channel::{
    EVTCHNSTAT_closed, EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_unbound, EVTCHNSTAT_virq,
};

fn call<T: FromBytes + IntoBytes + Immutable>(h: &Harness, cmd: u32, op: &T) -> (i64, T) {
    h.put(ARGS, op);
    let ret = h.call(0, __HYPERVISOR_event_channel_op, &[cmd.into(), ARGS]);
    (ret, h.get(ARGS))
}

fn unbound(dom: DomId, remote_dom: DomId) -> EvtchnAllocUnbound {
    EvtchnAllocUnbound {
        dom,
        remote_dom,
        port: Port(0),
    }
}

fn virq(virq: u32, vcpu: u32) -> EvtchnBindVirq {
    EvtchnBindVirq {
        virq,
        vcpu: VcpuId(vcpu),
        port: Port(0),
    }
}

fn status(h: &Harness, port: Port) -> (i64, u32) {
    let op = EvtchnStatus {
        dom: DomId::SELF,
        pad: 0,
        port,
        status: 99,
        vcpu: VcpuId(0),
        u0: 0,
        u1: 0,
    };
    let (ret, op) = call(h, EVTCHNOP_status, &op);
    (ret, op.status)
}

#[test]
fn kvm_a_channel_to_oneself_from_its_birth_to_its_end() {
    let Some(h) = Harness::new() else { return };
    let (ret, op) = call(&h, EVTCHNOP_alloc_unbound, &unbound(DomId::SELF, GUEST));
    assert_eq!(ret, 0);
    let first = op.port;
    assert_eq!(status(&h, first), (0, EVTCHNSTAT_unbound));
    let bind = EvtchnBindInterdomain {
        remote_dom: GUEST,
        pad: 0,
        remote_port: first,
        local_port: Port(0),
    };
    let (ret, op) = call(&h, EVTCHNOP_bind_interdomain, &bind);
    assert_eq!(ret, 0);
    let second = op.local_port;
    assert_eq!(status(&h, second), (0, EVTCHNSTAT_interdomain));
    let events = &h.domain().ports;
    assert!(!events.is_pending(first));
    assert_eq!(call(&h, EVTCHNOP_send, &EvtchnPort { port: second }).0, 0);
    assert!(events.is_pending(first));
    assert_eq!(call(&h, EVTCHNOP_unmask, &EvtchnPort { port: first }).0, 0);
    for port in [second, first] {
        assert_eq!(call(&h, EVTCHNOP_close, &EvtchnPort { port }).0, 0);
        assert_eq!(status(&h, port), (0, EVTCHNSTAT_closed));
    }
}

#[test]
fn kvm_interrupts_of_vcpus_that_are_there() {
    let Some(h) = Harness::new() else { return };
    let (ret, op) = call(&h, EVTCHNOP_bind_virq, &virq(VIRQ_TIMER, 1));
    assert_eq!((ret, status(&h, op.port)), (0, (0, EVTCHNSTAT_virq)));
    let ipi = EvtchnBindIpi {
        vcpu: VcpuId(VCPUS - 1),
        port: Port(0),
    };
    let (ret, op) = call(&h, EVTCHNOP_bind_ipi, &ipi);
    assert_eq!((ret, status(&h, op.port)), (0, (0, EVTCHNSTAT_ipi)));
    for (n, vcpu) in [
        (VIRQ_TIMER, VCPUS),
        (VIRQ_TIMER, u32::MAX),
        (24, 0),
        (u32::MAX, 0),
    ] {
        let (ret, op) = call(&h, EVTCHNOP_bind_virq, &virq(n, vcpu));
        assert!(ret < 0 && op.port == Port(0), "{n} {vcpu}");
    }
    assert_eq!(
        call(&h, EVTCHNOP_bind_virq, &virq(VIRQ_TIMER, 1)).0,
        Errno::EEXIST.to_ret()
    );
    let (_, op) = call(&h, EVTCHNOP_alloc_unbound, &unbound(DomId::SELF, DomId(0)));
    for vcpu in [0, 3, 4, u32::MAX] {
        let bind = EvtchnBindVcpu {
            port: op.port,
            vcpu: VcpuId(vcpu),
        };
        assert_eq!(call(&h, EVTCHNOP_bind_vcpu, &bind).0 == 0, vcpu < VCPUS);
    }
}

#[test]
fn kvm_others_ports_and_ports_that_are_not_there() {
    let Some(h) = Harness::new() else { return };
    let (ret, _) = call(&h, EVTCHNOP_alloc_unbound, &unbound(DomId(0), GUEST));
    assert_eq!(ret, Errno::EPERM.to_ret());
    let (ret, _) = call(&h, EVTCHNOP_alloc_unbound, &unbound(DomId::SELF, DomId(9)));
    assert_eq!(ret, Errno::ESRCH.to_ret());
    assert_eq!(
        call(&h, EVTCHNOP_reset, &EvtchnReset { dom: DomId(0) }).0,
        Errno::EPERM.to_ret()
    );
    for port in [0, 99, 4095, 4096, u32::MAX].map(Port) {
        for cmd in [EVTCHNOP_send, EVTCHNOP_close] {
            assert_eq!(
                call(&h, cmd, &EvtchnPort { port }).0,
                Errno::EINVAL.to_ret()
            );
        }
    }
    assert_eq!(
        call(&h, EVTCHNOP_reset, &EvtchnReset { dom: DomId::SELF }).0,
        0
    );
    assert_eq!(h.domain().ports.stats().bound_ports, 0);
}

#[test]
fn kvm_a_port_that_cannot_be_told_is_closed_again() {
    let Some(h) = Harness::new() else { return };
    let before = h.domain().ports.stats().bound_ports;
    h.put(ARGS, &unbound(DomId::SELF, DomId(0)));
    h.put(Harness::pte(ARGS), &(ARGS | 1));
    for _ in 0..5000 {
        let cmd = EVTCHNOP_alloc_unbound.into();
        let ret = h.call(0, __HYPERVISOR_event_channel_op, &[cmd, ARGS]);
        assert_eq!(ret, Errno::EFAULT.to_ret());
    }
    assert_eq!(h.domain().ports.stats().bound_ports, before);
}

#[test]
fn kvm_ports_run_out_and_fifo_is_not_there() {
    let Some(h) = Harness::new() else { return };
    let ask = || call(&h, EVTCHNOP_alloc_unbound, &unbound(DomId::SELF, DomId(0))).0;
    let made = (0..5000).take_while(|_| ask() == 0).count();
    assert_eq!(made, 4095 - 2);
    assert_eq!(ask(), Errno::ENOSPC.to_ret());
    for cmd in [2, 11, 12, 13, 99] {
        let ret = h.call(0, __HYPERVISOR_event_channel_op, &[cmd, ARGS]);
        assert_eq!(ret, Errno::ENOSYS.to_ret());
        let ret = h.call(0, __HYPERVISOR_event_channel_op, &[cmd, MEMORY]);
        assert_eq!(ret, Errno::ENOSYS.to_ret());
    }
}
