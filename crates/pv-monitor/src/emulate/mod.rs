//! Privileged instructions of the guest's kernel, which runs in ring 1 and gets `#GP` for them.

use zerocopy::IntoBytes;

use crate::hardware::{Flush, Machine, VcpuSet};
use crate::hypercall::{address_is_canonical, get_debugreg, set_debugreg, set_task_switched};
use crate::regs::Regs;
use crate::start::{FIXED_RFLAGS, GUEST_RFLAGS};
use crate::tables::load_kernel;
use crate::vcpu::{Next, Vcpu};

pub mod cpuid;
pub mod decode;
pub mod instruction;
mod msr;
mod ports;
pub mod registers;

#[cfg(test)]
mod tests;

use decode::LONGEST;
use instruction::{Decoded, Instruction, Segment};

/// The bits of CR4 that a guest may choose: TSD, DE and, where the processor has it, FSGSBASE.
pub const GUEST_CR4: u64 = 1 << 2 | 1 << 3 | CR4_FSGSBASE;
const CR4_FSGSBASE: u64 = 1 << 16;
/// CR0.TS.
const CR0_TS: u64 = 1 << 3;
/// rflags.RF.
const RESUME_FLAG: u64 = 1 << 16;
/// `#GP`.
const GENERAL_PROTECTION: u8 = 13;
/// The kernel's code segment as Xen's ABI has it: with the ring of programs.
const FLAT_KERNEL_CS: u64 = 0xe033;

/// What becomes of a `#GP` or `#UD` of the guest, whose registers are at the instruction: the kernel's privileged instructions are emulated,
/// programs' use of ports, and `cpuid` wherever it comes with the prefix that asks for it. The error code does not matter (a selector may be its reason too); of
/// `int` the caller knows.
pub fn privileged<M: Machine>(machine: &mut M, vcpu: &mut Vcpu, regs: &mut Regs) -> Next {
    let vector = regs.vector.to_le_bytes()[0];
    let emulated = fetch(machine, regs.rip)
        .filter(|decoded| {
            let trapped = vcpu.in_kernel || decoded.instruction.is_of_ports();
            decoded.forced || trapped && vector == GENERAL_PROTECTION
        })
        .and_then(|decoded| execute(machine, vcpu, regs, decoded));
    if emulated.is_some() {
        regs.rflags &= !RESUME_FLAG;
        Next::Resume
    } else {
        Next::Raise(vector, (vector == GENERAL_PROTECTION).then_some(regs.error))
    }
}

/// The instruction at an address. Where the page behind it is not there it may still end before that.
fn fetch<M: Machine>(machine: &mut M, rip: u64) -> Option<Decoded> {
    let mut bytes = [0; LONGEST];
    if machine.read(rip, &mut bytes).is_ok() {
        return decode::decode(&bytes);
    }
    let in_page = usize::try_from(4096 - (rip & 0xfff)).ok()?;
    let bytes = bytes.get_mut(..in_page)?;
    machine.read(rip, bytes).ok()?;
    decode::decode(bytes)
}

/// Does an instruction and goes behind it. `None` where it cannot be done: nothing has happened then.
fn execute<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    regs: &mut Regs,
    decoded: Decoded,
) -> Option<()> {
    let after = regs.rip.wrapping_add(decoded.length as u64);
    match decoded.instruction {
        Instruction::Cpuid => {
            let (leaf, subleaf) = (low(regs.rax), low(regs.rcx));
            let found = cpuid::restricted(leaf, subleaf, machine.cpuid(leaf, subleaf));
            [regs.rax, regs.rbx, regs.rcx, regs.rdx] = found.map(u64::from);
        }
        Instruction::ReadMsr => {
            let value = msr::read(machine, low(regs.rcx)).or_else(|| early(vcpu, 0))?;
            set_pair(regs, value);
        }
        Instruction::WriteMsr => {
            msr::write(machine, low(regs.rcx), pair(regs)).or_else(|| early(vcpu, ()))?;
        }
        Instruction::ReadTsc => set_pair(regs, machine.read_msr(msr::TSC)?),
        Instruction::ReadTscAux => {
            let aux = machine.read_msr(msr::TSC_AUX)?;
            set_pair(regs, machine.read_msr(msr::TSC)?);
            regs.rcx = u64::from(low(aux));
        }
        Instruction::FromControl { control, register } => {
            registers::set(regs, register, read_control(vcpu, control)?);
        }
        Instruction::ToControl { control, register } => {
            write_control(machine, vcpu, control, registers::get(regs, register))?;
        }
        Instruction::FromDebug { debug, register } => {
            let value = get_debugreg(vcpu, u64::from(debug)).ok()?;
            registers::set(regs, register, value);
        }
        Instruction::ToDebug { debug, register } => {
            let value = registers::get(regs, register);
            set_debugreg(machine, vcpu, u64::from(debug), value).ok()?;
        }
        Instruction::ClearTaskSwitched => set_task_switched(machine, vcpu, false),
        Instruction::LoadStatus { register } => {
            let on = registers::get(regs, register) & CR0_TS != 0;
            set_task_switched(machine, vcpu, on);
        }
        Instruction::Halt => {
            // What wakes it up finds the kernel behind the instruction.
            regs.rip = after;
            machine.block(vcpu);
            return Some(());
        }
        // Events are masked by other means, and caches are the host's. Linux does `cli` before it has asked for any ring's rights.
        Instruction::InterruptFlag | Instruction::Caches => {}
        Instruction::In { port, size } => {
            ports::may_use(machine, vcpu, regs, port, size)?;
            ports::read(regs, port, size);
        }
        Instruction::Out { port, size } => ports::may_use(machine, vcpu, regs, port, size)?,
        Instruction::SwapGs => {
            let kernel = machine.read_msr(msr::GS_BASE)?;
            let user = machine.read_msr(msr::KERNEL_GS_BASE)?;
            machine.write_msr(msr::GS_BASE, user)?;
            machine.write_msr(msr::KERNEL_GS_BASE, kernel)?;
        }
        Instruction::SetXcr => {
            if low(regs.rcx) != 0 {
                return None;
            }
            machine.set_xcr0(pair(regs))?;
        }
        Instruction::InvalidatePage(address) => {
            let base = match address.segment {
                Some(Segment::Fs) => machine.read_msr(msr::FS_BASE)?,
                Some(Segment::Gs) => machine.read_msr(msr::GS_BASE)?,
                None => 0,
            };
            let page = registers::offset(regs, &address, after).wrapping_add(base);
            machine.flush(VcpuSet::of(vcpu.id), Flush::Page(page));
        }
        // The kernel's stack segment is what it is.
        Instruction::LoadStack => {}
        Instruction::InterruptReturn => return interrupt_return(machine, regs),
        Instruction::FarReturn { size, dropped } => {
            return far_return(machine, regs, size, dropped);
        }
    }
    regs.rip = after;
    Some(())
}

/// A kernel that has no handler for `#GP` yet does not get one for a register that there is not: it reads 0 and writes nothing.
fn early<T>(vcpu: &Vcpu, value: T) -> Option<T> {
    let handler = vcpu.traps.get(usize::from(GENERAL_PROTECTION))?;
    (handler.address == 0).then_some(value)
}

fn read_control(vcpu: &Vcpu, control: u8) -> Option<u64> {
    match control {
        0 => Some(vcpu.cr0),
        // CR2 is in `vcpu_info`.
        3 => Some(vcpu.kernel_l4 << 12),
        4 => Some(vcpu.cr4),
        _ => None,
    }
}

fn write_control<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    control: u8,
    value: u64,
) -> Option<()> {
    match control {
        0 if (value ^ vcpu.cr0) & !CR0_TS == 0 => {
            set_task_switched(machine, vcpu, value & CR0_TS != 0);
        }
        2 => vcpu.set_fault_address(value),
        3 => load_kernel(machine, vcpu, value >> 12).ok()?,
        4 => {
            let [_, features, ..] = machine.cpuid(7, 0);
            let lacking = if features & 1 == 0 { CR4_FSGSBASE } else { 0 };
            let bits = value & GUEST_CR4 & !lacking;
            // The others are not its to change; kernels go on where nothing happens.
            vcpu.cr4 = vcpu.cr4 & !GUEST_CR4 | bits;
            machine.set_cr4(bits);
        }
        _ => return None,
    }
    Some(())
}

/// Whether a code segment is what the kernel may mean by its own.
const fn is_kernel(cs: u64) -> bool {
    cs & 3 != 3 || cs & 0xffff == FLAT_KERNEL_CS
}

/// `iretq` of the kernel to itself, which traps because it names ring 0. To programs it goes by hypercall. Events stay masked or not: `pushf`
/// did not tell.
fn interrupt_return<M: Machine>(machine: &mut M, regs: &mut Regs) -> Option<()> {
    let mut frame = [0_u64; 5];
    machine.read(regs.rsp, frame.as_mut_bytes()).ok()?;
    let [rip, cs, rflags, rsp, _] = frame;
    if !is_kernel(cs) || !address_is_canonical(rip) {
        return None;
    }
    regs.rip = rip;
    regs.rflags = rflags & GUEST_RFLAGS | FIXED_RFLAGS;
    regs.rsp = rsp;
    Some(())
}

/// `lret` of the kernel to itself.
fn far_return<M: Machine>(machine: &mut M, regs: &mut Regs, size: u8, dropped: u16) -> Option<()> {
    let mut bytes = [0; 16];
    let bytes = bytes.get_mut(..usize::from(size) * 2)?;
    machine.read(regs.rsp, bytes).ok()?;
    let (rip, cs) = bytes.split_at(usize::from(size));
    let (rip, cs) = (word(rip), word(cs));
    if !is_kernel(cs) || !address_is_canonical(rip) {
        return None;
    }
    regs.rip = rip;
    regs.rsp = regs
        .rsp
        .wrapping_add(u64::from(size) * 2)
        .wrapping_add(u64::from(dropped));
    Some(())
}

/// At most 8 bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// A register's lower half.
fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// edx:eax.
fn pair(regs: &Regs) -> u64 {
    u64::from(low(regs.rdx)) << 32 | u64::from(low(regs.rax))
}

fn set_pair(regs: &mut Regs, value: u64) {
    regs.rax = u64::from(low(value));
    regs.rdx = value >> 32;
}
