//! `in` and `out`. No port has anything behind it; who may use which is as in Xen all the same, for programs can tell.

use super::instruction::Port;
use crate::hardware::{Machine, Memory};
use crate::interface::FLAG_ONE_ADDRESS_SPACE;
use crate::regs::Regs;
use crate::vcpu::{Ports, Vcpu};

/// Counter 2 of the PC's timer.
const TIMER: u32 = 0x42;

/// What `in` of so many bytes reads: ones. But the timer stands still at 0: Linux measures the processor by it, and takes ones for its
/// beginning, of which it waits for the end 100000 times.
pub(super) fn read(regs: &mut Regs, port: Port, size: u8) {
    if number(regs, port) == TIMER && size == 1 {
        regs.rax &= !0xff;
        return;
    }
    regs.rax = match size {
        1 => regs.rax | 0xff,
        2 => regs.rax | 0xffff,
        _ => 0xffff_ffff,
    };
}

/// Whether the guest may use a port: its kernel may use all (its ring counts as 0), a program those of its bitmap, or all where the vCPU's IOPL is 3.
pub(super) fn may_use<M: Machine>(
    machine: &mut M,
    vcpu: &Vcpu,
    regs: &Regs,
    port: Port,
    size: u8,
) -> Option<()> {
    if vcpu.in_kernel || vcpu.iopl >= 3 {
        return Some(());
    }
    let first = number(regs, port);
    // The bitmap is the kernel's memory, where a program may not see it.
    let own_tables = machine.boot().flags & FLAG_ONE_ADDRESS_SPACE == 0
        && vcpu.user_l4 != 0
        && vcpu.user_l4 != vcpu.kernel_l4;
    if own_tables {
        machine.load_tables(vcpu.kernel_l4);
    }
    let allowed =
        (first..first + u32::from(size)).all(|port| is_allowed(machine, vcpu.ports, port));
    if own_tables {
        machine.load_tables(vcpu.user_l4);
    }
    allowed.then_some(())
}

/// A port's number.
fn number(regs: &Regs, port: Port) -> u32 {
    match port {
        Port::Number(number) => u32::from(number),
        Port::Dx => {
            let [low, high, ..] = regs.rdx.to_le_bytes();
            u32::from(u16::from_le_bytes([low, high]))
        }
    }
}

/// Whether a port's bit is there, and 0.
fn is_allowed<M: Memory>(machine: &mut M, ports: Ports, port: u32) -> bool {
    let mut byte = [0xff];
    let place = ports.bitmap.checked_add(u64::from(port / 8));
    let readable = place.is_some_and(|place| machine.read(place, &mut byte).is_ok());
    port < ports.count && readable && byte[0] >> (port % 8) & 1 == 0
}
