use super::*;
use crate::hardware::{Flush, VcpuSet};
use crate::test_utils::{END, HOLE, L4, SPECIAL, VCPUS};
use cantle_abi::mmu::*;

const TABLE: u64 = 120;

fn ops(guest: &mut Guest, list: &[(u32, u64, u64)]) -> (i64, u32) {
    let words: Vec<u64> = list
        .iter()
        .flat_map(|&(cmd, arg1, arg2)| [u64::from(cmd), arg1, arg2])
        .collect();
    guest.put(PAGE, words.as_slice());
    let done = PAGE + 0x1000;
    let result = guest.call(
        __HYPERVISOR_mmuext_op,
        [PAGE, list.len() as u64, done, SELF, 0],
    );
    (result, guest.read_u32(done))
}

fn monitors_slots(guest: &Guest, mfn: u64) -> [u64; 3] {
    [256, 261, 262].map(|index| guest.word((mfn << 12) + index * 8))
}

#[test]
fn a_kernels_table_is_loaded_with_the_monitors_slots() {
    let mut guest = Guest::new();
    // Its kernel is in both.
    let kernel = guest.word(L4 << 12);
    guest.machine.put(TABLE << 12, &[kernel]);
    assert_eq!(ops(&mut guest, &[(MMUEXT_NEW_BASEPTR, TABLE, 0)]), (0, 1));
    assert_eq!(guest.vcpu.kernel_l4, TABLE);
    assert_eq!(guest.asked(), [Asked::LoadTables(TABLE)]);
    assert_eq!(monitors_slots(&guest, TABLE), monitors_slots(&guest, 1));
    assert_ne!(monitors_slots(&guest, TABLE)[0], 0);
}

#[test]
fn a_programs_table_is_kept_and_not_loaded() {
    let mut guest = Guest::new();
    assert_eq!(
        ops(&mut guest, &[(MMUEXT_NEW_USER_BASEPTR, TABLE, 0)]),
        (0, 1)
    );
    assert_eq!((guest.vcpu.kernel_l4, guest.vcpu.user_l4), (L4, TABLE));
    assert_eq!(monitors_slots(&guest, TABLE), monitors_slots(&guest, 1));
    assert_eq!(guest.asked(), []);
    assert_eq!(ops(&mut guest, &[(MMUEXT_NEW_USER_BASEPTR, 0, 0)]), (0, 1));
    assert_eq!(guest.vcpu.user_l4, 0);

    // Where programs run on the kernel's tables it is never loaded, and has no need of the monitor.
    guest.machine.boot.flags = crate::interface::FLAG_ONE_ADDRESS_SPACE;
    let other = TABLE + 1;
    assert_eq!(
        ops(&mut guest, &[(MMUEXT_NEW_USER_BASEPTR, other, 0)]),
        (0, 1)
    );
    assert_eq!(guest.vcpu.user_l4, other);
    assert_eq!(monitors_slots(&guest, other), [0; 3]);
    let result = ops(&mut guest, &[(MMUEXT_NEW_USER_BASEPTR, 1, 0)]);
    assert_eq!(result, (error(Errno::EINVAL), 0));
}

#[test]
fn pinning_checks_the_frame_alone() {
    let mut guest = Guest::new();
    for cmd in [
        MMUEXT_PIN_L1_TABLE,
        MMUEXT_PIN_L2_TABLE,
        MMUEXT_PIN_L3_TABLE,
        MMUEXT_PIN_L4_TABLE,
        MMUEXT_UNPIN_TABLE,
        MMUEXT_NEW_BASEPTR,
        MMUEXT_NEW_USER_BASEPTR,
        MMUEXT_CLEAR_PAGE,
    ] {
        for mfn in [1, 12, FIRST - 1, HOLE.start, END, SPECIAL.start, u64::MAX] {
            let result = ops(&mut guest, &[(cmd, mfn, 0)]);
            assert_eq!(result, (error(Errno::EINVAL), 0), "{cmd} of {mfn:#x}");
        }
    }
    for cmd in [
        MMUEXT_PIN_L1_TABLE,
        MMUEXT_PIN_L2_TABLE,
        MMUEXT_PIN_L3_TABLE,
        MMUEXT_UNPIN_TABLE,
    ] {
        assert_eq!(ops(&mut guest, &[(cmd, TABLE, 0)]), (0, 1));
        assert_eq!(monitors_slots(&guest, TABLE), [0; 3]);
    }
    assert_eq!(ops(&mut guest, &[(MMUEXT_PIN_L4_TABLE, TABLE, 0)]), (0, 1));
    assert_eq!(monitors_slots(&guest, TABLE), monitors_slots(&guest, 1));
}

#[test]
fn flushes_reach_those_that_are_meant() {
    let mut guest = Guest::new();
    guest.vcpu.id = 2;
    let mask = PAGE + 0x1100;
    guest.put(mask, &(u64::MAX ^ 1));
    let own = VcpuSet::of(2);
    let all = VcpuSet::all(VCPUS);
    let some = VcpuSet(all.0 ^ 1);
    let at = 0x1234_5000;
    for (op, wanted) in [
        ((MMUEXT_TLB_FLUSH_LOCAL, 0, 0), (own, Flush::All)),
        ((MMUEXT_INVLPG_LOCAL, at, 0), (own, Flush::Page(at))),
        ((MMUEXT_TLB_FLUSH_ALL, 0, 0), (all, Flush::All)),
        ((MMUEXT_INVLPG_ALL, at, 0), (all, Flush::Page(at))),
        ((MMUEXT_TLB_FLUSH_MULTI, 0, mask), (some, Flush::All)),
        ((MMUEXT_INVLPG_MULTI, at, mask), (some, Flush::Page(at))),
        ((MMUEXT_FLUSH_CACHE, 0, 0), (own, Flush::Caches)),
        ((MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0), (all, Flush::Caches)),
    ] {
        assert_eq!(ops(&mut guest, &[op]), (0, 1));
        assert_eq!(guest.asked(), [Asked::Flush(wanted.0, wanted.1)]);
    }
    let result = ops(&mut guest, &[(MMUEXT_TLB_FLUSH_MULTI, 0, NOWHERE)]);
    assert_eq!(result, (error(Errno::EFAULT), 0));
}

#[test]
fn pages_are_cleared_and_copied() {
    let mut guest = Guest::new();
    guest.machine.put(110 << 12, &[1, 2, 3]);
    guest.machine.put(111 << 12, &[9; 512]);
    assert_eq!(ops(&mut guest, &[(MMUEXT_COPY_PAGE, 111, 110)]), (0, 1));
    assert_eq!(guest.word((111 << 12) + 16), 3);
    assert_eq!(guest.word((111 << 12) + 24), 0);
    assert_eq!(ops(&mut guest, &[(MMUEXT_CLEAR_PAGE, 111, 0)]), (0, 1));
    assert_eq!(guest.word((111 << 12) + 16), 0);
    // The tables that are loaded hold the monitor.
    guest.vcpu.user_l4 = TABLE;
    for op in [
        (MMUEXT_CLEAR_PAGE, L4, 0),
        (MMUEXT_CLEAR_PAGE, TABLE, 0),
        (MMUEXT_COPY_PAGE, L4, 110),
        (MMUEXT_COPY_PAGE, 111, 1),
    ] {
        assert_eq!(ops(&mut guest, &[op]), (error(Errno::EINVAL), 0));
    }
}

#[test]
fn there_is_no_other_operation() {
    let mut guest = Guest::new();
    for (cmd, errno) in [
        (MMUEXT_MARK_SUPER, Errno::EOPNOTSUPP),
        (MMUEXT_UNMARK_SUPER, Errno::EOPNOTSUPP),
        (14, Errno::ENOSYS),
        (21, Errno::ENOSYS),
        (u32::MAX, Errno::ENOSYS),
    ] {
        let list = [(MMUEXT_TLB_FLUSH_LOCAL, 0, 0), (cmd, TABLE, 0)];
        assert_eq!(ops(&mut guest, &list), (error(errno), 1));
    }
    let call = guest.call(__HYPERVISOR_mmuext_op, [PAGE, 1, 0, 5, 0]);
    assert_eq!(call, error(Errno::ESRCH));
}

const LDT: u64 = 0xffff_c900_0000_0000;

#[test]
fn a_local_table_is_shown_in_the_window() {
    let mut guest = Guest::new();
    guest.vcpu.id = 17;
    guest.machine.map(LDT, 110);
    guest.machine.map(LDT + 0x1000, 112);
    // A 32-bit code segment of ring 0.
    guest.machine.put((112 << 12) + 8, &[0x00cf_9a00_0000_ffff]);
    assert_eq!(ops(&mut guest, &[(MMUEXT_SET_LDT, LDT, 514)]), (0, 1));
    assert_eq!(guest.asked(), [Asked::LoadLdt(514)]);
    assert_eq!(
        guest.machine.window_entry(17, 16),
        1 << 63 | 110 << 12 | 0x63
    );
    assert_eq!(
        guest.machine.window_entry(17, 17),
        1 << 63 | 112 << 12 | 0x63
    );
    assert_eq!(guest.machine.window_entry(17, 18), 0);
    assert_eq!(guest.word((112 << 12) + 8), 0x00cf_bb00_0000_ffff);

    assert_eq!(ops(&mut guest, &[(MMUEXT_SET_LDT, 0, 0)]), (0, 1));
    assert_eq!(guest.asked(), [Asked::LoadLdt(0)]);
    assert_eq!(guest.machine.window_entry(17, 16), 0);
}

#[test]
fn a_local_table_that_may_not_be_changes_nothing() {
    let mut guest = Guest::new();
    guest.machine.map(LDT, 110);
    guest.machine.put(110 << 12, &[0, 0x0000_8900_0000_0000]);
    for (address, entries) in [
        (LDT, 2),
        (LDT + 8, 1),
        (LDT, 513),
        (LDT, 8193),
        (NOWHERE, 1),
        (crate::interface::SHARED_GDT, 1),
    ] {
        let result = ops(&mut guest, &[(MMUEXT_SET_LDT, address, entries)]);
        assert_eq!(
            result,
            (error(Errno::EINVAL), 0),
            "{entries} at {address:#x}"
        );
    }
    // Mapped, but not the guest's memory; not mapped any more.
    for entry in [SPECIAL.start << 12 | 0x63, 1 << 12 | 0x63, 111 << 12 | 0x62] {
        let slot = guest.machine.map(LDT, 111);
        guest.machine.put(slot, &[entry]);
        let result = ops(&mut guest, &[(MMUEXT_SET_LDT, LDT, 1)]);
        assert_eq!(result, (error(Errno::EINVAL), 0), "{entry:#x}");
    }
    assert_eq!(guest.asked(), []);
    assert_eq!(guest.machine.window_entry(0, 16), 0);
}
