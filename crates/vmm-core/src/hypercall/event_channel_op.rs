//! `event_channel_op`.

use cantle_abi::event_channel::{
    EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain, EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu,
    EVTCHNOP_bind_virq, EVTCHNOP_close, EVTCHNOP_reset, EVTCHNOP_send, EVTCHNOP_status,
    EVTCHNOP_unmask, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindVcpu,
    EvtchnBindVirq, EvtchnPort, EvtchnReset, EvtchnStatus,
};
use cantle_abi::{Errno, Port};

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
            status.fill(&mut op);
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

#[cfg(test)]
mod tests;
