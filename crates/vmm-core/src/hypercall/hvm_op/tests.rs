use cantle_abi::DomId;
use cantle_abi::xen::__HYPERVISOR_hvm_op;

use super::*;
use crate::boot::layout;
use crate::test_utils::{ARGS, Harness, MEMORY, VCPUS};

fn param(h: &Harness, cmd: u32, domid: DomId, index: u32, value: u64) -> (i64, u64) {
    let op = XenHvmParam {
        domid,
        pad: 0,
        index,
        value,
    };
    h.put(ARGS, &op);
    let ret = h.call(0, __HYPERVISOR_hvm_op, &[cmd.into(), ARGS]);
    (ret, h.get::<XenHvmParam>(ARGS).value)
}

#[test]
fn kvm_the_rings_parameters_are_read_and_not_changed() {
    let Some(h) = Harness::new() else { return };
    for (index, value) in [
        (HVM_PARAM_STORE_PFN, layout::STORE_GFN.0),
        (HVM_PARAM_CONSOLE_PFN, layout::CONSOLE_GFN.0),
        (HVM_PARAM_STORE_EVTCHN, 1),
        (HVM_PARAM_CONSOLE_EVTCHN, 2),
    ] {
        assert_eq!(
            param(&h, HVMOP_get_param, DomId::SELF, index, 0),
            (0, value)
        );
        assert_eq!(param(&h, HVMOP_set_param, DomId::SELF, index, value).0, 0);
        let changed = param(&h, HVMOP_set_param, DomId::SELF, index, value + 1).0;
        assert_eq!(changed, Errno::EPERM.to_ret());
        assert_eq!(
            param(&h, HVMOP_get_param, DomId::SELF, index, 0),
            (0, value)
        );
    }
}

#[test]
fn kvm_the_callback_is_the_guests_own_and_nothing_else_is() {
    let Some(h) = Harness::new() else { return };
    let callback = 1;
    let set = |domid, index| param(&h, HVMOP_set_param, domid, index, callback).0;
    for not_offered in [2 << 56 | 0xf3, 1 << 56, 9, u64::MAX] {
        let refused = param(
            &h,
            HVMOP_set_param,
            DomId::SELF,
            HVM_PARAM_CALLBACK_IRQ,
            not_offered,
        )
        .0;
        assert_eq!(refused, Errno::EOPNOTSUPP.to_ret());
    }
    assert_eq!(set(DomId::SELF, HVM_PARAM_CALLBACK_IRQ), 0);
    let get = |domid, index| param(&h, HVMOP_get_param, domid, index, 0);
    assert_eq!(get(DomId::SELF, HVM_PARAM_CALLBACK_IRQ), (0, callback));
    for index in [4, 5, 13, 38, 39, u32::MAX] {
        assert_eq!(set(DomId::SELF, index), Errno::EINVAL.to_ret());
    }
    assert_eq!(get(DomId::SELF, 39).0, Errno::EINVAL.to_ret());
    assert_eq!(get(DomId(0), 0).0, Errno::EPERM.to_ret());
    assert_eq!(set(DomId(2), 0), Errno::EPERM.to_ret());
}

fn vector(h: &Harness, vcpu: u32, vector: u8) -> i64 {
    let op = XenHvmEvtchnUpcallVector {
        vcpu,
        vector,
        pad: [0; 3],
    };
    h.put(ARGS, &op);
    let cmd = HVMOP_set_evtchn_upcall_vector.into();
    h.call(0, __HYPERVISOR_hvm_op, &[cmd, ARGS])
}

#[test]
fn kvm_vectors_are_no_exceptions_and_of_vcpus_that_are_there() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(vector(&h, 0, 0x10), 0);
    assert_eq!(vector(&h, VCPUS - 1, 0xff), 0);
    assert_eq!(vector(&h, 0, 0xf), Errno::EINVAL.to_ret());
    assert_eq!(vector(&h, VCPUS, 0xf3), Errno::ENOENT.to_ret());
    assert_eq!(vector(&h, u32::MAX, 0xf3), Errno::ENOENT.to_ret());
}

#[test]
fn kvm_time_tlbs_and_the_rest() {
    let Some(h) = Harness::new() else { return };
    let call = |cmd: u32, at| h.call(0, __HYPERVISOR_hvm_op, &[cmd.into(), at]);
    assert_eq!(call(HVMOP_get_time, ARGS), 0);
    let first: u64 = h.get(ARGS);
    assert_eq!(call(HVMOP_get_time, ARGS), 0);
    assert!(h.get::<u64>(ARGS) > first);
    assert_eq!(call(HVMOP_get_time, MEMORY), Errno::EFAULT.to_ret());
    assert_eq!(call(HVMOP_flush_tlbs, 0), 0);
    assert_eq!(call(HVMOP_flush_tlbs, ARGS), Errno::EINVAL.to_ret());
    assert_eq!(call(HVMOP_pagetable_dying, ARGS), 0);
    assert_eq!(call(15, ARGS), Errno::ENOSYS.to_ret());
    assert_eq!(h.unknown_hypercalls()[&__HYPERVISOR_hvm_op.into()], 1);
}
