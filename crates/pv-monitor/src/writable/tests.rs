use super::*;
use crate::hardware::Memory;
use crate::test_utils::{Asked, L4, TestMachine};

/// An address of the kernel's, and one of a program's.
const KERNELS: u64 = 0xffff_8880_0012_3000;
const PROGRAMS: u64 = 0x7f00_0012_3000;
const WRITE: u32 = 0b0_0011;

/// A machine on which an address leads, read-only, to a frame; and where that is said.
fn mapped(address: u64) -> (TestMachine, Vcpu, u64, u64) {
    let mut machine = TestMachine::new();
    let frame = 150;
    let slot = machine.map(address, frame);
    let entry = machine.load(slot);
    machine.store(slot, entry & !WRITABLE);
    (machine, TestMachine::vcpu(), frame, slot)
}

#[test]
fn a_kernels_write_to_a_table_may_go_on() {
    let (mut machine, mut vcpu, frame, slot) = mapped(KERNELS);
    vcpu.in_kernel = true;
    assert!(!grant(&mut machine, &vcpu, KERNELS, WRITE), "no table yet");
    assert!(mark(&mut machine, frame));
    assert!(!mark(&mut machine, frame), "it is known");
    assert!(grant(&mut machine, &vcpu, KERNELS + 0x38, WRITE));
    assert_ne!(machine.load(slot) & WRITABLE, 0);
    assert_eq!(
        machine.take_asked(),
        [Asked::Flush(VcpuSet::of(0), Flush::Page(KERNELS + 0x38))]
    );
    // Another vCPU with an old translation.
    assert!(grant(&mut machine, &vcpu, KERNELS, WRITE));
    unmark(&mut machine, frame);
    assert!(!grant(&mut machine, &vcpu, KERNELS, WRITE));
}

#[test]
fn whatever_else_faults_is_the_kernels_to_hear_of() {
    let (mut machine, mut vcpu, frame, slot) = mapped(KERNELS);
    mark(&mut machine, frame);
    vcpu.in_kernel = true;
    for error in [0b00010, 0b00001, 0b00111, 0b01011, 0b10011] {
        assert!(!grant(&mut machine, &vcpu, KERNELS, error), "{error:#b}");
    }
    vcpu.in_kernel = false;
    assert!(!grant(&mut machine, &vcpu, KERNELS, WRITE));
    assert_eq!(machine.load(slot) & WRITABLE, 0);

    let (mut machine, mut vcpu, frame, slot) = mapped(PROGRAMS);
    mark(&mut machine, frame);
    vcpu.in_kernel = true;
    assert!(
        !grant(&mut machine, &vcpu, PROGRAMS, WRITE),
        "copy on write"
    );
    assert_eq!(machine.load(slot) & WRITABLE, 0);
}

#[test]
fn a_table_above_that_is_read_only_is_no_endless_loop() {
    let (mut machine, mut vcpu, frame, _) = mapped(KERNELS);
    mark(&mut machine, frame);
    vcpu.in_kernel = true;
    let top = (L4 << 12) + (KERNELS >> 36 & 0xff8);
    let entry = machine.load(top);
    machine.store(top, entry & !WRITABLE);
    assert!(!grant(&mut machine, &vcpu, KERNELS, WRITE));
}

#[test]
fn the_first_pin_tells_of_all_tables_of_the_kernels_half() {
    let (mut machine, _, frame, _) = mapped(KERNELS);
    machine.map(PROGRAMS, frame);
    mark_kernels(&mut machine, L4);
    let first = L4 + 1;
    for table in first..first + 3 {
        assert!(!mark(&mut machine, table), "{table} is known");
    }
    for other in [L4, frame] {
        assert!(mark(&mut machine, other), "{other} is no table below");
    }
    for table in first + 3..first + 6 {
        assert!(mark(&mut machine, table), "{table} is a program's");
    }
}

#[test]
fn a_frame_that_is_not_the_guests_has_no_mark() {
    let mut machine = TestMachine::new();
    for mfn in [0, 15, 128, 200, u64::MAX] {
        assert!(!mark(&mut machine, mfn));
        unmark(&mut machine, mfn);
    }
}
