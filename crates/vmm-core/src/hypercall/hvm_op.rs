//! `hvm_op`: parameters and the upcall's vector.

use cantle_abi::hvm::{
    HVM_PARAM_CALLBACK_IRQ, HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN, HVMOP_flush_tlbs, HVMOP_get_param, HVMOP_get_time,
    HVMOP_pagetable_dying, HVMOP_set_evtchn_upcall_vector, HVMOP_set_param,
    XenHvmEvtchnUpcallVector, XenHvmGetTime, XenHvmParam,
};
use cantle_abi::{Errno, VcpuId};
use cantle_evtchn::Upcall;

use super::{Call, Caller, Served};

/// The callback by interrupt line 1, which is not wired: a guest that says it means its vCPUs' vectors.
const LINE_1: u64 = 1;
/// Vectors below are exceptions.
const FIRST_VECTOR: u8 = 0x10;

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let at = call.arg(1);
    let domain = caller.domain();
    match call.arg32(0) {
        HVMOP_get_param => {
            let mut op: XenHvmParam = caller.read(at)?;
            own(caller, &op)?;
            op.value = domain.param(op.index).ok_or(Errno::EINVAL)?;
            caller.write(at, &op)?;
        }
        HVMOP_set_param => {
            let op: XenHvmParam = caller.read(at)?;
            own(caller, &op)?;
            match op.index {
                HVM_PARAM_CALLBACK_IRQ => check_callback(op.value)?,
                // The toolstack's to set; a guest may only say again what they are.
                HVM_PARAM_STORE_PFN
                | HVM_PARAM_STORE_EVTCHN
                | HVM_PARAM_CONSOLE_PFN
                | HVM_PARAM_CONSOLE_EVTCHN => {
                    return if domain.param(op.index) == Some(op.value) {
                        Ok(0)
                    } else {
                        Err(Errno::EPERM)
                    };
                }
                _ => return Err(Errno::EINVAL),
            }
            domain.set_param(op.index, op.value);
        }
        HVMOP_set_evtchn_upcall_vector => {
            let op: XenHvmEvtchnUpcallVector = caller.read(at)?;
            if op.vector < FIRST_VECTOR {
                return Err(Errno::EINVAL);
            }
            if !domain.upcall.set_vector(VcpuId(op.vcpu), op.vector) {
                return Err(Errno::ENOENT);
            }
            if let Some(handle) = domain.handle(VcpuId(op.vcpu)) {
                handle.renew();
            }
            // What was pending before there was a vector would otherwise wait for the next event.
            if domain.kernel_delivery().is_some() {
                // Nobody sees what KVM sends to a local APIC that is off still: so there is an upcall to be repeated until it is taken.
                domain.ports.mark_upcall(VcpuId(op.vcpu));
            }
            if domain.ports.upcall_pending(VcpuId(op.vcpu)) {
                domain.upcall.raise(VcpuId(op.vcpu));
            }
        }
        HVMOP_get_time => caller.write(
            at,
            &XenHvmGetTime {
                now: domain.system_time_ns(),
            },
        )?,
        // KVM keeps the TLBs right by itself.
        HVMOP_flush_tlbs if at == 0 => {}
        // For chosen vCPUs only a device model may.
        HVMOP_flush_tlbs => return Err(Errno::EINVAL),
        HVMOP_pagetable_dying => {}
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

/// Accepts what Linux says when it takes its upcalls by a vector of each vCPU (line 1), and nothing that would have to be delivered.
///
/// A callback vector (Linux before 6.0) has no end-of-interrupt, which a message to a local APIC needs; lines and PCI there are none.
fn check_callback(value: u64) -> Result<(), Errno> {
    if value <= LINE_1 {
        return Ok(());
    }
    // Not louder: a guest can say it as often as it likes.
    tracing::debug!(
        value = format!("{value:#x}"),
        "upcalls by this interrupt are not offered, only those by HVMOP_set_evtchn_upcall_vector"
    );
    Err(Errno::EOPNOTSUPP)
}

fn own(caller: &Caller<'_>, op: &XenHvmParam) -> Result<(), Errno> {
    let own = caller.domain().domid;
    if op.domid.resolve(own) == own {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

#[cfg(test)]
mod tests;
