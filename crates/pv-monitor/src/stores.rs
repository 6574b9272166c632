//! Stores of the guest's kernel to page tables that it has mapped read-only, as a Xen PV kernel has to.
//!
//! Such a kernel changes its tables by calls, but for single entries also by ordinary instructions (`VMASST_TYPE_writable_pagetables`, which Linux
//! demands: it exchanges an entry for 0 where the processor might be setting bits in it). The store faults, and is done here. No frame has a type,
//! so that what is done for page tables is done for every page that the kernel has mapped read-only for itself; pages of programs are not among
//! them: writing to those has to fault, for copy on write.

use crate::emulate::registers;
use crate::hardware::Machine;
use crate::regs::Regs;
use crate::tables::{PRESENT, check_entry, check_slot, frame_of, level1_slot};
use crate::vcpu::Vcpu;

pub mod decode;

use decode::{Kind, LONGEST, Source, Store, decode};

/// A page fault's error code: the page is there, it was a write, by the kernel, of data.
const KERNEL_WRITE: u32 = 0b0_0011;
/// The bits of it that count.
const CAUSE: u32 = 0b1_1111;

/// An entry's bit: programs may use the page.
const USER: u64 = 1 << 2;

/// rflags that arithmetic sets.
const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// Does a store that has faulted at an address, where it is one to a table; `None`, with nothing changed, where the guest is to be told of the fault.
pub fn store<M: Machine>(
    machine: &mut M,
    vcpu: &Vcpu,
    regs: &mut Regs,
    address: u64,
) -> Option<()> {
    if !vcpu.in_kernel || regs.error & CAUSE != KERNEL_WRITE {
        return None;
    }
    let entry = machine.load(level1_slot(machine, vcpu.kernel_l4, address).ok()?);
    if entry & (PRESENT | USER) != PRESENT {
        return None;
    }
    let store = fetch(machine, regs.rip)?;
    if !address.is_multiple_of(u64::from(store.width)) {
        return None;
    }
    let word = frame_of(entry) << 12 | address & 0xff8;
    check_slot(machine.boot(), vcpu, word).ok()?;
    let field = Field::new(address, store.width);
    // Another vCPU, or the processor itself, may change the word in between; it does not do so without end.
    for _ in 0..1000 {
        let old = machine.load(word);
        let done = apply(store.kind, &field, old, regs);
        let new = field.put(old, done.value);
        check_entry(machine.boot(), new).ok()?;
        if machine.exchange(word, old, new).is_err() {
            continue;
        }
        if let Some((register, value)) = done.register {
            set(regs, register, store.width, value);
        }
        regs.rflags = done.rflags;
        regs.rip = regs.rip.wrapping_add(u64::from(store.length));
        return Some(());
    }
    None
}

/// The instruction at an address, as far as it can be read.
fn fetch<M: Machine>(machine: &mut M, rip: u64) -> Option<Store> {
    let mut bytes = [0; LONGEST];
    if machine.read(rip, &mut bytes).is_ok() {
        return decode(&bytes);
    }
    // It may end with its page.
    let left = usize::try_from(4096 - (rip & 0xfff)).ok()?;
    let bytes = bytes.get_mut(..left)?;
    machine.read(rip, bytes).ok()?;
    decode(bytes)
}

/// The operand's place in its word.
struct Field {
    shift: u32,
    bits: u32,
}

impl Field {
    fn new(address: u64, width: u8) -> Self {
        let [low, ..] = (address & 7).to_le_bytes();
        Self {
            shift: u32::from(low) * 8,
            bits: u32::from(width) * 8,
        }
    }

    const fn mask(&self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    const fn get(&self, word: u64) -> u64 {
        word >> self.shift & self.mask()
    }

    const fn put(&self, word: u64, value: u64) -> u64 {
        word & !(self.mask() << self.shift) | (value & self.mask()) << self.shift
    }
}

/// What a store leads to.
struct Done {
    value: u64,
    /// A register that changes, and to what.
    register: Option<(u8, u64)>,
    rflags: u64,
}

fn apply(kind: Kind, field: &Field, word: u64, regs: &Regs) -> Done {
    let old = field.get(word);
    let operand = |source| match source {
        Source::Register(number) => registers::get(regs, number),
        Source::Constant(constant) => i64::from(constant).cast_unsigned(),
    };
    let bit = |source| 1_u64 << (operand(source) & u64::from(field.bits - 1));
    let rflags = regs.rflags;
    let plain = |value| Done {
        value,
        register: None,
        rflags,
    };
    let logic = |value: u64| Done {
        rflags: rflags & !(CF | PF | AF | ZF | SF | OF) | of_result(field, value),
        ..plain(value)
    };
    let tested = |value: u64, bit: u64| Done {
        rflags: rflags & !CF | if old & bit == 0 { 0 } else { CF },
        ..plain(value)
    };
    match kind {
        Kind::Move(source) => plain(operand(source)),
        Kind::Exchange(register) => Done {
            register: Some((register, old)),
            ..plain(registers::get(regs, register))
        },
        Kind::CompareExchange(register) => compare_exchange(field, old, regs, register),
        Kind::And(source) => logic(old & operand(source)),
        Kind::Or(source) => logic(old | operand(source)),
        Kind::Xor(source) => logic(old ^ operand(source)),
        Kind::SetBit(source) => tested(old | bit(source), bit(source)),
        Kind::ClearBit(source) => tested(old & !bit(source), bit(source)),
        Kind::FlipBit(source) => tested(old ^ bit(source), bit(source)),
    }
}

fn compare_exchange(field: &Field, old: u64, regs: &Regs, register: u8) -> Done {
    let expected = regs.rax & field.mask();
    let difference = expected.wrapping_sub(old);
    let sign = 1_u64 << (field.bits - 1);
    let mut flags = of_result(field, difference);
    for (set, flag) in [
        (expected < old, CF),
        ((expected ^ old ^ difference) & 0x10 != 0, AF),
        ((expected ^ old) & (expected ^ difference) & sign != 0, OF),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let equal = expected == old;
    Done {
        value: if equal {
            registers::get(regs, register)
        } else {
            old
        },
        register: (!equal).then_some((0, old)),
        rflags: regs.rflags & !(CF | PF | AF | ZF | SF | OF) | flags,
    }
}

/// ZF, SF and PF of a result.
const fn of_result(field: &Field, result: u64) -> u64 {
    let result = result & field.mask();
    let mut flags = 0;
    if result == 0 {
        flags |= ZF;
    }
    if result >> (field.bits - 1) & 1 != 0 {
        flags |= SF;
    }
    if (result & 0xff).count_ones().is_multiple_of(2) {
        flags |= PF;
    }
    flags
}

/// Writes a register as an instruction with operands of so many bytes does: 4 clear the upper half, 1 leaves the rest.
fn set(regs: &mut Regs, register: u8, width: u8, value: u64) {
    let value = if width == 1 {
        registers::get(regs, register) & !0xff | value & 0xff
    } else {
        value
    };
    registers::set(regs, register, value);
}
