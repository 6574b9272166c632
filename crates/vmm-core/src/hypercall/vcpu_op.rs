//! `vcpu_op`, `set_timer_op` and `vm_assist`.

use cantle_abi::vcpu::{
    VCPU_SSHOTTMR_future, VCPUOP_get_runstate_info, VCPUOP_is_up,
    VCPUOP_register_runstate_memory_area, VCPUOP_register_vcpu_info,
    VCPUOP_register_vcpu_time_memory_area, VCPUOP_set_periodic_timer, VCPUOP_set_singleshot_timer,
    VCPUOP_stop_periodic_timer, VCPUOP_stop_singleshot_timer, VcpuRegisterMemoryArea,
    VcpuRegisterVcpuInfo, VcpuRunstateInfo, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer,
};
use cantle_abi::xen::VcpuInfo;
use cantle_abi::{Errno, Gfn, PAGE_SIZE, VcpuId};

use super::{Call, Caller, Served};

/// `-ETIME`: a one-shot timer in the past, where the guest wants to know.
const ETIME: Errno = Errno(62);
/// The shortest period of a periodic timer, in nanoseconds (Xen's limit).
const SHORTEST_PERIOD: u64 = 1_000_000;
/// `VMASST_CMD_enable` and `VMASST_CMD_disable` (xen.h).
const VMASST_CMDS: std::ops::Range<u32> = 0..2;
/// `VMASST_TYPE_runstate_update_flag` (xen.h).
const VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let (vcpu, at) = (VcpuId(call.arg32(1)), call.arg(2));
    let domain = caller.domain();
    if vcpu.0 >= domain.vcpus {
        return Err(Errno::ENOENT);
    }
    match call.arg32(0) {
        VCPUOP_register_vcpu_info => register_vcpu_info(caller, vcpu, &caller.read(at)?)?,
        VCPUOP_is_up => return Ok(i64::from(domain.is_up(vcpu))),
        VCPUOP_set_singleshot_timer => {
            own(caller, vcpu)?;
            let op: VcpuSetSingleshotTimer = caller.read(at)?;
            if op.flags & VCPU_SSHOTTMR_future != 0 && op.timeout_abs_ns < domain.system_time_ns() {
                return Err(ETIME);
            }
            domain.set_singleshot(vcpu, Some(op.timeout_abs_ns))?;
        }
        VCPUOP_stop_singleshot_timer => {
            own(caller, vcpu)?;
            domain.set_singleshot(vcpu, None)?;
        }
        VCPUOP_set_periodic_timer => {
            let op: VcpuSetPeriodicTimer = caller.read(at)?;
            if op.period_ns < SHORTEST_PERIOD {
                return Err(Errno::EINVAL);
            }
            domain.timers.set_periodic(vcpu, op.period_ns)?;
        }
        VCPUOP_stop_periodic_timer => domain.timers.set_periodic(vcpu, 0)?,
        VCPUOP_register_runstate_memory_area => {
            let op: VcpuRegisterMemoryArea = caller.read(at)?;
            let area = domain
                .runstates
                .area(caller, op.addr, size_of::<VcpuRunstateInfo>())?;
            domain.runstates.register(vcpu, area);
        }
        VCPUOP_get_runstate_info => {
            let info = domain.runstates.info(vcpu).ok_or(Errno::ESRCH)?;
            caller.write(at, &info)?;
        }
        // The clock in vcpu_info is the guest's; a second one outside of it is only of use to programs in the guest.
        VCPUOP_register_vcpu_time_memory_area => return Err(Errno::ENOSYS),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

fn own(caller: &Caller<'_>, vcpu: VcpuId) -> Result<(), Errno> {
    if caller.vcpu() == vcpu {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn register_vcpu_info(
    caller: &Caller<'_>,
    vcpu: VcpuId,
    op: &VcpuRegisterVcpuInfo,
) -> Result<(), Errno> {
    let domain = caller.domain();
    let offset = usize::try_from(op.offset).map_err(|_| Errno::EINVAL)?;
    if !offset.is_multiple_of(8) || offset > PAGE_SIZE - size_of::<VcpuInfo>() {
        return Err(Errno::EINVAL);
    }
    let gfn = Gfn(op.mfn);
    let page = domain.ram.page(gfn).ok_or(Errno::EINVAL)?;
    let gpa = gfn.addr().ok_or(Errno::EINVAL)? + u64::from(op.offset);
    domain
        .ports
        .set_vcpu_info(vcpu, std::sync::Arc::new(page), offset)
        .map_err(|e| e.errno())?;
    domain.place_clock(vcpu, gpa);
    Ok(())
}

/// The old one-shot timer, of the calling vCPU; time 0 stops it.
pub(super) fn set_timer_op(caller: &Caller<'_>, call: &Call) -> Served {
    let timeout = Some(call.arg(0)).filter(|timeout| *timeout != 0);
    caller.domain().set_singleshot(caller.vcpu(), timeout)?;
    Ok(0)
}

/// Of the behaviours that can be switched, only the run state's update flag concerns a translated guest.
pub(super) fn vm_assist(caller: &Caller<'_>, call: &Call) -> Served {
    let (cmd, kind) = (call.arg32(0), call.arg32(1));
    if !VMASST_CMDS.contains(&cmd) || kind != VMASST_TYPE_RUNSTATE_UPDATE_FLAG {
        return Err(Errno::EINVAL);
    }
    caller
        .domain()
        .runstates
        .set_update_flag(cmd == VMASST_CMDS.start);
    Ok(0)
}

#[cfg(test)]
mod tests;
