//! What iret makes of the kernel's frame.

use cantle_abi::xen::VcpuInfo;

use super::*;
use crate::fake::{Fake, PAGE, vcpu_with};

fn frame(machine: &mut Fake, words: [u64; 9]) -> Regs {
    machine.write(PAGE, words.as_bytes()).unwrap();
    Regs {
        rsp: PAGE,
        rcx: 0xaaaa,
        r11: 0xbbbb,
        ..Regs::default()
    }
}

#[test]
fn a_system_call_ends_in_its_program() {
    let mut machine = Fake::new();
    let mut info = VcpuInfo::new_zeroed();
    let mut vcpu = vcpu_with(&mut info);
    vcpu.user_l4 = 6;
    vcpu.set_masked(true);
    let mut regs = frame(
        &mut machine,
        [
            1,
            2,
            3,
            VGCF_in_syscall,
            0x40_0000,
            0x33,
            IF | 0x3000,
            0x7000,
            0x2b,
        ],
    );
    assert_eq!(iret(&mut machine, &mut vcpu, &mut regs), Next::Resume);
    assert_eq!((regs.rax, regs.rip, regs.rsp), (1, 0x40_0000, 0x7000));
    assert_eq!((regs.cs, regs.ss), (0x33, 0x2b));
    assert_eq!(regs.rflags, IF | 2, "no IOPL");
    assert_eq!((regs.rcx, regs.r11), (regs.rip, regs.rflags));
    assert!(!vcpu.in_kernel && !vcpu.is_masked());
    assert_eq!((machine.swaps, &*machine.tables), (1, &[6][..]));
    assert!(fits_sysret(&vcpu, &regs));

    for (what, changed) in [
        ("cs", Regs { cs: 0x23, ..regs }),
        ("ss", Regs { ss: 0, ..regs }),
        (
            "rip",
            Regs {
                rip: 1 << 47,
                ..regs
            },
        ),
        (
            "TF",
            Regs {
                rflags: regs.rflags | 1 << 8,
                ..regs
            },
        ),
        (
            "how",
            Regs {
                vector: Regs::IRET,
                ..regs
            },
        ),
    ] {
        assert!(!fits_sysret(&vcpu, &changed), "{what}");
    }
    vcpu.in_kernel = true;
    assert!(!fits_sysret(&vcpu, &regs));
}

#[test]
fn programs_share_the_kernels_tables_where_the_host_says_so() {
    let mut machine = Fake::new();
    let mut vcpu = Vcpu::new(0);
    vcpu.one_address_space = true;
    vcpu.user_l4 = 6;
    let mut regs = frame(&mut machine, [0, 0, 0, 0, 0, 0x33, 0, 0, 0x2b]);
    assert_eq!(iret(&mut machine, &mut vcpu, &mut regs), Next::Resume);
    assert_eq!(machine.swaps, 1);
    assert!(machine.tables.is_empty());
}

#[test]
fn an_exception_in_the_kernel_ends_there_and_masks_as_it_was() {
    let mut machine = Fake::new();
    let mut info = VcpuInfo::new_zeroed();
    let mut vcpu = vcpu_with(&mut info);
    let rip = 0xffff_ffff_8100_0000;
    let mut regs = frame(
        &mut machine,
        [1, 2, 3, 0, rip, 0x1_0000_e030, 2, PAGE + 0x800, 0xe02b],
    );
    assert_eq!(iret(&mut machine, &mut vcpu, &mut regs), Next::Resume);
    assert_eq!((regs.rax, regs.r11, regs.rcx), (1, 2, 3));
    assert_eq!((regs.cs, regs.ss), (0xe031, 0xe039));
    assert_eq!(regs.rflags, IF | 2, "the processor's own IF is always set");
    assert!(vcpu.in_kernel && vcpu.is_masked());
    assert_eq!(machine.swaps, 0);
}

#[test]
fn the_flat_selector_of_a_program_is_not_the_kernels_segment() {
    let mut machine = Fake::new();
    let mut vcpu = Vcpu::new(0);
    let mut regs = frame(&mut machine, [0, 0, 0, 0, 0, 0xe033, 0, 0, 0xe02b]);
    assert_eq!(iret(&mut machine, &mut vcpu, &mut regs), Next::Resume);
    assert_eq!(regs.cs, 0xe053);
}

#[test]
fn a_stack_that_cannot_be_read_is_the_end() {
    let mut machine = Fake::new();
    let mut vcpu = Vcpu::new(0);
    let mut regs = Regs {
        rsp: PAGE + 4096 - 64,
        ..Regs::default()
    };
    assert!(matches!(
        iret(&mut machine, &mut vcpu, &mut regs),
        Next::Crash(_)
    ));
}
