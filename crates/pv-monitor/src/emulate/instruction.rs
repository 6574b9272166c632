//! The instructions that are emulated, decoded.

/// Where a port's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// In the instruction.
    Number(u8),
    /// In dx.
    Dx,
}

/// A segment whose base counts in 64-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// fs.
    Fs,
    /// gs.
    Gs,
}

/// The address of an operand in memory: the sum of its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// The segment whose base is added.
    pub segment: Option<Segment>,
    /// A register.
    pub base: Option<u8>,
    /// A register, and by how many bits it is shifted.
    pub index: Option<(u8, u8)>,
    /// rip behind the instruction is added.
    pub after_instruction: bool,
    /// A constant.
    pub displacement: i32,
    /// Only the lower 32 bits of the sum (but for the segment) count.
    pub short: bool,
}

/// An instruction. Registers are numbered as the processor does: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `cpuid`.
    Cpuid,
    /// `rdmsr`.
    ReadMsr,
    /// `wrmsr`.
    WriteMsr,
    /// `rdtsc`.
    ReadTsc,
    /// `rdtscp`.
    ReadTscAux,
    /// `mov %cr,%reg`.
    FromControl {
        /// The control register.
        control: u8,
        /// The general one.
        register: u8,
    },
    /// `mov %reg,%cr`.
    ToControl {
        /// The control register.
        control: u8,
        /// The general one.
        register: u8,
    },
    /// `mov %dr,%reg`.
    FromDebug {
        /// The debug register.
        debug: u8,
        /// The general one.
        register: u8,
    },
    /// `mov %reg,%dr`.
    ToDebug {
        /// The debug register.
        debug: u8,
        /// The general one.
        register: u8,
    },
    /// `clts`.
    ClearTaskSwitched,
    /// `lmsw` of a register.
    LoadStatus {
        /// Which.
        register: u8,
    },
    /// `hlt`.
    Halt,
    /// `cli`, `sti`.
    InterruptFlag,
    /// `in`.
    In {
        /// From where.
        port: Port,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// `out`.
    Out {
        /// To where.
        port: Port,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// `swapgs`.
    SwapGs,
    /// `xsetbv`.
    SetXcr,
    /// `invlpg`.
    InvalidatePage(Address),
    /// `wbinvd`, `invd`.
    Caches,
    /// `mov` to ss.
    LoadStack,
    /// `iretq`.
    InterruptReturn,
    /// `lret`.
    FarReturn {
        /// Bytes of each of the two words on the stack: 4 or 8.
        size: u8,
        /// Bytes dropped behind them.
        dropped: u16,
    },
}

impl Instruction {
    /// Whether it uses a port.
    #[must_use]
    pub const fn is_of_ports(&self) -> bool {
        matches!(self, Self::In { .. } | Self::Out { .. })
    }
}

/// An instruction, and how long it is in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What.
    pub instruction: Instruction,
    /// At most [`super::decode::LONGEST`].
    pub length: usize,
    /// It came with the prefix that asks for emulation.
    pub forced: bool,
}
