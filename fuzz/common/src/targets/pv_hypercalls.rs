//! The monitor of a hostile PV kernel: hypercalls and privileged instructions with any arguments, while the kernel writes over its page tables.
//!
//! The machine is the one of the monitor's tests: it asserts that the monitor writes nothing by frame but the guest's and the descriptor windows',
//! and loads no table without the monitor in it. What the kernel writes through tables of its own making is its affair.

use arbitrary::Arbitrary;
use cantle_abi::xen::__HYPERVISOR_xen_version;
use cantle_pv_monitor::emulate::privileged;
use cantle_pv_monitor::hardware::Memory;
use cantle_pv_monitor::hypercall::serve;
use cantle_pv_monitor::regs::Regs;
use cantle_pv_monitor::test_utils::{FIRST, L4, TestMachine};
use cantle_pv_monitor::vcpu::{Next, Vcpu};

use crate::input::{self, Odd};

/// A page for arguments, and its frame.
const PAGE: u64 = 0x40_0000;
const PAGE_MFN: u64 = 100;
/// `DOMID_SELF`.
const DOMID_SELF: u64 = 0x7ff0;

#[derive(Arbitrary, Debug)]
enum Action {
    /// A hypercall.
    Call(u8, [Argument; 5]),
    /// Words at the start of the page with the arguments.
    Put(Vec<Argument>),
    /// A list of calls there.
    Multicall(Vec<(u8, [Argument; 5])>),
    /// An instruction that has trapped, with three registers.
    Instruction([u8; 15], [Argument; 3], bool),
    /// The same, of those of two bytes.
    Privileged(u8, u8, [Argument; 3]),
    /// A word of its memory: tables, too.
    Scribble(u8, u16, Argument),
}

/// An argument as an attacker chooses it.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Argument {
    Odd(Odd),
    Page(u16),
    Myself,
    Frame(u8),
    /// An entry of a page table, or the machine address of a word.
    Machine(u8, u16),
    Any(u64),
}

impl Argument {
    fn value(self) -> u64 {
        match self {
            Self::Odd(odd) => odd.0,
            Self::Page(offset) => PAGE + u64::from(offset % 0x2000),
            Self::Myself => DOMID_SELF,
            Self::Frame(mfn) => u64::from(mfn),
            Self::Machine(mfn, bits) => (u64::from(mfn) << 12) + u64::from(bits & 0xfff),
            Self::Any(value) => value,
        }
    }
}

/// Runs one input.
///
/// # Panics
///
/// Where the machine's rules are broken, or a plain call does not work afterwards.
pub fn run(data: &[u8]) {
    let mut machine = TestMachine::new();
    machine.map(PAGE, PAGE_MFN);
    machine.map(PAGE + 0x1000, PAGE_MFN + 1);
    let mut vcpu = TestMachine::vcpu();
    for action in input::actions::<Action>(data) {
        act(&mut machine, &mut vcpu, action);
        machine.asked.clear();
    }
    let version = call(
        &mut machine,
        &mut vcpu,
        u64::from(__HYPERVISOR_xen_version),
        [0; 5],
    );
    assert_eq!(version, u64::from(machine.boot.xen_version));
}

fn call(machine: &mut TestMachine, vcpu: &mut Vcpu, rax: u64, arguments: [u64; 5]) -> u64 {
    let [rdi, rsi, rdx, r10, r8] = arguments;
    let mut regs = Regs {
        rax,
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        ..Regs::default()
    };
    assert_eq!(serve(machine, vcpu, &mut regs), Next::Resume);
    regs.rax
}

fn act(machine: &mut TestMachine, vcpu: &mut Vcpu, action: Action) {
    match action {
        Action::Call(number, arguments) => {
            let arguments = arguments.map(Argument::value);
            call(machine, vcpu, u64::from(number % 50), arguments);
        }
        Action::Put(words) => {
            for (at, word) in (PAGE..).step_by(8).zip(words) {
                // Where the guest has unmapped it, nothing is written.
                let _ = machine.write(at, &word.value().to_le_bytes());
            }
        }
        Action::Multicall(calls) => {
            let count = calls.len() as u64;
            for (at, (number, arguments)) in (PAGE..).step_by(64).zip(calls) {
                let _ = machine.write(at, &u64::from(number % 50).to_le_bytes());
                for (at, argument) in (at + 16..).step_by(8).zip(arguments) {
                    let _ = machine.write(at, &argument.value().to_le_bytes());
                }
            }
            call(machine, vcpu, 13, [PAGE, count, 0, 0, 0]);
        }
        Action::Instruction(code, registers, invalid) => {
            trap(
                machine,
                vcpu,
                &code,
                registers,
                if invalid { 6 } else { 13 },
            );
        }
        Action::Privileged(opcode, operand, registers) => {
            trap(machine, vcpu, &[0x0f, opcode, operand], registers, 13);
        }
        Action::Scribble(mfn, word, argument) => {
            let mfn = u64::from(mfn).clamp(FIRST, 127);
            let word = u64::from(word % 512);
            // The hypervisor's slots of a table that is in use would be unmapped for the machine as well.
            if mfn != L4 || !(256..272).contains(&word) {
                machine.put((mfn << 12) + word * 8, &[argument.value()]);
            }
        }
    }
}

fn trap(
    machine: &mut TestMachine,
    vcpu: &mut Vcpu,
    code: &[u8],
    [a, b, c]: [Argument; 3],
    vector: u32,
) {
    let rip = PAGE + 0x1ff8 - 15;
    let _ = machine.write(rip, code);
    let mut regs = Regs {
        rip,
        rax: a.value(),
        rcx: b.value(),
        rsp: c.value(),
        rdx: c.value(),
        vector,
        ..Regs::default()
    };
    let next = privileged(machine, vcpu, &mut regs);
    assert!(
        matches!(next, Next::Resume | Next::Raise(6 | 13, _)),
        "{next:?}"
    );
    assert!(next == Next::Resume || regs.rip == rip);
}
