//! `event_channel_op`.

use cantle_abi::event_channel::{
    EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain, EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu,
    EVTCHNOP_bind_virq, EVTCHNOP_close, EVTCHNOP_reset, EVTCHNOP_send, EVTCHNOP_status,
    EVTCHNOP_unmask, EVTCHNSTAT_closed, EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindVcpu,
    EvtchnBindVirq, EvtchnPort, EvtchnReset, EvtchnStatus,
};
use cantle_abi::{Errno, Port};
use cantle_evtchn::{PortState, Status};

use super::{Call, Caller, Served};

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let at = call.arg(1);
    let ports = &caller.domain().ports;
    let errno = |e: cantle_evtchn::EvtchnError| e.errno();
    match call.arg32(0) {
        EVTCHNOP_send => {
            let op: EvtchnPort = caller.read(at)?;
            ports.send(op.port).map_err(errno)?;
        }
        EVTCHNOP_unmask => {
            let op: EvtchnPort = caller.read(at)?;
            ports.unmask(op.port).map_err(errno)?;
        }
        EVTCHNOP_alloc_unbound => {
            let mut op: EvtchnAllocUnbound = caller.read(at)?;
            op.port = ports.alloc_unbound(op.dom, op.remote_dom).map_err(errno)?;
            put(caller, at, &op, op.port)?;
        }
        EVTCHNOP_bind_interdomain => {
            let mut op: EvtchnBindInterdomain = caller.read(at)?;
            op.local_port = ports
                .bind_interdomain(op.remote_dom, op.remote_port)
                .map_err(errno)?;
            put(caller, at, &op, op.local_port)?;
        }
        EVTCHNOP_bind_virq => {
            let mut op: EvtchnBindVirq = caller.read(at)?;
            op.port = ports.bind_virq(op.virq, op.vcpu).map_err(errno)?;
            put(caller, at, &op, op.port)?;
        }
        EVTCHNOP_bind_ipi => {
            let mut op: EvtchnBindIpi = caller.read(at)?;
            op.port = ports.bind_ipi(op.vcpu).map_err(errno)?;
            put(caller, at, &op, op.port)?;
        }
        EVTCHNOP_close => {
            let op: EvtchnPort = caller.read(at)?;
            ports.close(op.port).map_err(errno)?;
        }
        EVTCHNOP_bind_vcpu => {
            let op: EvtchnBindVcpu = caller.read(at)?;
            ports.bind_vcpu(op.port, op.vcpu).map_err(errno)?;
        }
        EVTCHNOP_status => {
            let mut op: EvtchnStatus = caller.read(at)?;
            let status = ports.status(op.dom, op.port).map_err(errno)?;
            fill(&mut op, status);
            caller.write(at, &op)?;
        }
        EVTCHNOP_reset => {
            let op: EvtchnReset = caller.read(at)?;
            ports.reset(op.dom).map_err(errno)?;
        }
        // FIFO and physical interrupts: not offered, as on a Xen without them.
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

/// Writes an operation's result back; where that fails, the port made is closed again, for nobody knows it.
fn put<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    caller: &Caller<'_>,
    at: u64,
    op: &T,
    port: Port,
) -> Result<(), Errno> {
    caller.write(at, op).inspect_err(|_| {
        // It was made a moment ago; should the guest have closed it meanwhile, nothing is left to undo.
        let _ = caller.domain().ports.close(port);
    })
}

/// A port's state in the header's numbers.
fn fill(op: &mut EvtchnStatus, status: Status) {
    op.vcpu = status.vcpu;
    (op.status, op.u0, op.u1) = match status.state {
        PortState::Closed => (EVTCHNSTAT_closed, 0, 0),
        PortState::Unbound { remote } => (EVTCHNSTAT_unbound, remote.0.into(), 0),
        PortState::Interdomain { remote, port } => {
            (EVTCHNSTAT_interdomain, remote.0.into(), port.0)
        }
        PortState::Virq(virq) => (EVTCHNSTAT_virq, virq, 0),
        PortState::Ipi => (EVTCHNSTAT_ipi, 0, 0),
    };
}

#[cfg(test)]
mod tests;
