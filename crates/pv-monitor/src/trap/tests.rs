//! Exceptions and system calls, and what becomes of them.

use cantle_abi::xen::VcpuInfo;
use zerocopy::FromZeros;

use super::*;
use crate::fake::{Fake, PAGE, vcpu_with};
use crate::interface::WINDOWS;

const HANDLER: u64 = 0xffff_ffff_8100_0000;

fn at(vector: u32, error: u32) -> Regs {
    Regs {
        vector,
        error,
        rip: 0x1000,
        rsp: PAGE + 0x800,
        ..Regs::default()
    }
}

#[test]
fn a_page_fault_tells_its_address() {
    let mut machine = Fake::new();
    machine.fault_address = 0x1234_5678;
    let mut info = VcpuInfo::new_zeroed();
    let mut vcpu = vcpu_with(&mut info);
    let next = exception(&mut machine, &mut vcpu, &mut at(14, 6));
    assert_eq!(next, Next::Raise(14, Some(6)));
    assert_eq!(info_address(&info), 0x1234_5678);
}

fn info_address(info: &VcpuInfo) -> u64 {
    core::hint::black_box(info).cr2
}

#[test]
fn a_selector_beyond_the_tables_is_a_protection_fault() {
    let mut machine = Fake::new();
    let mut vcpu = Vcpu::new(1);
    let window = WINDOWS + WINDOW_SIZE;
    for (offset, selector) in [(0x3028, 0x3028), (0x302c, 0x3028), (0x1_0018, 0x1c)] {
        machine.fault_address = window + offset;
        let next = exception(&mut machine, &mut vcpu, &mut at(14, 0));
        assert_eq!(next, Next::Raise(13, Some(selector)), "{offset:#x}");
    }
    machine.fault_address = window + 0x3028;
    let next = exception(&mut machine, &mut vcpu, &mut at(14, 4));
    assert_eq!(
        next,
        Next::Raise(14, Some(4)),
        "a program that tries to read it"
    );
}

#[test]
fn int_n_goes_where_the_guests_table_lets_it() {
    let mut machine = Fake::new();
    let mut vcpu = Vcpu::new(0);
    vcpu.traps[0x82].address = HANDLER;
    let error = 0x82 << 3 | 2;
    for (dpl, in_kernel, allowed) in [
        (3, false, true),
        (1, false, false),
        (1, true, true),
        (0, true, false),
    ] {
        vcpu.traps[0x82].dpl = dpl;
        vcpu.in_kernel = in_kernel;
        let mut regs = at(13, error);
        let next = exception(&mut machine, &mut vcpu, &mut regs);
        if allowed {
            assert_eq!((next, regs.rip), (Next::Raise(0x82, None), 0x1002));
        } else {
            assert_eq!((next, regs.rip), (Next::Raise(13, Some(error)), 0x1000));
        }
    }
}

#[test]
fn int_80_without_a_handler_is_a_protection_fault_at_the_instruction() {
    let mut vcpu = Vcpu::new(0);
    vcpu.in_kernel = false;
    let mut regs = at(0x80, 0);
    regs.rip = 0x1002;
    assert_eq!(int80(&vcpu, &mut regs), Next::Raise(13, Some(0x402)));
    assert_eq!(regs.rip, 0x1000);
    vcpu.traps[0x80].address = HANDLER;
    vcpu.traps[0x80].dpl = 3;
    regs.rip = 0x1002;
    assert_eq!(int80(&vcpu, &mut regs), Next::Raise(0x80, None));
    assert_eq!(regs.rip, 0x1002);
}

#[test]
fn the_fpu_is_the_guests_again_when_it_is_told() {
    let mut machine = Fake::new();
    let mut vcpu = Vcpu::new(0);
    vcpu.cr0 = 8;
    let next = exception(&mut machine, &mut vcpu, &mut at(7, 0));
    assert_eq!(next, Next::Raise(7, None));
    assert!(!machine.task_switched);
    assert_eq!(vcpu.cr0, 0);
}

#[test]
fn a_debug_exception_keeps_its_status_for_the_guest() {
    let mut machine = Fake::new();
    machine.debug_status = 0x4001;
    let mut vcpu = Vcpu::new(0);
    let next = exception(&mut machine, &mut vcpu, &mut at(1, 0));
    assert_eq!(next, Next::Raise(1, None));
    assert_eq!(vcpu.debug[6], 0x4001);
}

#[test]
fn system_calls_go_each_to_its_callback() {
    for (vector, cs) in [
        (Regs::SYSCALL, 0x33),
        (Regs::SYSCALL32, 0x23),
        (Regs::SYSENTER, 0x23),
    ] {
        let mut machine = Fake::new();
        let mut vcpu = Vcpu::new(0);
        vcpu.in_kernel = false;
        vcpu.kernel_sp = PAGE + 0x800;
        vcpu.syscall.address = HANDLER;
        vcpu.syscall32.address = HANDLER + 1;
        vcpu.sysenter.address = HANDLER + 2;
        let mut regs = at(vector, 0);
        (regs.cs, regs.ss) = (cs, 0x2b);
        system_call(&mut machine, &mut vcpu, &mut regs).unwrap();
        assert_eq!(regs.rip, HANDLER + u64::from(vector - Regs::SYSCALL));
        assert_eq!(machine.words::<4>(regs.rsp)[3] & 0xffff, cs);
    }
}

#[test]
fn a_system_call_that_the_kernel_does_not_know_is_no_instruction() {
    for (vector, exception, rip) in [
        (Regs::SYSCALL, 6, 0x0ffe),
        (Regs::SYSCALL32, 6, 0x0ffe),
        (Regs::SYSENTER, 13, 0x1000),
    ] {
        let mut machine = Fake::new();
        let mut vcpu = Vcpu::new(0);
        vcpu.in_kernel = false;
        vcpu.kernel_sp = PAGE + 0x800;
        vcpu.traps[6].address = HANDLER + 6;
        vcpu.traps[13].address = HANDLER + 13;
        let mut regs = at(vector, 0);
        system_call(&mut machine, &mut vcpu, &mut regs).unwrap();
        assert_eq!(regs.rip, HANDLER + exception);
        let words = machine.words::<4>(regs.rsp);
        assert!(words.contains(&rip), "{words:x?}");
    }
}

#[test]
fn a_return_that_fails_is_told_to_the_failsafe_callback() {
    let mut machine = Fake::new();
    let mut vcpu = Vcpu::new(0);
    vcpu.in_kernel = false;
    vcpu.kernel_sp = PAGE + 0x800;
    vcpu.failsafe.address = HANDLER;
    let mut regs = at(13, 0x40);
    failed_return(&mut machine, &mut vcpu, &mut regs).unwrap();
    assert_eq!(regs.rip, HANDLER);
    assert_eq!(machine.words::<6>(regs.rsp)[2..], [0xd5, 0xe5, 0xf5, 0x65]);

    vcpu.failsafe.address = 0;
    vcpu.in_kernel = false;
    assert_eq!(
        failed_return(&mut machine, &mut vcpu, &mut at(13, 0)),
        Err(CannotEnter::NoHandler)
    );
}
