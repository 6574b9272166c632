use cantle_abi::xen::{__HYPERVISOR_event_channel_op, VIRQ_TIMER};
use cantle_abi::{DomId, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::*;
use crate::test_utils::{ARGS, GUEST, Harness, MEMORY, VCPUS};
use cantle_abi::event_channel::{
    EVTCHNSTAT_closed, EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_pirq, EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
};
use cantle_evtchn::RateLimit;

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
fn kvm_ports_run_out_and_the_rest_is_not_there() {
    let Some(h) = Harness::new() else { return };
    let ask = || call(&h, EVTCHNOP_alloc_unbound, &unbound(DomId::SELF, DomId(0))).0;
    let made = (0..5000).take_while(|_| ask() == 0).count();
    assert_eq!(made, 4095 - 2, "the 2-level interface has no more");
    assert_eq!(ask(), Errno::ENOSPC.to_ret());
    for cmd in [15, 99] {
        let ret = h.call(0, __HYPERVISOR_event_channel_op, &[cmd, ARGS]);
        assert_eq!(ret, Errno::ENOSYS.to_ret());
        let ret = h.call(0, __HYPERVISOR_event_channel_op, &[cmd, MEMORY]);
        assert_eq!(ret, Errno::ENOSYS.to_ret());
    }
    let ret = h.call(0, __HYPERVISOR_event_channel_op, &[14, ARGS]);
    assert_eq!(ret, Errno::EBUSY.to_ret(), "no reset is under way");
}

#[test]
fn kvm_an_emulated_interrupt_is_bound_once() {
    let Some(h) = Harness::new() else { return };
    let pirq = |pirq| EvtchnBindPirq {
        pirq,
        flags: 0,
        port: Port(0),
    };
    let (ret, op) = call(&h, EVTCHNOP_bind_pirq, &pirq(4));
    assert_eq!((ret, status(&h, op.port)), (0, (0, EVTCHNSTAT_pirq)));
    assert_eq!(h.domain().ports.raise_pirq(4), Ok(true));
    assert!(h.domain().ports.is_pending(op.port));
    assert_eq!(
        call(&h, EVTCHNOP_bind_pirq, &pirq(4)).0,
        Errno::EEXIST.to_ret()
    );
    let beyond = call(&h, EVTCHNOP_bind_pirq, &pirq(u32::MAX));
    assert_eq!(beyond.0, Errno::EINVAL.to_ret());
}

#[test]
fn kvm_a_vcpu_that_sends_too_fast_waits() {
    let Some(h) = Harness::new() else { return };
    let (_, op) = call(&h, EVTCHNOP_alloc_unbound, &unbound(DomId::SELF, GUEST));
    let bind = EvtchnBindInterdomain {
        remote_dom: GUEST,
        pad: 0,
        remote_port: op.port,
        local_port: Port(0),
    };
    let port = call(&h, EVTCHNOP_bind_interdomain, &bind).1.local_port;
    h.domain().ports.set_rate_limit(Some(RateLimit {
        per_second: 100,
        burst: 1,
    }));
    let begin = Instant::now();
    for _ in 0..4 {
        assert_eq!(call(&h, EVTCHNOP_send, &EvtchnPort { port }).0, 0);
    }
    assert!(begin.elapsed() >= Duration::from_millis(25), "held back");
    assert!(h.domain().ports.is_pending(op.port));
    h.domain().ports.set_rate_limit(None);
}

fn control(control_gfn: u64, offset: u32, vcpu: u32) -> EvtchnInitControl {
    EvtchnInitControl {
        control_gfn,
        offset,
        vcpu: VcpuId(vcpu),
        link_bits: 0,
        pad: [0; 7],
    }
}

#[test]
fn kvm_fifo_from_its_first_control_block_to_a_reset() {
    let Some(h) = Harness::new() else { return };
    let (gfn, outside) = (0x800, MEMORY >> 12);
    let (einval, ret) = (Errno::EINVAL.to_ret(), |op| {
        call(&h, EVTCHNOP_init_control, &op).0
    });
    assert_eq!(ret(control(outside, 0, 0)), einval);
    assert_eq!(ret(control(gfn, 4, 0)), einval);
    assert_eq!(ret(control(gfn, 4096 - 64, 0)), einval);
    assert_eq!(ret(control(gfn, u32::MAX - 7, 0)), einval);
    assert_eq!(ret(control(gfn, 0, VCPUS)), Errno::ENOENT.to_ret());
    let array = |array_gfn| call(&h, EVTCHNOP_expand_array, &EvtchnExpandArray { array_gfn }).0;
    assert_eq!(array(gfn + 1), Errno::EOPNOTSUPP.to_ret());

    // The ports of xenstore and the console are open already: they do not count.
    let (done, op) = call(&h, EVTCHNOP_init_control, &control(gfn, 128, 0));
    assert_eq!((done, op.link_bits), (0, 17));
    assert_eq!(ret(control(gfn, 0, 0)), einval, "once a vCPU");
    assert_eq!(ret(control(gfn, 0, 1)), 0);
    assert_eq!(array(outside), einval);
    assert_eq!(array(gfn + 1), 0);

    let ipi = EvtchnBindIpi {
        vcpu: VcpuId(1),
        port: Port(0),
    };
    let port = call(&h, EVTCHNOP_bind_ipi, &ipi).1.port;
    let priority = |port, priority| {
        call(
            &h,
            EVTCHNOP_set_priority,
            &EvtchnSetPriority { port, priority },
        )
        .0
    };
    assert_eq!(priority(port, 3), 0);
    assert_eq!(priority(port, 16), einval);
    assert_eq!(priority(Port(99), 3), Errno::EACCES.to_ret());
    assert_eq!(call(&h, EVTCHNOP_send, &EvtchnPort { port }).0, 0);
    let word = h.get::<u32>(((gfn + 1) << 12) + u64::from(port.0) * 4);
    assert_eq!(word >> 28, 0b1010, "pending and linked");
    assert_eq!(h.get::<u32>(gfn << 12), 1 << 3, "vCPU 1's queue is ready");
    assert_eq!(h.get::<u32>((gfn << 12) + 8 + 3 * 4), port.0);

    let reset = call(&h, EVTCHNOP_reset, &EvtchnReset { dom: DomId::SELF });
    assert_eq!(reset.0, 0);
    assert_eq!(array(gfn + 1), Errno::EOPNOTSUPP.to_ret());
}
