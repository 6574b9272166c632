//! Frames as a guest's handlers take them apart.

use cantle_abi::xen::VcpuInfo;
use zerocopy::FromZeros;

use super::*;
use crate::fake::{Fake, PAGE, vcpu_with};

const HANDLER: Callback = Callback {
    address: 0xffff_ffff_8100_0000,
    masks_events: false,
};
/// TF, IOPL, NT, AC and CF.
const BUSY: u64 = IF | 1 | CLEARED | 2;

fn program() -> Regs {
    Regs {
        rcx: 0xc,
        r11: 0xb,
        rip: 0x40_1000,
        cs: 0x33,
        rflags: BUSY,
        rsp: 0x7ffe_1238,
        ss: 0x2b,
        ..Regs::default()
    }
}

#[test]
fn from_a_program_the_frame_is_on_the_kernels_stack() {
    let mut machine = Fake::new();
    let mut info = VcpuInfo::new_zeroed();
    let mut vcpu = vcpu_with(&mut info);
    vcpu.in_kernel = false;
    vcpu.kernel_sp = PAGE + 0x808;
    vcpu.kernel_l4 = 5;
    vcpu.user_l4 = 6;
    let mut regs = program();
    enter(
        &mut machine,
        &mut vcpu,
        &mut regs,
        HANDLER,
        Middle::Error(7),
    )
    .unwrap();

    assert_eq!(
        regs.rsp,
        PAGE + 0x800 - 64,
        "aligned to 16 before the frame"
    );
    assert_eq!(
        machine.words(regs.rsp),
        [0xc, 0xb, 7, 0x40_1000, 0x33, BUSY, 0x7ffe_1238, 0x2b]
    );
    assert_eq!(regs.rip, HANDLER.address);
    assert_eq!((regs.cs, regs.ss), (0xe031, 0xe039));
    assert_eq!(regs.rflags, IF | 2 | 1);
    assert!(vcpu.in_kernel);
    assert_eq!(machine.swaps, 1);
    assert_eq!(machine.tables, [5]);
    assert!(!vcpu.is_masked());
}

#[test]
fn from_the_kernel_the_frame_is_below_its_own_stack_and_says_ring_0() {
    let mut machine = Fake::new();
    let mut info = VcpuInfo::new_zeroed();
    info.evtchn_upcall_mask = 1;
    let mut vcpu = vcpu_with(&mut info);
    let mut regs = Regs {
        rip: 0xffff_ffff_8200_0000,
        cs: 0xe031,
        ss: 0xe039,
        rsp: PAGE + 0x48a,
        rflags: IF | 2,
        ..Regs::default()
    };
    enter(&mut machine, &mut vcpu, &mut regs, HANDLER, Middle::None).unwrap();
    assert_eq!(regs.rsp, PAGE + 0x480 - 56);
    assert_eq!(
        machine.words(regs.rsp),
        [
            0,
            0,
            0xffff_ffff_8200_0000,
            0x1_0000_e030,
            2,
            PAGE + 0x48a,
            0xe02b
        ],
        "the mask is in byte 4 of cs, and IF is its opposite"
    );
    assert_eq!(machine.swaps, 0);
    assert!(machine.tables.is_empty());
}

#[test]
fn the_failsafe_frame_has_the_data_segments_after_r11() {
    let mut machine = Fake::new();
    let mut info = VcpuInfo::new_zeroed();
    let mut vcpu = vcpu_with(&mut info);
    let mut regs = program();
    regs.rsp = PAGE + 0x400;
    let middle = Middle::Segments([1, 2, 3, 4]);
    enter(&mut machine, &mut vcpu, &mut regs, HANDLER, middle).unwrap();
    assert_eq!(
        machine.words::<7>(regs.rsp),
        [0xc, 0xb, 1, 2, 3, 4, 0x40_1000]
    );
}

#[test]
fn a_kernel_that_cannot_be_entered_is_said_so() {
    let mut machine = Fake::new();
    let mut vcpu = Vcpu::new(0);
    let mut regs = program();
    regs.rsp = PAGE + 0x10;
    let before = regs;
    for (address, why) in [
        (0, CannotEnter::NoHandler),
        (1 << 47, CannotEnter::NoHandler),
        (HANDLER.address, CannotEnter::NoStack),
    ] {
        let handler = Callback {
            address,
            masks_events: true,
        };
        let result = enter(&mut machine, &mut vcpu, &mut regs, handler, Middle::None);
        assert_eq!(result, Err(why));
        assert_eq!(regs, before);
    }
}

#[test]
fn an_exception_masks_events_where_its_trap_says_so() {
    for masks_events in [false, true] {
        let mut machine = Fake::new();
        let mut info = VcpuInfo::new_zeroed();
        let mut vcpu = vcpu_with(&mut info);
        vcpu.traps[14].address = HANDLER.address;
        vcpu.traps[14].masks_events = masks_events;
        let mut regs = program();
        regs.rsp = PAGE + 0x400;
        exception(&mut machine, &mut vcpu, &mut regs, 14, Some(2)).unwrap();
        assert_eq!(vcpu.is_masked(), masks_events);
        assert_eq!(machine.words::<3>(regs.rsp)[2], 2);
    }
}

#[test]
fn an_event_enters_when_it_is_pending_and_not_masked() {
    for (pending, masked, enters) in [(0, 0, false), (1, 1, false), (1, 0, true)] {
        let mut machine = Fake::new();
        let mut info = VcpuInfo::new_zeroed();
        info.evtchn_upcall_pending = pending;
        info.evtchn_upcall_mask = masked;
        let mut vcpu = vcpu_with(&mut info);
        vcpu.event.address = HANDLER.address;
        let mut regs = program();
        regs.rsp = PAGE + 0x400;
        pending_event(&mut machine, &mut vcpu, &mut regs).unwrap();
        assert_eq!(regs.rip == HANDLER.address, enters);
        assert_eq!(vcpu.is_masked(), enters || masked == 1);
    }
}
