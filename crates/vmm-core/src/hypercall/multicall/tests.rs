use cantle_abi::sched::SCHEDOP_block;
use cantle_abi::xen::{__HYPERVISOR_multicall, __HYPERVISOR_sched_op, __HYPERVISOR_xen_version};

use super::*;
use crate::test_utils::{ARGS, Harness, MEMORY};

fn entry(op: u32, args: [u64; 2]) -> MulticallEntry {
    MulticallEntry {
        op: op.into(),
        result: 99,
        args: [args[0], args[1], 0, 0, 0, 0],
    }
}

fn call(h: &Harness, at: u64, count: u64) -> i64 {
    h.call(0, __HYPERVISOR_multicall, &[at, count])
}

#[test]
fn kvm_each_call_has_its_own_result_and_none_is_a_list_of_calls() {
    let Some(h) = Harness::new() else { return };
    let calls = [
        entry(__HYPERVISOR_xen_version, [0, 0]),
        entry(__HYPERVISOR_multicall, [ARGS, 1]),
        entry(63, [0, 0]),
        entry(__HYPERVISOR_xen_version, [6, MEMORY]),
    ];
    for (n, call) in (0..).zip(&calls) {
        h.put(ARGS + n * 64, call);
    }
    assert_eq!(call(&h, ARGS, 4), 0);
    let results: Vec<i64> = (0..4)
        .map(|n| h.get::<MulticallEntry>(ARGS + n * 64).result)
        .collect();
    let [einval, enosys, efault] = [Errno::EINVAL, Errno::ENOSYS, Errno::EFAULT].map(Errno::to_ret);
    assert_eq!(results, [4 << 16 | 17, einval, enosys, efault]);
    assert_eq!(h.unknown_hypercalls()[&63], 1);
}

#[test]
fn kvm_lists_of_calls_are_bounded_and_lie_in_memory() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(call(&h, ARGS, 0), 0);
    assert_eq!(call(&h, ARGS, u64::from(MOST) + 1), Errno::E2BIG.to_ret());
    assert_eq!(call(&h, MEMORY - 32, 1), Errno::EFAULT.to_ret());
}

#[test]
fn kvm_many_waits_are_not_one_long_one() {
    let Some(h) = Harness::new() else { return };
    let wait = entry(__HYPERVISOR_sched_op, [SCHEDOP_block.into(), 0]);
    for n in 0..u64::from(MOST) {
        h.put(0x80_0000 + n * 64, &wait);
    }
    let began = Instant::now();
    assert_eq!(call(&h, 0x80_0000, MOST.into()), 0);
    assert!(began.elapsed() < LONGEST_CALL * 4, "{:?}", began.elapsed());
    let last: MulticallEntry = h.get(0x80_0000 + u64::from(MOST - 1) * 64);
    assert_eq!(last.result, Errno::EBUSY.to_ret());
}
