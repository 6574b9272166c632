use super::*;
use crate::test_utils::{END, HOLE, L4, SPECIAL};
use cantle_abi::mmu::*;

/// A frame that is a table, of some level.
const TABLE: u64 = 120;
const SLOT: u64 = TABLE << 12 | 0x18;

fn update(guest: &mut Guest, list: &[(u64, u64)]) -> (i64, u32) {
    let words: Vec<u64> = list.iter().flat_map(|&(ptr, val)| [ptr, val]).collect();
    guest.put(PAGE, words.as_slice());
    let done = PAGE + 0x1000;
    guest.put(done, &u32::MAX);
    let result = guest.call(
        __HYPERVISOR_mmu_update,
        [PAGE, list.len() as u64, done, SELF, 0],
    );
    (result, guest.read_u32(done))
}

#[test]
fn entries_are_written_in_order_and_counted() {
    let mut guest = Guest::new();
    let result = update(
        &mut guest,
        &[(SLOT, 0x6_4067), (SLOT + 8, 0), (SLOT, 0x6_5067)],
    );
    assert_eq!(result, (0, 3));
    assert_eq!(guest.word(SLOT), 0x6_5067);
}

#[test]
fn an_update_stops_at_the_first_that_fails() {
    let mut guest = Guest::new();
    let monitors = 0x1067;
    let result = update(
        &mut guest,
        &[
            (SLOT, 0x6_4067),
            (SLOT + 8, monitors),
            (SLOT + 16, 0x6_4067),
        ],
    );
    assert_eq!(result, (error(Errno::EINVAL), 1));
    assert_eq!(guest.word(SLOT + 16), 0);
}

#[test]
fn only_the_guests_frames_may_be_mapped() {
    let mut guest = Guest::new();
    for (frame, allowed) in [
        (0, false),
        (FIRST - 1, false),
        (FIRST, true),
        (HOLE.start - 1, true),
        (HOLE.start, false),
        (HOLE.end, true),
        (END - 1, true),
        (SPECIAL.start, true),
        (SPECIAL.end, false),
        (12, true), // shared info
        (0xff_ffff_ffff, false),
    ] {
        let (result, _) = update(&mut guest, &[(SLOT, frame << 12 | 0x8000_0000_0000_0067)]);
        assert_eq!(result == 0, allowed, "frame {frame:#x}");
        // What is not present leads nowhere.
        assert_eq!(update(&mut guest, &[(SLOT, frame << 12 | 0x66)]).0, 0);
    }
}

#[test]
fn only_the_guests_memory_is_written() {
    let mut guest = Guest::new();
    for slot in [
        0,
        0x1800,
        (FIRST << 12) - 8,
        HOLE.start << 12,
        SPECIAL.start << 12,
        12 << 12,
        !7,
    ] {
        let result = update(&mut guest, &[(slot, 0)]);
        assert_eq!(result, (error(Errno::EINVAL), 0), "{slot:#x}");
    }
    // Bit 2 makes it no entry.
    assert_eq!(update(&mut guest, &[(SLOT + 4, 0)]).0, error(Errno::EINVAL));
}

#[test]
fn the_monitors_slots_stay_in_the_tables_that_are_used() {
    let mut guest = Guest::new();
    guest.vcpu.user_l4 = TABLE;
    for table in [L4, TABLE] {
        for index in [256, 261, 271] {
            let slot = (table << 12) + index * 8;
            assert_eq!(update(&mut guest, &[(slot, 0)]).0, error(Errno::EINVAL));
        }
        for index in [255, 272] {
            let slot = (table << 12) + index * 8;
            assert_eq!(update(&mut guest, &[(slot, 0)]).0, 0);
        }
    }
    // In a table that is none of these they are entries like others.
    assert_eq!(
        update(&mut guest, &[(((TABLE + 1) << 12) + 256 * 8, 0)]).0,
        0
    );
}

#[test]
fn accessed_and_dirty_bits_can_be_kept_however_late_they_come() {
    let mut guest = Guest::new();
    guest.machine.put(SLOT, &[0x6_4067]);
    let result = update(&mut guest, &[(SLOT | MMU_PT_UPDATE_PRESERVE_AD, 0x6_5001)]);
    assert_eq!(result, (0, 1));
    assert_eq!(guest.word(SLOT), 0x6_5061);

    // Another processor sets the accessed bit in between.
    guest.machine.put(SLOT, &[0x6_4003]);
    guest.machine.interference = std::vec![0x6_4023];
    update(&mut guest, &[(SLOT | MMU_PT_UPDATE_PRESERVE_AD, 0x6_5001)]);
    assert_eq!(guest.word(SLOT), 0x6_5021);

    // Without it they are not kept.
    update(&mut guest, &[(SLOT, 0x6_5001)]);
    assert_eq!(guest.word(SLOT), 0x6_5001);
}

#[test]
fn a_word_that_never_rests_is_given_up() {
    let mut guest = Guest::new();
    guest.machine.interference = (0..100_000).collect();
    let result = update(&mut guest, &[(SLOT | MMU_PT_UPDATE_PRESERVE_AD, 0x6_5001)]);
    assert_eq!(result, (error(Errno::EAGAIN), 0));
}

#[test]
fn the_machine_to_physical_table_is_written_for_the_guests_frames() {
    let mut guest = Guest::new();
    let at = |mfn: u64| mfn << 12 | MMU_MACHPHYS_UPDATE;
    assert_eq!(update(&mut guest, &[(at(PAGE_MFN), 7)]), (0, 1));
    assert_eq!(guest.machine.m2p[usize::try_from(PAGE_MFN).unwrap()], 7);
    for mfn in [0, FIRST - 1, HOLE.start, SPECIAL.start, u64::MAX >> 12] {
        assert_eq!(update(&mut guest, &[(at(mfn), 7)]).0, error(Errno::EINVAL));
    }
}

#[test]
fn the_domain_must_be_the_caller() {
    let mut guest = Guest::new();
    guest.put(PAGE, &[SLOT, 0x6_4067]);
    for (domain, result) in [
        (SELF, 0),
        (SELF | (SELF + 1) << 16, 0),
        (0, error(Errno::ESRCH)),
        (0x7ff1, error(Errno::ESRCH)),
        (SELF | 1 << 16, error(Errno::ESRCH)),
    ] {
        let call = guest.call(__HYPERVISOR_mmu_update, [PAGE, 1, 0, domain, 0]);
        assert_eq!(call, result, "{domain:#x}");
    }
}

#[test]
fn a_count_that_cannot_be_told_is_a_fault_though_all_was_done() {
    let mut guest = Guest::new();
    guest.put(PAGE, &[SLOT, 0x6_4067]);
    let result = guest.call(__HYPERVISOR_mmu_update, [PAGE, 1, NOWHERE, SELF, 0]);
    assert_eq!(result, error(Errno::EFAULT));
    assert_eq!(guest.word(SLOT), 0x6_4067);
}

/// XSA-212 was a result written where the guest had no business: the count goes by the guest's own mappings, and never to the hypervisor.
#[test]
fn xsa_212_the_count_is_not_written_into_the_monitor() {
    let mut guest = Guest::new();
    for place in [
        crate::interface::BOOT_INFO,
        crate::interface::DIRECT_MAP,
        crate::interface::M2P_BASE,
    ] {
        let result = guest.call(__HYPERVISOR_mmu_update, [PAGE, 0, place, SELF, 0]);
        assert_eq!(result, error(Errno::EFAULT));
    }
}
