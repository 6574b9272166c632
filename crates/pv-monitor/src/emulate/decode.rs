//! Decoding of the instructions that are emulated: 64-bit code, at most 15 bytes.

use super::instruction::{Address, Decoded, Instruction, Port, Segment};

/// The longest instruction.
pub const LONGEST: usize = 15;

/// The prefix by which a guest says that an instruction is to be emulated though it would not trap: `ud2`, "xen".
const FORCED: [u8; 5] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];

/// What comes before an opcode.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    wide: bool,
    rex_r: u8,
    rex_x: u8,
    rex_b: u8,
    short_operand: bool,
    short_address: bool,
    segment: Option<Segment>,
}

/// The bytes of an instruction, taken one by one.
struct Code<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Code<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut array = [0; N];
        for slot in &mut array {
            *slot = self.byte()?;
        }
        Some(array)
    }
}

/// A ModRM byte, its fields extended by REX.
struct ModRm {
    mode: u8,
    /// The field `reg`, extended.
    reg: u8,
    /// The field `rm`, not extended.
    rm: u8,
}

/// The instruction at the start of `bytes`, of which no more than [`LONGEST`] are looked at. `None` where it is none of those that are emulated,
/// or goes on behind the end.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Decoded> {
    let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
    if let Some(rest) = bytes.strip_prefix(&FORCED) {
        return rest.starts_with(&[0x0f, 0xa2]).then_some(Decoded {
            instruction: Instruction::Cpuid,
            length: FORCED.len() + 2,
            forced: true,
        });
    }
    let mut code = Code { bytes, at: 0 };
    let (prefixes, opcode) = prefixes(&mut code)?;
    let instruction = one_byte(&mut code, prefixes, opcode)?;
    Some(Decoded {
        instruction,
        length: code.at,
        forced: false,
    })
}

/// The prefixes, and the byte behind them.
fn prefixes(code: &mut Code<'_>) -> Option<(Prefixes, u8)> {
    let mut prefixes = Prefixes::default();
    loop {
        match code.byte()? {
            0x66 => prefixes.short_operand = true,
            0x67 => prefixes.short_address = true,
            0x64 => prefixes.segment = Some(Segment::Fs),
            0x65 => prefixes.segment = Some(Segment::Gs),
            // Segments without a base, and repetitions: without a meaning here.
            0x26 | 0x2e | 0x36 | 0x3e | 0xf2 | 0xf3 => {}
            rex @ 0x40..=0x4f => {
                prefixes.wide = rex & 8 != 0;
                prefixes.rex_r = (rex & 4) << 1;
                prefixes.rex_x = (rex & 2) << 2;
                prefixes.rex_b = (rex & 1) << 3;
                // Anywhere but last it counts nothing, and no compiler puts it there.
                return Some((prefixes, code.byte()?));
            }
            opcode => return Some((prefixes, opcode)),
        }
    }
}

fn mod_rm(code: &mut Code<'_>, prefixes: Prefixes) -> Option<ModRm> {
    let byte = code.byte()?;
    Some(ModRm {
        mode: byte >> 6,
        reg: byte >> 3 & 7 | prefixes.rex_r,
        rm: byte & 7,
    })
}

fn one_byte(code: &mut Code<'_>, prefixes: Prefixes, opcode: u8) -> Option<Instruction> {
    let size = match opcode {
        _ if opcode & 1 == 0 => 1,
        _ if prefixes.short_operand => 2,
        _ => 4,
    };
    Some(match opcode {
        0x0f => {
            let opcode = code.byte()?;
            return two_bytes(code, prefixes, opcode);
        }
        0x8e => {
            let operand = mod_rm(code, prefixes)?;
            if operand.reg != 2 {
                return None;
            }
            if operand.mode != 3 {
                address(code, prefixes, &operand)?;
            }
            Instruction::LoadStack
        }
        0xca => Instruction::FarReturn {
            size: if prefixes.wide { 8 } else { 4 },
            dropped: u16::from_le_bytes(code.array()?),
        },
        0xcb => Instruction::FarReturn {
            size: if prefixes.wide { 8 } else { 4 },
            dropped: 0,
        },
        0xcf if prefixes.wide => Instruction::InterruptReturn,
        0xe4 | 0xe5 => Instruction::In {
            port: Port::Number(code.byte()?),
            size,
        },
        0xe6 | 0xe7 => Instruction::Out {
            port: Port::Number(code.byte()?),
            size,
        },
        0xec | 0xed => Instruction::In {
            port: Port::Dx,
            size,
        },
        0xee | 0xef => Instruction::Out {
            port: Port::Dx,
            size,
        },
        0xf4 => Instruction::Halt,
        0xfa | 0xfb => Instruction::InterruptFlag,
        _ => return None,
    })
}

/// Opcodes behind 0f.
fn two_bytes(code: &mut Code<'_>, prefixes: Prefixes, opcode: u8) -> Option<Instruction> {
    Some(match opcode {
        0x01 => return group_7(code, prefixes),
        0x06 => Instruction::ClearTaskSwitched,
        0x08 | 0x09 => Instruction::Caches,
        0x20..=0x23 => {
            // `mode` does not count: the operand is a register always.
            let operand = mod_rm(code, prefixes)?;
            let (special, register) = (operand.reg, operand.rm | prefixes.rex_b);
            match opcode {
                0x20 => Instruction::FromControl {
                    control: special,
                    register,
                },
                0x21 => Instruction::FromDebug {
                    debug: special,
                    register,
                },
                0x22 => Instruction::ToControl {
                    control: special,
                    register,
                },
                _ => Instruction::ToDebug {
                    debug: special,
                    register,
                },
            }
        }
        0x30 => Instruction::WriteMsr,
        0x31 => Instruction::ReadTsc,
        0x32 => Instruction::ReadMsr,
        0xa2 => Instruction::Cpuid,
        _ => return None,
    })
}

/// 0f 01.
fn group_7(code: &mut Code<'_>, prefixes: Prefixes) -> Option<Instruction> {
    let operand = mod_rm(code, prefixes)?;
    Some(match (operand.mode, operand.reg & 7, operand.rm) {
        (3, 2, 1) => Instruction::SetXcr,
        (3, 6, rm) => Instruction::LoadStatus {
            register: rm | prefixes.rex_b,
        },
        (3, 7, 0) => Instruction::SwapGs,
        (3, 7, 1) => Instruction::ReadTscAux,
        (0..=2, 7, _) => Instruction::InvalidatePage(address(code, prefixes, &operand)?),
        _ => return None,
    })
}

/// The operand in memory that a ModRM byte (whose mode is not 3) begins.
fn address(code: &mut Code<'_>, prefixes: Prefixes, operand: &ModRm) -> Option<Address> {
    let mut address = Address {
        segment: prefixes.segment,
        short: prefixes.short_address,
        ..Address::default()
    };
    let mut wide_displacement = operand.mode == 2;
    if operand.rm == 4 {
        let sib = code.byte()?;
        let index = sib >> 3 & 7 | prefixes.rex_x;
        address.index = (index != 4).then_some((index, sib >> 6));
        if sib & 7 == 5 && operand.mode == 0 {
            wide_displacement = true;
        } else {
            address.base = Some(sib & 7 | prefixes.rex_b);
        }
    } else if operand.rm == 5 && operand.mode == 0 {
        address.after_instruction = true;
        wide_displacement = true;
    } else {
        address.base = Some(operand.rm | prefixes.rex_b);
    }
    address.displacement = if wide_displacement {
        i32::from_le_bytes(code.array()?)
    } else if operand.mode == 1 {
        i32::from(i8::from_le_bytes(code.array()?))
    } else {
        0
    };
    Some(address)
}

#[cfg(test)]
mod tests;
