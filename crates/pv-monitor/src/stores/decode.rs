//! Decoding of stores: 64-bit code, the operand in memory known already (it is what faulted).

/// The longest instruction.
pub const LONGEST: usize = 15;

/// What is stored, or combined with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A register's lower bytes, by number.
    Register(u8),
    /// A constant, with its sign.
    Constant(i32),
}

/// What a store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `mov`.
    Move(Source),
    /// `xchg` with a register.
    Exchange(u8),
    /// `cmpxchg` with a register.
    CompareExchange(u8),
    /// `and`.
    And(Source),
    /// `or`.
    Or(Source),
    /// `xor`.
    Xor(Source),
    /// `bts`.
    SetBit(Source),
    /// `btr`.
    ClearBit(Source),
    /// `btc`.
    FlipBit(Source),
}

/// A store, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// What it does.
    pub kind: Kind,
    /// Bytes of the operand: 1, 4 or 8.
    pub width: u8,
    /// Bytes of the instruction.
    pub length: u8,
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

    fn skip(&mut self, bytes: usize) -> Option<()> {
        (0..bytes).try_for_each(|_| self.byte().map(|_| ()))
    }

    fn constant(&mut self, bytes: u8) -> Option<Source> {
        Some(Source::Constant(if bytes == 1 {
            i32::from(self.byte()?.cast_signed())
        } else {
            let mut word = [0; 4];
            for slot in &mut word {
                *slot = self.byte()?;
            }
            i32::from_le_bytes(word)
        }))
    }

    /// A ModRM byte that names memory, and what belongs to it; its field `reg`.
    fn operand(&mut self) -> Option<u8> {
        let byte = self.byte()?;
        let (mode, rm) = (byte >> 6, byte & 7);
        if mode == 3 {
            return None;
        }
        let base = if rm == 4 { self.byte()? & 7 } else { rm };
        // Base 5 is none in mode 0: a displacement alone, or with rip.
        let displacement = match (mode, base) {
            (0, 5) | (2, _) => 4,
            (1, _) => 1,
            _ => 0,
        };
        self.skip(displacement)?;
        Some(byte >> 3 & 7)
    }
}

/// What comes before an opcode, as far as it counts here.
struct Prefixes {
    rex: u8,
    /// `lock`, which only some of them may have.
    lock: bool,
}

/// The store at the start of `bytes`; `None` where it is none that is known, or goes on behind the end.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Store> {
    let mut code = Code {
        bytes: bytes.get(..LONGEST).unwrap_or(bytes),
        at: 0,
    };
    let mut lock = false;
    let mut rex = 0;
    let opcode = loop {
        match code.byte()? {
            // Segments, and 32-bit addresses: where the operand is, is known.
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => {}
            0xf0 => lock = true,
            found @ 0x40..=0x4f => {
                rex = found;
                break code.byte()?;
            }
            opcode => break opcode,
        }
    };
    let prefixes = Prefixes { rex, lock };
    let (kind, width) = if opcode == 0x0f {
        let opcode = code.byte()?;
        two_bytes(&mut code, &prefixes, opcode)?
    } else {
        one_byte(&mut code, &prefixes, opcode)?
    };
    let may_lock = !matches!(kind, Kind::Move(_));
    if prefixes.lock && !may_lock {
        return None;
    }
    Some(Store {
        kind,
        width,
        length: u8::try_from(code.at).ok()?,
    })
}

impl Prefixes {
    /// Bytes of the operand, of an opcode whose lowest bit says "not one byte".
    const fn width(&self, opcode: u8) -> u8 {
        if opcode & 1 == 0 {
            1
        } else if self.rex & 8 != 0 {
            8
        } else {
            4
        }
    }

    /// A register by the field `reg`. `None` for ah, ch, dh, bh.
    const fn register(&self, reg: u8, width: u8) -> Option<u8> {
        if width == 1 && self.rex == 0 && reg >= 4 {
            None
        } else {
            Some(reg | (self.rex & 4) << 1)
        }
    }
}

fn one_byte(code: &mut Code<'_>, prefixes: &Prefixes, opcode: u8) -> Option<(Kind, u8)> {
    let width = prefixes.width(opcode);
    let reg = code.operand()?;
    let register = || prefixes.register(reg, width).map(Source::Register);
    let kind = match opcode {
        0x08 | 0x09 => Kind::Or(register()?),
        0x20 | 0x21 => Kind::And(register()?),
        0x30 | 0x31 => Kind::Xor(register()?),
        0x80 | 0x81 | 0x83 => {
            let constant = code.constant(if opcode == 0x81 { 4 } else { 1 })?;
            match reg {
                1 => Kind::Or(constant),
                4 => Kind::And(constant),
                6 => Kind::Xor(constant),
                _ => return None,
            }
        }
        0x86 | 0x87 => Kind::Exchange(prefixes.register(reg, width)?),
        0x88 | 0x89 => Kind::Move(register()?),
        0xc6 | 0xc7 if reg == 0 => Kind::Move(code.constant(width.min(4))?),
        _ => return None,
    };
    Some((kind, width))
}

fn two_bytes(code: &mut Code<'_>, prefixes: &Prefixes, opcode: u8) -> Option<(Kind, u8)> {
    let reg = code.operand()?;
    // These have no form of one byte, but for cmpxchg.
    let width = prefixes.width(if opcode == 0xb0 { 0 } else { 1 });
    let register = prefixes.register(reg, width)?;
    let kind = match opcode {
        0xab => Kind::SetBit(Source::Register(register)),
        0xb3 => Kind::ClearBit(Source::Register(register)),
        0xbb => Kind::FlipBit(Source::Register(register)),
        0xb0 | 0xb1 => Kind::CompareExchange(register),
        0xba => {
            let bit = code.constant(1)?;
            match reg {
                5 => Kind::SetBit(bit),
                6 => Kind::ClearBit(bit),
                7 => Kind::FlipBit(bit),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some((kind, width))
}
