//! The guest's registers by number.

use super::instruction::Address;
use crate::regs::Regs;

/// A register: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15; of the number only the lowest four bits count.
#[must_use]
pub fn get(regs: &Regs, number: u8) -> u64 {
    match number & 15 {
        0 => regs.rax,
        1 => regs.rcx,
        2 => regs.rdx,
        3 => regs.rbx,
        4 => regs.rsp,
        5 => regs.rbp,
        6 => regs.rsi,
        7 => regs.rdi,
        8 => regs.r8,
        9 => regs.r9,
        10 => regs.r10,
        11 => regs.r11,
        12 => regs.r12,
        13 => regs.r13,
        14 => regs.r14,
        _ => regs.r15,
    }
}

/// Writes that register.
pub fn set(regs: &mut Regs, number: u8, value: u64) {
    let register = match number & 15 {
        0 => &mut regs.rax,
        1 => &mut regs.rcx,
        2 => &mut regs.rdx,
        3 => &mut regs.rbx,
        4 => &mut regs.rsp,
        5 => &mut regs.rbp,
        6 => &mut regs.rsi,
        7 => &mut regs.rdi,
        8 => &mut regs.r8,
        9 => &mut regs.r9,
        10 => &mut regs.r10,
        11 => &mut regs.r11,
        12 => &mut regs.r12,
        13 => &mut regs.r13,
        14 => &mut regs.r14,
        _ => &mut regs.r15,
    };
    *register = value;
}

/// Where an operand in memory is, but for its segment's base. `after` is rip behind the instruction.
#[must_use]
pub fn offset(regs: &Regs, address: &Address, after: u64) -> u64 {
    let mut sum = i64::from(address.displacement).cast_unsigned();
    if let Some(base) = address.base {
        sum = sum.wrapping_add(get(regs, base));
    }
    if let Some((index, shift)) = address.index {
        sum = sum.wrapping_add(get(regs, index).wrapping_shl(u32::from(shift)));
    }
    if address.after_instruction {
        sum = sum.wrapping_add(after);
    }
    if address.short {
        sum &= u64::from(u32::MAX);
    }
    sum
}
