//! Where the guest's kernel is entered: trap table, callbacks, stack.

use cantle_abi::Errno;
use cantle_abi::callback::*;
use cantle_abi::pv::TrapInfo;

use super::{Arguments, DONE, Outcome, address_is_canonical, entry_at, read};
use crate::hardware::Machine;
use crate::start::trap;
use crate::vcpu::{Callback, Trap, Vcpu};

/// The most entries of a list of traps: one for each vector and its end, twice.
const MAX_TRAPS: u64 = 514;

/// `nmi_op`'s commands (`nmi.h`).
const XENNMI_REGISTER_CALLBACK: u64 = 0;
const XENNMI_UNREGISTER_CALLBACK: u64 = 1;

/// `set_trap_table(list)`: sets the handlers that the list names, up to an address of 0; forgets all where there is no list.
///
/// # Errors
/// `EINVAL` for an address that is none, `E2BIG` for a list without an end, `EFAULT`.
pub(super) fn set_trap_table<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    [list, ..]: Arguments,
) -> Outcome {
    if list == 0 {
        vcpu.traps.fill(Trap::default());
        return DONE;
    }
    for index in 0..MAX_TRAPS {
        let info: TrapInfo = read(machine, entry_at(list, index, 16)?)?;
        if info.address == 0 {
            return DONE;
        }
        check_address(info.address)?;
        if let Some(slot) = vcpu.traps.get_mut(usize::from(info.vector)) {
            *slot = trap(&info);
        }
    }
    Err(Errno::E2BIG)
}

/// `set_callbacks(event, failsafe, syscall)`.
///
/// # Errors
/// `EINVAL` for an address that is none.
pub(super) fn set_callbacks(vcpu: &mut Vcpu, [event, failsafe, syscall, ..]: Arguments) -> Outcome {
    for address in [event, failsafe, syscall] {
        check_address(address)?;
    }
    for (kind, address) in [
        (CALLBACKTYPE_event, event),
        (CALLBACKTYPE_failsafe, failsafe),
        (CALLBACKTYPE_syscall, syscall),
    ] {
        set(vcpu, kind, address, 0)?;
    }
    DONE
}

/// `callback_op(command, argument)`.
///
/// # Errors
/// `EINVAL` for an address that is none and for entries that there are not (or that cannot be done without), `ENOSYS` for commands that there
/// are not, `EFAULT`.
pub(super) fn callback_op<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    [command, argument, ..]: Arguments,
) -> Outcome {
    match u32::try_from(command) {
        Ok(CALLBACKOP_register) => {
            let wanted: CallbackRegister = read(machine, argument)?;
            check_address(wanted.address)?;
            set(vcpu, wanted.kind, wanted.address, wanted.flags)?;
        }
        Ok(CALLBACKOP_unregister) => {
            let wanted: CallbackUnregister = read(machine, argument)?;
            if wanted.kind == CALLBACKTYPE_event || wanted.kind == CALLBACKTYPE_failsafe {
                return Err(Errno::EINVAL);
            }
            set(vcpu, wanted.kind, 0, 0)?;
        }
        _ => return Err(Errno::ENOSYS),
    }
    DONE
}

fn set(vcpu: &mut Vcpu, kind: u16, address: u64, flags: u16) -> Result<(), Errno> {
    // An upcall masks others always.
    let masks_events = flags & CALLBACKF_mask_events != 0 || kind == CALLBACKTYPE_event;
    let slot = match kind {
        CALLBACKTYPE_event => &mut vcpu.event,
        CALLBACKTYPE_failsafe => &mut vcpu.failsafe,
        CALLBACKTYPE_syscall => &mut vcpu.syscall,
        CALLBACKTYPE_syscall32 => &mut vcpu.syscall32,
        CALLBACKTYPE_sysenter | CALLBACKTYPE_sysenter_deprecated => &mut vcpu.sysenter,
        // There are no NMIs.
        CALLBACKTYPE_nmi => return Ok(()),
        _ => return Err(Errno::EINVAL),
    };
    *slot = Callback {
        address,
        masks_events,
    };
    Ok(())
}

/// `nmi_op(command, argument)`: a handler may be set; there are no NMIs.
///
/// # Errors
/// `EINVAL` for an address that is none, `ENOSYS`, `EFAULT`.
pub(super) fn nmi_op<M: Machine>(machine: &mut M, [command, argument, ..]: Arguments) -> Outcome {
    match command {
        XENNMI_REGISTER_CALLBACK => check_address(read(machine, argument)?)?,
        XENNMI_UNREGISTER_CALLBACK => {}
        _ => return Err(Errno::ENOSYS),
    }
    DONE
}

/// `stack_switch(ss, rsp)`: the stack on which the kernel is entered from a program. That it can be used shows when it is.
///
/// # Errors
/// `EINVAL` for an address that is none.
pub(super) fn stack_switch(vcpu: &mut Vcpu, [ss, rsp, ..]: Arguments) -> Outcome {
    check_address(rsp)?;
    vcpu.kernel_ss = ss;
    vcpu.kernel_sp = rsp;
    DONE
}

fn check_address(address: u64) -> Result<(), Errno> {
    if address_is_canonical(address) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}
