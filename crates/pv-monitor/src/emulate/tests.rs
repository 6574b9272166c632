use super::*;
use crate::hardware::Memory;
use crate::test_utils::{Asked, L4, TestMachine};
use proptest::prelude::*;

mod msr;
mod ports;
mod returns;

const CODE: u64 = 0xffff_ffff_8100_0000;
const CODE_MFN: u64 = 100;
const STACK: u64 = 0xffff_c900_0000_0000;

struct Guest {
    machine: TestMachine,
    vcpu: Vcpu,
    regs: Regs,
}

impl Guest {
    fn new() -> Self {
        let mut machine = TestMachine::new();
        machine.map(CODE, CODE_MFN);
        machine.map(STACK, CODE_MFN + 1);
        let mut vcpu = TestMachine::vcpu();
        vcpu.cr0 = 0x8005_0033;
        vcpu.cr4 = 0x4_0620;
        // There is a handler: it hears of what there is not.
        vcpu.traps[13].address = CODE;
        Self {
            machine,
            vcpu,
            regs: Regs {
                vector: 13,
                rip: CODE,
                rsp: STACK + 0x800,
                rflags: 0x1_0202,
                ..Regs::default()
            },
        }
    }

    fn step(&mut self, code: &[u8]) -> Next {
        self.regs.rip = CODE;
        self.machine.write(CODE, code).unwrap();
        privileged(&mut self.machine, &mut self.vcpu, &mut self.regs)
    }

    /// An instruction that is emulated.
    fn run(&mut self, code: &[u8]) {
        assert_eq!(self.step(code), Next::Resume, "{code:x?}");
        assert_eq!(self.regs.rip, CODE + code.len() as u64);
        assert_eq!(self.regs.rflags, 0x202, "RF is over");
    }

    /// One that is not: nothing happens.
    fn fails(&mut self, code: &[u8]) {
        self.regs.rip = CODE;
        let before = self.regs;
        assert_eq!(self.step(code), Next::Raise(13, Some(0)), "{code:x?}");
        assert_eq!(self.regs, before);
        assert_eq!(self.machine.take_asked(), []);
    }
}

#[test]
fn a_program_is_emulated_for_nothing_but_a_forced_cpuid() {
    let mut guest = Guest::new();
    guest.vcpu.in_kernel = false;
    for code in [&[0x0f, 0x32][..], &[0xf4], &[0x0f, 0x06], &[0x0f, 0xa2]] {
        guest.fails(code);
    }
    guest.regs.vector = 6;
    guest.machine.cpuid = [1, 2, 3, 4];
    guest.run(&[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2]);
    assert_eq!(
        [
            guest.regs.rax,
            guest.regs.rbx,
            guest.regs.rcx,
            guest.regs.rdx
        ],
        [1, 2, 3, 4]
    );
}

#[test]
fn an_invalid_opcode_of_the_kernel_is_its_own() {
    let mut guest = Guest::new();
    guest.regs.vector = 6;
    // Something that would be emulated after #GP.
    assert_eq!(guest.step(&[0x0f, 0x06]), Next::Raise(6, None));
    assert_eq!(guest.step(&[0x0f, 0x0b]), Next::Raise(6, None));
}

#[test]
fn cpuid_hides_what_a_pv_kernel_cannot_have() {
    let mut guest = Guest::new();
    guest.regs.vector = 6;
    guest.machine.cpuid = [u32::MAX; 4];
    guest.regs.rax = 7;
    guest.regs.rcx = u64::MAX << 32;
    guest.run(&[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2]);
    assert_eq!(guest.regs.rbx & 1 << 20, 0, "SMAP");
    assert_eq!(guest.regs.rbx >> 32, 0);
}

#[test]
fn registers_by_number() {
    let mut regs = Regs::default();
    for number in 0..16 {
        registers::set(&mut regs, number, 100 + u64::from(number));
    }
    for number in 0..16 {
        assert_eq!(registers::get(&regs, number), 100 + u64::from(number));
    }
    let named = [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
    ];
    assert_eq!(named, [100, 101, 102, 103, 104, 105, 106, 107]);
    assert_eq!((regs.r8, regs.r15), (108, 115));
}

#[test]
fn control_registers_are_the_guests_view() {
    let mut guest = Guest::new();
    guest.run(&[0x0f, 0x20, 0xc0]); // mov %cr0,%rax
    assert_eq!(guest.regs.rax, 0x8005_0033);
    guest.run(&[0x0f, 0x20, 0xd9]); // mov %cr3,%rcx
    assert_eq!(guest.regs.rcx, L4 << 12);
    guest.run(&[0x41, 0x0f, 0x20, 0xe7]); // mov %cr4,%r15
    assert_eq!(guest.regs.r15, 0x4_0620);

    guest.regs.rax = 0x8005_003b;
    guest.run(&[0x0f, 0x22, 0xc0]);
    assert_eq!(guest.machine.take_asked(), [Asked::SetTaskSwitched(true)]);
    guest.run(&[0x0f, 0x06]); // clts
    assert_eq!(guest.vcpu.cr0, 0x8005_0033);
    guest.machine.take_asked();
    guest.regs.rax = 0x0005_0033; // without paging
    guest.fails(&[0x0f, 0x22, 0xc0]);
}

#[test]
fn cr4_changes_in_what_is_the_guests_alone() {
    let mut guest = Guest::new();
    guest.regs.rdi = u64::MAX;
    guest.run(&[0x0f, 0x22, 0xe7]);
    // No FSGSBASE: the processor has none.
    assert_eq!(guest.machine.take_asked(), [Asked::SetCr4(0xc)]);
    assert_eq!(guest.vcpu.cr4, 0x4_062c);
    guest.machine.cpuid = [0, 1, 0, 0];
    guest.run(&[0x0f, 0x22, 0xe7]);
    assert_eq!(guest.machine.take_asked(), [Asked::SetCr4(0x1_000c)]);
    guest.regs.rdi = 0;
    guest.run(&[0x0f, 0x22, 0xe7]);
    assert_eq!(guest.machine.take_asked(), [Asked::SetCr4(0)]);
    assert_eq!(guest.vcpu.cr4, 0x4_0620);
}

#[test]
fn tables_are_loaded_with_the_monitor_in_them() {
    let mut guest = Guest::new();
    guest.regs.rax = 120 << 12 | 0x18;
    guest.run(&[0x0f, 0x22, 0xd8]);
    assert_eq!(guest.machine.take_asked(), [Asked::LoadTables(120)]);
    assert_eq!(guest.vcpu.kernel_l4, 120);
    let mut guest = Guest::new();
    for table in [1 << 12, 128 << 12, u64::MAX] {
        guest.regs.rax = table;
        guest.fails(&[0x0f, 0x22, 0xd8]);
    }
}

#[test]
fn halt_sleeps_behind_itself() {
    let mut guest = Guest::new();
    guest.run(&[0xf4]);
    assert_eq!(guest.machine.take_asked(), [Asked::Block]);
}

#[test]
fn one_page_is_forgotten() {
    let mut guest = Guest::new();
    guest.machine.msrs.insert(0xc000_0101, 0x1_0000_0000);
    guest.regs.rbx = 0x1000;
    guest.regs.rcx = 0x10;
    // invlpg %gs:0x8(%rbx,%rcx,8)
    guest.run(&[0x65, 0x0f, 0x01, 0x7c, 0xcb, 0x08]);
    // invlpg 0x100(%rip)
    guest.run(&[0x0f, 0x01, 0x3d, 0, 1, 0, 0]);
    let own = VcpuSet::of(0);
    assert_eq!(
        guest.machine.take_asked(),
        [
            Asked::Flush(own, Flush::Page(0x1_0000_1088)),
            Asked::Flush(own, Flush::Page(CODE + 0x107))
        ]
    );
}

#[test]
fn an_instruction_may_end_with_its_page() {
    let mut guest = Guest::new();
    let last = CODE + 0xffe;
    guest.machine.write(last, &[0x0f, 0x06]).unwrap();
    guest.regs.rip = last;
    let next = privileged(&mut guest.machine, &mut guest.vcpu, &mut guest.regs);
    assert_eq!((next, guest.regs.rip), (Next::Resume, CODE + 0x1000));
    // One byte less of it: the rest is not there.
    guest.machine.write(CODE + 0xfff, &[0x0f]).unwrap();
    guest.regs.rip = CODE + 0xfff;
    let next = privileged(&mut guest.machine, &mut guest.vcpu, &mut guest.regs);
    assert_eq!(next, Next::Raise(13, Some(0)));
}

proptest! {
    #[test]
    fn no_instruction_is_too_odd(
        code in prop::collection::vec(any::<u8>(), 15),
        opcode in prop::sample::select(std::vec![0x20_u8, 0x21, 0x22, 0x23, 0x01, 0x30, 0x32, 0x06, 0x31]),
        two in any::<bool>(),
        registers in prop::array::uniform4(any::<u64>()),
    ) {
        let mut guest = Guest::new();
        guest.vcpu.iopl = 1;
        let mut code = code;
        if two {
            code[0] = 0x0f;
            code[1] = opcode;
        }
        [guest.regs.rax, guest.regs.rcx, guest.regs.rdx, guest.regs.rsp] = registers;
        let next = guest.step(&code);
        prop_assert!(matches!(next, Next::Resume | Next::Raise(13, Some(0))));
        prop_assert!(guest.regs.rip == CODE || next == Next::Resume);
    }
}
