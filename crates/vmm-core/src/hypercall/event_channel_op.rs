//! `event_channel_op`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::event_channel::{
    EVTCHN_FIFO_LINK_BITS, EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain, EVTCHNOP_bind_ipi,
    EVTCHNOP_bind_pirq, EVTCHNOP_bind_vcpu, EVTCHNOP_bind_virq, EVTCHNOP_close,
    EVTCHNOP_expand_array, EVTCHNOP_init_control, EVTCHNOP_reset, EVTCHNOP_reset_cont,
    EVTCHNOP_send, EVTCHNOP_set_priority, EVTCHNOP_status, EVTCHNOP_unmask, EvtchnAllocUnbound,
    EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindPirq, EvtchnBindVcpu, EvtchnBindVirq,
    EvtchnExpandArray, EvtchnInitControl, EvtchnPort, EvtchnReset, EvtchnSetPriority, EvtchnStatus,
};
use cantle_abi::{Errno, Gfn, Port};

use super::{Call, Caller, Served};
use crate::memory::FramePage;

/// The longest that one signal holds a vCPU back: what it owes beyond that the next one does.
const LONGEST_HOLD: Duration = Duration::from_millis(100);

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let at = call.arg(1);
    let ports = &caller.domain().ports;
    let errno = |e: cantle_evtchn::EvtchnError| e.errno();
    match call.arg32(0) {
        EVTCHNOP_send => {
            let op: EvtchnPort = caller.read(at)?;
            ports.send(op.port).map_err(errno)?;
            hold_back(caller);
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
        EVTCHNOP_bind_pirq => {
            let mut op: EvtchnBindPirq = caller.read(at)?;
            op.port = ports.bind_pirq(op.pirq, op.flags).map_err(|e| e.errno())?;
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
        // No reset of ours is ever broken off.
        EVTCHNOP_reset_cont => return Err(Errno::EBUSY),
        EVTCHNOP_init_control => init_control(caller, at)?,
        EVTCHNOP_expand_array => {
            let op: EvtchnExpandArray = caller.read(at)?;
            ports
                .expand_array(page(caller, op.array_gfn)?)
                .map_err(|e| e.errno())?;
        }
        EVTCHNOP_set_priority => {
            let op: EvtchnSetPriority = caller.read(at)?;
            ports
                .set_priority(op.port, op.priority)
                .map_err(|e| e.errno())?;
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

/// Keeps a vCPU that sends faster than its domain may out of the guest for a while. The signal has gone out already.
fn hold_back(caller: &Caller<'_>) {
    let domain = caller.domain();
    if let Some(owed) = domain.ports.throttled() {
        let until = Instant::now() + owed.min(LONGEST_HOLD);
        domain.upcall.sleepers().sleep(until, || domain.has_ended());
    }
}

/// Places a vCPU's control block. That its answer is written first harms nobody: it is a constant.
fn init_control(caller: &Caller<'_>, at: u64) -> Result<(), Errno> {
    let mut op: EvtchnInitControl = caller.read(at)?;
    let offset = usize::try_from(op.offset).map_err(|_| Errno::EINVAL)?;
    let page = page(caller, op.control_gfn)?;
    op.link_bits = u8::try_from(EVTCHN_FIFO_LINK_BITS).map_err(|_| Errno::EINVAL)?;
    caller.write(at, &op)?;
    caller
        .domain()
        .ports
        .init_control(op.vcpu, page, offset)
        .map_err(|e| e.errno())
}

/// A frame of the guest's, kept by who gets it.
fn page(caller: &Caller<'_>, gfn: u64) -> Result<Arc<FramePage>, Errno> {
    let page = caller.domain().ram.page(Gfn(gfn)).ok_or(Errno::EINVAL)?;
    Ok(Arc::new(page))
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
