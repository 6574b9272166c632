use super::*;
use crate::vcpu::{Callback, Trap};
use cantle_abi::callback::*;
use cantle_abi::pv::TrapInfo;

const HANDLER: u64 = 0xffff_ffff_8100_0000;
const NO_ADDRESS: u64 = 1 << 47;

fn trap(vector: u8, flags: u8, address: u64) -> TrapInfo {
    TrapInfo {
        vector,
        flags,
        cs: 0x10,
        pad: 0,
        address,
    }
}

#[test]
fn traps_are_set_up_to_the_first_without_an_address() {
    let mut guest = Guest::new();
    let list = [
        trap(14, 4, HANDLER),
        trap(3, 3, HANDLER + 16),
        trap(0, 0, 0),
        trap(13, 0, HANDLER),
    ];
    guest.put(PAGE, &list);
    assert_eq!(
        guest.call(__HYPERVISOR_set_trap_table, [PAGE, 0, 0, 0, 0]),
        0
    );
    assert_eq!(
        guest.vcpu.traps[14],
        Trap {
            address: HANDLER,
            cs: 0x10,
            dpl: 0,
            masks_events: true
        }
    );
    assert_eq!(guest.vcpu.traps[3].dpl, 3);
    assert!(!guest.vcpu.traps[3].masks_events);
    assert_eq!(guest.vcpu.traps[13], Trap::default());

    assert_eq!(guest.call(__HYPERVISOR_set_trap_table, [0; 5]), 0);
    assert_eq!(guest.vcpu.traps[14], Trap::default());
}

#[test]
fn traps_need_addresses_and_an_end() {
    let mut guest = Guest::new();
    guest.put(PAGE, &[trap(14, 4, NO_ADDRESS), trap(0, 0, 0)]);
    let result = guest.call(__HYPERVISOR_set_trap_table, [PAGE, 0, 0, 0, 0]);
    assert_eq!(result, error(Errno::EINVAL));
    assert_eq!(guest.vcpu.traps[14], Trap::default());

    // 512 in two pages, and then nothing.
    let endless = [trap(14, 4, HANDLER); 512];
    guest.put(PAGE, &endless);
    let result = guest.call(__HYPERVISOR_set_trap_table, [PAGE, 0, 0, 0, 0]);
    assert_eq!(result, error(Errno::EFAULT));
    for page in 2..4 {
        guest.machine.map(PAGE + page * 0x1000, PAGE_MFN);
    }
    let result = guest.call(__HYPERVISOR_set_trap_table, [PAGE, 0, 0, 0, 0]);
    assert_eq!(result, error(Errno::E2BIG));
}

#[test]
fn all_three_callbacks_are_set_or_none() {
    let mut guest = Guest::new();
    let call = |guest: &mut Guest, [a, b, c]: [u64; 3]| {
        guest.call(__HYPERVISOR_set_callbacks, [a, b, c, 0, 0])
    };
    let bad = call(&mut guest, [HANDLER, HANDLER, NO_ADDRESS]);
    assert_eq!(bad, error(Errno::EINVAL));
    assert_eq!(guest.vcpu.event, Callback::default());
    assert_eq!(call(&mut guest, [HANDLER, HANDLER + 1, HANDLER + 2]), 0);
    assert!(guest.vcpu.event.masks_events, "an upcall masks others");
    assert_eq!(guest.vcpu.failsafe.address, HANDLER + 1);
    assert_eq!(guest.vcpu.syscall.address, HANDLER + 2);
}

fn register(guest: &mut Guest, kind: u16, flags: u16, address: u64) -> i64 {
    guest.put(
        PAGE,
        &CallbackRegister {
            kind,
            flags,
            pad: 0,
            address,
        },
    );
    guest.call(__HYPERVISOR_callback_op, [0, PAGE, 0, 0, 0])
}

#[test]
fn callbacks_are_registered_by_their_kind() {
    let mut guest = Guest::new();
    for kind in [0, 1, 2, 3, 4, 5, 7] {
        assert_eq!(register(&mut guest, kind, 1, HANDLER + u64::from(kind)), 0);
    }
    let vcpu = &guest.vcpu;
    let set = |address, masks_events| Callback {
        address,
        masks_events,
    };
    assert_eq!(vcpu.event, set(HANDLER, true));
    assert_eq!(vcpu.failsafe, set(HANDLER + 1, true));
    assert_eq!(vcpu.syscall, set(HANDLER + 2, true));
    assert_eq!(vcpu.sysenter, set(HANDLER + 5, true));
    assert_eq!(vcpu.syscall32, set(HANDLER + 7, true));
    register(&mut guest, CALLBACKTYPE_syscall, 0, HANDLER);
    assert_eq!(guest.vcpu.syscall, set(HANDLER, false));
    for kind in [6, 8, u16::MAX] {
        assert_eq!(register(&mut guest, kind, 0, HANDLER), error(Errno::EINVAL));
    }
    assert_eq!(register(&mut guest, 2, 0, NO_ADDRESS), error(Errno::EINVAL));
}

#[test]
fn a_callback_is_taken_back_where_it_can_be_done_without() {
    let mut guest = Guest::new();
    register(&mut guest, CALLBACKTYPE_sysenter, 0, HANDLER);
    register(&mut guest, CALLBACKTYPE_event, 0, HANDLER);
    let take_back = |guest: &mut Guest, kind: u16| {
        guest.put(PAGE, &CallbackUnregister { kind, unused: 0 });
        guest.call(__HYPERVISOR_callback_op, [1, PAGE, 0, 0, 0])
    };
    assert_eq!(take_back(&mut guest, CALLBACKTYPE_sysenter), 0);
    assert_eq!(guest.vcpu.sysenter, Callback::default());
    assert_eq!(
        take_back(&mut guest, CALLBACKTYPE_event),
        error(Errno::EINVAL)
    );
    assert_eq!(guest.vcpu.event.address, HANDLER);
    let call = guest.call(__HYPERVISOR_callback_op, [2, PAGE, 0, 0, 0]);
    assert_eq!(call, error(Errno::ENOSYS));
    let call = guest.call(__HYPERVISOR_callback_op, [0, NOWHERE, 0, 0, 0]);
    assert_eq!(call, error(Errno::EFAULT));
}

#[test]
fn an_nmi_handler_may_be_set() {
    let mut guest = Guest::new();
    guest.put(PAGE, &[HANDLER, 0]);
    assert_eq!(guest.call(__HYPERVISOR_nmi_op, [0, PAGE, 0, 0, 0]), 0);
    assert_eq!(guest.call(__HYPERVISOR_nmi_op, [1, 0, 0, 0, 0]), 0);
    let call = guest.call(__HYPERVISOR_nmi_op, [0, NOWHERE, 0, 0, 0]);
    assert_eq!(call, error(Errno::EFAULT));
    assert_eq!(
        guest.call(__HYPERVISOR_nmi_op, [2, 0, 0, 0, 0]),
        error(Errno::ENOSYS)
    );
}

#[test]
fn the_kernels_stack_is_set() {
    let mut guest = Guest::new();
    let top = 0xffff_c900_0000_4000;
    assert_eq!(
        guest.call(__HYPERVISOR_stack_switch, [0x18, top, 0, 0, 0]),
        0
    );
    assert_eq!((guest.vcpu.kernel_ss, guest.vcpu.kernel_sp), (0x18, top));
    let call = guest.call(__HYPERVISOR_stack_switch, [0x18, NO_ADDRESS, 0, 0, 0]);
    assert_eq!(call, error(Errno::EINVAL));
    assert_eq!(guest.vcpu.kernel_sp, top);
}
