use super::*;
use crate::hardware::VcpuSet;
use crate::start::{Start, apply};
use crate::test_utils::{HOLE, VCPUS};
use crate::vcpu::Trap;
use cantle_abi::physdev::*;
use cantle_abi::pv::*;
use cantle_abi::vcpu::*;
use zerocopy::FromZeros;

fn op(guest: &mut Guest, command: u32, vcpu: u64, argument: u64) -> i64 {
    guest.call(
        __HYPERVISOR_vcpu_op,
        [u64::from(command), vcpu, argument, 0, 0],
    )
}

/// What Linux gives of a second vCPU.
fn context() -> VcpuGuestContext {
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = VGCF_in_kernel;
    context.user_regs.rip = 0xffff_ffff_8100_0000;
    context.user_regs.rflags = 0x1000;
    context.user_regs.cs = 0x10;
    context.user_regs.ss = 0x18;
    context.user_regs.ds = 0x2b;
    context.user_regs.rsp = 0xffff_c900_0000_4000;
    context.kernel_sp = 0xffff_c900_0000_4000;
    context.gdt_frames[0] = 110;
    context.gdt_ents = 16;
    context.ctrlreg[3] = 120 << 12;
    context.event_callback_eip = 0xffff_ffff_8100_1000;
    context.trap_ctxt[0].address = 0xffff_ffff_8100_2000;
    context.trap_ctxt[0].flags = 7;
    context.gs_base_kernel = 0xffff_8880_3ea0_0000;
    context
}

fn initialise(guest: &mut Guest, vcpu: u64, context: &VcpuGuestContext) -> i64 {
    guest.put(PAGE, context);
    op(guest, VCPUOP_initialise, vcpu, PAGE)
}

#[test]
fn a_vcpu_is_initialised_with_tables_that_can_be_loaded() {
    let mut guest = Guest::new();
    guest
        .machine
        .put((110 << 12) + 16, &[0x00af_9b00_0000_ffff]);
    assert_eq!(initialise(&mut guest, 3, &context()), 0);
    assert_eq!(guest.asked(), [Asked::Initialise(3)]);
    assert_eq!(
        guest.word((120 << 12) + 261 * 8),
        guest.word((1 << 12) + 261 * 8)
    );
    assert_eq!(guest.word((110 << 12) + 16), 0x00af_bb00_0000_ffff);
    assert_eq!(guest.machine.window_entry(3, 0), 1 << 63 | 110 << 12 | 0x63);
    assert_eq!(guest.machine.window_entry(0, 0), 0);
}

#[test]
fn its_state_is_what_the_context_says() {
    let mut vcpu = Vcpu::new(3);
    vcpu.traps[9] = Trap {
        address: 1,
        ..Trap::default()
    };
    let mut context = context();
    context.ctrlreg[1] = 121 << 12;
    context.flags |= VGCF_syscall_disables_events;
    // IOPL, NT, VM and what is reserved do not come through; the carry does.
    context.user_regs.rflags = u64::MAX;
    let start = apply(&context, &mut vcpu);
    assert_eq!((vcpu.kernel_l4, vcpu.user_l4), (120, 121));
    assert_eq!(vcpu.traps[0].address, 0xffff_ffff_8100_2000);
    assert_eq!((vcpu.traps[0].dpl, vcpu.traps[0].masks_events), (3, true));
    assert_eq!(vcpu.traps[9].address, 0);
    assert!(vcpu.in_kernel && vcpu.event.masks_events && vcpu.syscall.masks_events);
    assert_eq!(vcpu.event.address, 0xffff_ffff_8100_1000);
    let regs = Regs {
        rip: 0xffff_ffff_8100_0000,
        cs: 0x10,
        ss: 0x18,
        rsp: 0xffff_c900_0000_4000,
        rflags: 0x25_0fd7,
        ..Regs::default()
    };
    assert_eq!(
        start,
        Start {
            regs,
            gs_base_kernel: 0xffff_8880_3ea0_0000,
            ds: 0x2b,
            ..Start::default()
        }
    );
}

#[test]
fn xsa_296_each_field_of_a_context_is_checked() {
    type Spoil = fn(&mut VcpuGuestContext);
    let break_one: [(&str, Spoil); 15] = [
        ("rip", |c| c.user_regs.rip = 1 << 47),
        ("rsp", |c| c.user_regs.rsp = 1 << 47),
        ("kernel_sp", |c| c.kernel_sp = 1 << 63),
        ("event", |c| c.event_callback_eip = 1 << 47),
        ("failsafe", |c| c.failsafe_callback_eip = 1 << 47),
        ("syscall", |c| c.syscall_callback_eip = 1 << 47),
        ("fs", |c| c.fs_base = 1 << 47),
        ("gs", |c| c.gs_base_kernel = 1 << 47),
        ("user gs", |c| c.gs_base_user = 1 << 47),
        ("trap", |c| c.trap_ctxt[255].address = 1 << 47),
        ("kernel table", |c| c.ctrlreg[3] = 1 << 12),
        ("user table", |c| c.ctrlreg[1] = HOLE.start << 12),
        ("gdt frame", |c| c.gdt_frames[0] = 2),
        ("gdt entries", |c| {
            c.gdt_frames = [110; 16];
            c.gdt_ents = 14 * 512 + 1;
        }),
        ("ldt", |c| c.ldt_ents = 1),
    ];
    for (what, spoil) in break_one {
        let mut guest = Guest::new();
        let mut bad = context();
        spoil(&mut bad);
        assert_eq!(
            initialise(&mut guest, 3, &bad),
            error(Errno::EINVAL),
            "{what}"
        );
        assert_eq!(guest.asked(), [], "{what}");
    }
}

#[test]
fn a_context_is_checked_before_anything_is_loaded() {
    let boot = TestMachine::new().boot;
    assert_eq!(crate::start::check(&context(), &boot), Ok(()));
    let mut bad = context();
    bad.ctrlreg[3] = 1 << 12;
    assert_eq!(crate::start::check(&bad, &boot), Err(Errno::EINVAL));
}

#[test]
fn a_vcpu_that_is_up_is_not_initialised() {
    let mut guest = Guest::new();
    guest.machine.up = VcpuSet(0b1001);
    assert_eq!(initialise(&mut guest, 3, &context()), error(Errno::EEXIST));
    assert_eq!(initialise(&mut guest, 0, &context()), error(Errno::EEXIST));
    assert_eq!(guest.machine.window_entry(3, 0), 0);
}

#[test]
fn vcpus_go_up_and_down() {
    let mut guest = Guest::new();
    assert_eq!(op(&mut guest, VCPUOP_is_up, 4, 0), 0);
    assert_eq!(op(&mut guest, VCPUOP_up, 4, 0), 0);
    assert_eq!(op(&mut guest, VCPUOP_is_up, 4, 0), 1);
    assert_eq!(op(&mut guest, VCPUOP_down, 4, 0), 0);
    assert_eq!(guest.asked(), [Asked::Up(4), Asked::Down(4)]);
    for vcpu in [u64::from(VCPUS), u64::from(u32::MAX), 1 << 32] {
        for command in [VCPUOP_initialise, VCPUOP_up, VCPUOP_down, VCPUOP_is_up] {
            assert_eq!(op(&mut guest, command, vcpu, PAGE), error(Errno::ENOENT));
        }
    }
}

fn place(guest: &mut Guest, vcpu: u64, mfn: u64, offset: u32) -> i64 {
    guest.put(
        PAGE,
        &VcpuRegisterVcpuInfo {
            mfn,
            offset,
            rsvd: 0,
        },
    );
    op(guest, VCPUOP_register_vcpu_info, vcpu, PAGE)
}

#[test]
fn a_vcpu_info_is_taken_over_once_the_host_has_it() {
    let mut guest = Guest::new();
    assert_eq!(place(&mut guest, 5, 111, 0xfc0), 0);
    let forwarded = Asked::Forward(
        __HYPERVISOR_vcpu_op,
        [u64::from(VCPUOP_register_vcpu_info), 5, PAGE, 0, 0],
    );
    assert_eq!(
        guest.asked(),
        [
            forwarded.clone(),
            Asked::VcpuInfoMoved(5, (111 << 12) + 0xfc0)
        ]
    );
    guest.machine.answer = Errno::EBUSY.to_ret().cast_unsigned();
    assert_eq!(place(&mut guest, 5, 111, 0xfc0), error(Errno::EBUSY));
    assert_eq!(guest.asked(), [forwarded]);
}

#[test]
fn a_vcpu_info_is_in_the_guests_memory_and_in_one_page() {
    let mut guest = Guest::new();
    guest.machine.up = VcpuSet(0b11);
    for (vcpu, mfn, offset) in [
        (0, 1, 0),
        (0, HOLE.start, 0),
        (0, 200, 0),
        (0, u64::MAX, 0),
        (0, 111, 0xfc8),
        (0, 111, 4),
        (0, 111, u32::MAX),
        // Not its own, and up.
        (1, 111, 0),
    ] {
        assert_eq!(place(&mut guest, vcpu, mfn, offset), error(Errno::EINVAL));
    }
    assert_eq!(guest.asked(), []);
}

#[test]
fn the_rest_is_the_hosts() {
    let mut guest = Guest::new();
    for (number, arguments) in [
        (
            __HYPERVISOR_vcpu_op,
            [u64::from(VCPUOP_set_singleshot_timer), 0, PAGE, 0, 0],
        ),
        (__HYPERVISOR_sched_op, [0, 0, 0, 0, 0]),
        (__HYPERVISOR_sched_op, [2, PAGE, 0, 0, 0]),
        (__HYPERVISOR_physdev_op, [12, PAGE, 0, 0, 0]),
        (__HYPERVISOR_vm_assist, [0, 5, 0, 0, 0]),
    ] {
        guest.call(number, arguments);
        assert_eq!(guest.asked(), [Asked::Forward(number, arguments)]);
    }
}

#[test]
fn sleeping_is_the_monitors() {
    let mut guest = Guest::new();
    assert_eq!(guest.call(__HYPERVISOR_sched_op, [1, 0, 0, 0, 0]), 0);
    assert_eq!(guest.asked(), [Asked::Block]);
    assert_eq!(
        guest.call(__HYPERVISOR_sched_op, [1 << 32, 0, 0, 0, 0]),
        error(Errno::ENOSYS)
    );
}

#[test]
fn ports_are_asked_for() {
    let mut guest = Guest::new();
    let call = |guest: &mut Guest, command: u32| {
        guest.call(__HYPERVISOR_physdev_op, [u64::from(command), PAGE, 0, 0, 0])
    };
    guest.put(PAGE, &PhysdevSetIopl { iopl: 1 });
    assert_eq!(call(&mut guest, PHYSDEVOP_set_iopl), 0);
    assert_eq!(guest.vcpu.iopl, 1);
    for iopl in [4, 0x100, u32::MAX] {
        guest.put(PAGE, &PhysdevSetIopl { iopl });
        assert_eq!(call(&mut guest, PHYSDEVOP_set_iopl), error(Errno::EINVAL));
    }
    assert_eq!(guest.vcpu.iopl, 1);
    for (nr_ports, result) in [(0, 0), (65536, 0), (65537, error(Errno::EINVAL))] {
        let bitmap = NOWHERE;
        guest.put(
            PAGE,
            &PhysdevSetIobitmap {
                bitmap,
                nr_ports,
                pad: 0,
            },
        );
        assert_eq!(call(&mut guest, PHYSDEVOP_set_iobitmap), result);
    }
    let ports = guest.vcpu.ports;
    assert_eq!((ports.bitmap, ports.count), (NOWHERE, 65536));
}

#[test]
fn assists_are_on_anyway() {
    let mut guest = Guest::new();
    let mut call = |command, kind| guest.call(__HYPERVISOR_vm_assist, [command, kind, 0, 0, 0]);
    for kind in [0, 1, 2, 3, 4, 32] {
        assert_eq!(call(0, kind), 0);
        assert_eq!(call(1, kind), 0);
        assert_eq!(call(2, kind), error(Errno::ENOSYS));
    }
    for kind in [6, 31, 33, u64::MAX] {
        assert_eq!(call(0, kind), error(Errno::EINVAL));
    }
}
