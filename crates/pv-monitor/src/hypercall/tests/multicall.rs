use super::*;
use crate::hardware::{Flush, VcpuSet};
use cantle_abi::mmu::MMUEXT_TLB_FLUSH_LOCAL;

fn entry(op: u64, args: [u64; 6]) -> MulticallEntry {
    MulticallEntry {
        op,
        result: 0x5555,
        args,
    }
}

fn multicall(guest: &mut Guest, list: &[MulticallEntry]) -> (i64, Vec<i64>) {
    guest.put(PAGE, list);
    let result = guest.call(__HYPERVISOR_multicall, [PAGE, list.len() as u64, 0, 0, 0]);
    let results = (0..list.len() as u64)
        .map(|index| guest.read_u64(PAGE + index * 64 + 8).cast_signed())
        .collect();
    (result, results)
}

#[test]
fn each_call_has_a_result_of_its_own() {
    let mut guest = Guest::new();
    guest.machine.answer = 77;
    guest.put(PAGE + 0x1000, &[u64::from(MMUEXT_TLB_FLUSH_LOCAL), 0, 0]);
    let (result, results) = multicall(
        &mut guest,
        &[
            entry(u64::from(__HYPERVISOR_fpu_taskswitch), [1, 0, 0, 0, 0, 0]),
            entry(
                u64::from(__HYPERVISOR_stack_switch),
                [0, 1 << 47, 0, 0, 0, 0],
            ),
            entry(
                u64::from(__HYPERVISOR_mmuext_op),
                [PAGE + 0x1000, 1, 0, SELF, 0, 0],
            ),
            entry(u64::from(__HYPERVISOR_memory_op), [1, 2, 3, 4, 5, 6]),
            entry(u64::MAX, [0; 6]),
        ],
    );
    assert_eq!(result, 0);
    let wanted = [0, error(Errno::EINVAL), 0, 77, error(Errno::ENOSYS)];
    assert_eq!(results, wanted);
    assert_eq!(
        guest.asked(),
        [
            Asked::SetTaskSwitched(true),
            Asked::Flush(VcpuSet::of(0), Flush::All),
            Asked::Forward(__HYPERVISOR_memory_op, [1, 2, 3, 4, 5]),
        ]
    );
}

/// XSA-213: `iret` in a multicall changed the mode under the calls behind it.
#[test]
fn xsa_213_neither_a_multicall_nor_iret_is_in_a_multicall() {
    let mut guest = Guest::new();
    let (result, results) = multicall(
        &mut guest,
        &[
            entry(u64::from(__HYPERVISOR_multicall), [PAGE, 2, 0, 0, 0, 0]),
            entry(u64::from(__HYPERVISOR_iret), [0; 6]),
        ],
    );
    assert_eq!(result, 0);
    assert_eq!(results, [error(Errno::EINVAL), error(Errno::ENOSYS)]);
}

#[test]
fn a_list_that_ends_in_nothing_is_done_so_far() {
    let mut guest = Guest::new();
    let start = PAGE + 0x2000 - 64;
    guest.put(
        start,
        &entry(u64::from(__HYPERVISOR_fpu_taskswitch), [1; 6]),
    );
    let result = guest.call(__HYPERVISOR_multicall, [start, 2, 0, 0, 0]);
    assert_eq!(result, error(Errno::EFAULT));
    assert_eq!(guest.asked(), [Asked::SetTaskSwitched(true)]);
    assert_eq!(guest.read_u64(start + 8), 0);
}

#[test]
fn a_result_that_cannot_be_written_ends_it() {
    let mut guest = Guest::new();
    let call = entry(u64::from(__HYPERVISOR_fpu_taskswitch), [1; 6]);
    guest.put(PAGE, &[call, call]);
    // Read-only from here on.
    let slot = guest.machine.map(PAGE, PAGE_MFN);
    guest.machine.put(slot, &[PAGE_MFN << 12 | 0x61]);
    let result = guest.call(__HYPERVISOR_multicall, [PAGE, 2, 0, 0, 0]);
    assert_eq!(result, error(Errno::EFAULT));
    assert_eq!(guest.asked(), [Asked::SetTaskSwitched(true)]);
}
