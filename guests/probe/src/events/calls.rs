//! The calls: `event_channel_op`.

use cantle_abi::event_channel::{
    self as abi, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindPirq,
    EvtchnBindVcpu, EvtchnBindVirq, EvtchnExpandArray, EvtchnInitControl, EvtchnPort, EvtchnReset,
    EvtchnSetPriority, EvtchnStatus,
};
use cantle_abi::xen::__HYPERVISOR_event_channel_op;
use cantle_abi::{DomId, Errno, Gfn, Port, VcpuId};
use zerocopy::{FromBytes, IntoBytes};

use crate::hypercall;

fn op<T: FromBytes + IntoBytes>(command: u32, argument: &mut T) -> Result<u64, Errno> {
    hypercall::op(__HYPERVISOR_event_channel_op, command, argument)
}

/// Signals the other end.
pub(crate) fn send(port: Port) -> Result<u64, Errno> {
    op(abi::EVTCHNOP_send, &mut EvtchnPort { port })
}

/// Unmasks a port, by the host: what was pending arrives.
pub(crate) fn unmask(port: Port) -> Result<u64, Errno> {
    op(abi::EVTCHNOP_unmask, &mut EvtchnPort { port })
}

/// Closes a port.
pub(crate) fn close(port: Port) -> Result<u64, Errno> {
    op(abi::EVTCHNOP_close, &mut EvtchnPort { port })
}

/// A new port that `remote` may bind to.
pub(crate) fn alloc_unbound(remote: DomId) -> Result<Port, Errno> {
    alloc_unbound_for(DomId::SELF, remote)
}

/// A new port of a domain (its own, unless it is a control domain) that `remote` may bind to.
pub(crate) fn alloc_unbound_for(dom: DomId, remote: DomId) -> Result<Port, Errno> {
    let mut alloc = EvtchnAllocUnbound {
        dom,
        remote_dom: remote,
        port: Port(0),
    };
    op(abi::EVTCHNOP_alloc_unbound, &mut alloc)?;
    Ok(alloc.port)
}

/// Connects to a port of another domain.
pub(crate) fn bind_interdomain(remote_dom: DomId, remote_port: Port) -> Result<Port, Errno> {
    let mut bind = EvtchnBindInterdomain {
        remote_dom,
        pad: 0,
        remote_port,
        local_port: Port(0),
    };
    op(abi::EVTCHNOP_bind_interdomain, &mut bind)?;
    Ok(bind.local_port)
}

/// Binds a virtual interrupt of a vCPU.
pub(crate) fn bind_virq(virq: u32, vcpu: u32) -> Result<Port, Errno> {
    let mut bind = EvtchnBindVirq {
        virq,
        vcpu: VcpuId(vcpu),
        port: Port(0),
    };
    op(abi::EVTCHNOP_bind_virq, &mut bind)?;
    Ok(bind.port)
}

/// A port that is delivered to a vCPU of this domain.
pub(crate) fn bind_ipi(vcpu: u32) -> Result<Port, Errno> {
    let mut bind = EvtchnBindIpi {
        vcpu: VcpuId(vcpu),
        port: Port(0),
    };
    op(abi::EVTCHNOP_bind_ipi, &mut bind)?;
    Ok(bind.port)
}

/// Has a port delivered to another vCPU.
pub(crate) fn bind_vcpu(port: Port, vcpu: u32) -> Result<u64, Errno> {
    let vcpu = VcpuId(vcpu);
    op(abi::EVTCHNOP_bind_vcpu, &mut EvtchnBindVcpu { port, vcpu })
}

/// What the host says of a port of this domain.
pub(crate) fn status(port: Port) -> Result<EvtchnStatus, Errno> {
    status_of(DomId::SELF, port)
}

/// What the host says of a port of a domain.
pub(crate) fn status_of(dom: DomId, port: Port) -> Result<EvtchnStatus, Errno> {
    let mut status = EvtchnStatus {
        dom,
        pad: 0,
        port,
        status: u32::MAX,
        vcpu: VcpuId(u32::MAX),
        u0: u32::MAX,
        u1: u32::MAX,
    };
    op(abi::EVTCHNOP_status, &mut status)?;
    Ok(status)
}

/// Closes all of a domain's ports.
pub(crate) fn reset(dom: DomId) -> Result<u64, Errno> {
    op(abi::EVTCHNOP_reset, &mut EvtchnReset { dom })
}

/// Binds a physical interrupt.
pub(crate) fn bind_pirq(pirq: u32) -> Result<Port, Errno> {
    let mut bind = EvtchnBindPirq {
        pirq,
        flags: 0,
        port: Port(0),
    };
    op(abi::EVTCHNOP_bind_pirq, &mut bind)?;
    Ok(bind.port)
}

/// Hands in a vCPU's control block; the bits of a link.
pub(crate) fn init_control(vcpu: u32, control_gfn: Gfn, offset: u32) -> Result<u8, Errno> {
    let mut init = EvtchnInitControl {
        control_gfn: control_gfn.0,
        offset,
        vcpu: VcpuId(vcpu),
        link_bits: 0,
        pad: [0; 7],
    };
    op(abi::EVTCHNOP_init_control, &mut init)?;
    Ok(init.link_bits)
}

/// Hands in a page of event words.
pub(crate) fn expand_array(page: Gfn) -> Result<u64, Errno> {
    let array_gfn = page.0;
    op(
        abi::EVTCHNOP_expand_array,
        &mut EvtchnExpandArray { array_gfn },
    )
}

/// Chooses a port's priority.
pub(crate) fn set_priority(port: Port, priority: u32) -> Result<u64, Errno> {
    op(
        abi::EVTCHNOP_set_priority,
        &mut EvtchnSetPriority { port, priority },
    )
}

/// A call that there is not, or that is not for guests.
pub(crate) fn unknown(command: u32) -> Result<u64, Errno> {
    op(command, &mut [0_u64; 4])
}
