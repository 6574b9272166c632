//! vCPUs, scheduling, and what is left: ports, assists, the version.

use cantle_abi::Errno;
use cantle_abi::physdev::*;
use cantle_abi::pv::*;
use cantle_abi::sched::SCHEDOP_block;
use cantle_abi::vcpu::*;
use cantle_abi::version::XENVER_version;
use cantle_abi::xen::*;

use super::{Arguments, DONE, Outcome, read};
use crate::descriptors;
use crate::hardware::Machine;
use crate::start;
use crate::tables::prepare_l4;
use crate::vcpu::{Ports, Vcpu};

/// Ports there are.
const PORTS: u32 = 65536;

/// `vcpu_op(command, vcpu, argument)`.
///
/// # Errors
/// `ENOENT` for a vCPU that there is not; else by command.
pub(super) fn vcpu_op<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    arguments: Arguments,
) -> Outcome {
    let [command, target, argument, ..] = arguments;
    let target = u32::try_from(target)
        .ok()
        .filter(|&target| target < machine.boot().vcpus)
        .ok_or(Errno::ENOENT)?;
    match u32::try_from(command) {
        Ok(VCPUOP_initialise) => initialise(machine, target, argument),
        Ok(VCPUOP_up) => machine.up(target).map(|()| 0),
        Ok(VCPUOP_down) => {
            machine.down(vcpu, target);
            DONE
        }
        Ok(VCPUOP_is_up) => Ok(u64::from(machine.is_up(target))),
        Ok(VCPUOP_register_vcpu_info) => register_vcpu_info(machine, vcpu, target, arguments),
        Ok(_) => Ok(machine.forward(__HYPERVISOR_vcpu_op, arguments)),
        Err(_) => Err(Errno::ENOSYS),
    }
}

fn initialise<M: Machine>(machine: &mut M, target: u32, argument: u64) -> Outcome {
    let context: VcpuGuestContext = read(machine, argument)?;
    start::check(&context, machine.boot())?;
    if machine.is_up(target) {
        return Err(Errno::EEXIST);
    }
    let [_, user, _, kernel, ..] = context.ctrlreg.map(|cr| cr >> 12);
    prepare_l4(machine, kernel)?;
    if user != 0 {
        prepare_l4(machine, user)?;
    }
    // Before the vCPU is taken over, so that one with a table that may not be is as it was.
    descriptors::set_gdt(machine, target, &context.gdt_frames, context.gdt_ents)?;
    machine.initialise(target, &context)?;
    DONE
}

/// The host writes what the old `vcpu_info` has into the new one; then the monitor takes it over. That the host reads the argument again is no
/// matter: where they differ, the guest does not get its upcalls.
fn register_vcpu_info<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    target: u32,
    arguments: Arguments,
) -> Outcome {
    let [_, _, argument, ..] = arguments;
    let place: VcpuRegisterVcpuInfo = read(machine, argument)?;
    let size = size_of::<VcpuInfo>();
    let fits = usize::try_from(place.offset)
        .is_ok_and(|offset| offset <= 4096 - size && offset.is_multiple_of(8));
    if !fits || !machine.boot().is_ram(place.mfn) {
        return Err(Errno::EINVAL);
    }
    if target != vcpu.id && machine.is_up(target) {
        return Err(Errno::EINVAL);
    }
    let result = machine.forward(__HYPERVISOR_vcpu_op, arguments);
    if result == 0 {
        let address = (place.mfn << 12) + u64::from(place.offset);
        machine.vcpu_info_moved(vcpu, target, address);
    }
    Ok(result)
}

/// `sched_op(command, argument)`. Yielding is the host's as well: GRUB does nothing else while it waits for its disk, whose back end may be behind
/// the vCPU on the same processor.
///
/// # Errors
/// Those of the host, for what it serves.
pub(super) fn sched_op<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    arguments: Arguments,
) -> Outcome {
    let [command, ..] = arguments;
    match u32::try_from(command) {
        Ok(SCHEDOP_block) => {
            machine.block(vcpu);
            DONE
        }
        Ok(_) => Ok(machine.forward(__HYPERVISOR_sched_op, arguments)),
        Err(_) => Err(Errno::ENOSYS),
    }
}

/// `physdev_op(command, argument)`.
///
/// # Errors
/// `EINVAL` for a ring or a number of ports that there is not, `EFAULT`; those of the host, for what it serves.
pub(super) fn physdev_op<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    arguments: Arguments,
) -> Outcome {
    let [command, argument, ..] = arguments;
    match u32::try_from(command) {
        Ok(PHYSDEVOP_set_iopl) => {
            let PhysdevSetIopl { iopl } = read(machine, argument)?;
            vcpu.iopl = u8::try_from(iopl)
                .ok()
                .filter(|iopl| *iopl <= 3)
                .ok_or(Errno::EINVAL)?;
        }
        Ok(PHYSDEVOP_set_iobitmap) => {
            let wanted: PhysdevSetIobitmap = read(machine, argument)?;
            if wanted.nr_ports > PORTS {
                return Err(Errno::EINVAL);
            }
            vcpu.ports = Ports {
                bitmap: wanted.bitmap,
                count: wanted.nr_ports,
            };
        }
        Ok(_) => return Ok(machine.forward(__HYPERVISOR_physdev_op, arguments)),
        Err(_) => return Err(Errno::ENOSYS),
    }
    DONE
}

/// `vm_assist(command, kind)`: all that PV guests have, and which is so here whether they ask or not.
///
/// # Errors
/// `EINVAL` for a kind and `ENOSYS` for a command that there is not; those of the host, for what it serves.
pub(super) fn vm_assist<M: Machine>(machine: &mut M, arguments: Arguments) -> Outcome {
    let [command, kind, ..] = arguments;
    if !matches!(
        u32::try_from(command),
        Ok(VMASST_CMD_enable | VMASST_CMD_disable)
    ) {
        return Err(Errno::ENOSYS);
    }
    match u32::try_from(kind) {
        Ok(VMASST_TYPE_runstate_update_flag) => {
            Ok(machine.forward(__HYPERVISOR_vm_assist, arguments))
        }
        Ok(
            VMASST_TYPE_4gb_segments
            | VMASST_TYPE_4gb_segments_notify
            | VMASST_TYPE_writable_pagetables
            | VMASST_TYPE_pae_extended_cr3
            | VMASST_TYPE_architectural_iopl
            | VMASST_TYPE_m2p_strict,
        ) => DONE,
        _ => Err(Errno::EINVAL),
    }
}

/// `xen_version(command, argument)`.
///
/// # Errors
/// Those of the host, for all but the version.
pub(super) fn xen_version<M: Machine>(machine: &mut M, arguments: Arguments) -> Outcome {
    let [command, ..] = arguments;
    if command == u64::from(XENVER_version) {
        Ok(u64::from(machine.boot().xen_version))
    } else {
        Ok(machine.forward(__HYPERVISOR_xen_version, arguments))
    }
}
