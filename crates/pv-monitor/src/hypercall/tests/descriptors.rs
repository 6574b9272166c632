use super::*;
use crate::descriptors::fixed;
use crate::test_utils::HOLE;
use proptest::prelude::*;

/// Frames of a table.
const GDT: u64 = 110;
/// 64-bit code and data, ring 0, as Linux has them.
const CODE64: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// 32-bit code of ring 3.
const USER32: u64 = 0x00cf_fb00_0000_ffff;
/// A task segment.
const TASK: u64 = 0x0000_8900_0000_0067;

fn set_gdt(guest: &mut Guest, frames: &[u64], entries: u64) -> i64 {
    guest.put(PAGE, frames);
    guest.call(__HYPERVISOR_set_gdt, [PAGE, entries, 0, 0, 0])
}

#[test]
fn ring_0_becomes_ring_1_for_code_and_ring_3_for_data() {
    assert_eq!(fixed(CODE64), Some(0x00af_bb00_0000_ffff));
    assert_eq!(fixed(DATA), Some(0x00cf_f300_0000_ffff));
    assert_eq!(fixed(USER32), Some(USER32));
    // It has been accessed: the processor need not write that.
    assert_eq!(fixed(USER32 & !(1 << 40)), Some(USER32));
}

#[test]
fn gates_and_system_segments_may_not_be() {
    for kind in [0x1, 0x2, 0x3, 0x4, 0x5, 0x9, 0xb, 0xc, 0xe, 0xf] {
        assert_eq!(fixed(TASK & !(0xf << 40) | kind << 40), None, "{kind:#x}");
    }
    // What is not present is nothing.
    assert_eq!(fixed(TASK & !(1 << 47)), Some(TASK & !(1 << 47)));
    assert_eq!(fixed(0), Some(0));
}

proptest! {
    #[test]
    fn no_descriptor_is_of_ring_0(descriptor: u64) {
        if let Some(fixed) = fixed(descriptor) {
            let present = fixed >> 47 & 1 == 1;
            let allowed = !present || fixed >> 44 & 1 == 1 && fixed >> 45 & 3 != 0 && fixed >> 40 & 1 == 1;
            prop_assert!(allowed);
            // Base, limit, type and size are the guest's.
            prop_assert_eq!((fixed ^ descriptor) & !(3 << 45 | 1 << 40), 0);
            prop_assert_eq!(crate::descriptors::fixed(fixed), Some(fixed));
        } else {
            prop_assert_eq!(descriptor >> 44 & 9, 8);
        }
    }
}

#[test]
fn a_table_is_fixed_in_place_and_shown_in_the_window() {
    let mut guest = Guest::new();
    guest.vcpu.id = 16;
    guest.machine.put(GDT << 12, &[0, USER32, CODE64, DATA]);
    guest.machine.put((GDT << 12) + 511 * 8, &[CODE64]);
    assert_eq!(set_gdt(&mut guest, &[GDT, GDT + 1], 513), 0);
    assert_eq!(guest.word((GDT << 12) + 16), 0x00af_bb00_0000_ffff);
    assert_eq!(guest.word((GDT << 12) + 24), 0x00cf_f300_0000_ffff);
    assert_eq!(guest.word((GDT << 12) + 511 * 8), 0x00af_bb00_0000_ffff);
    assert_eq!(
        guest.machine.window_entry(16, 0),
        1 << 63 | GDT << 12 | 0x63
    );
    assert_eq!(
        guest.machine.window_entry(16, 1),
        1 << 63 | (GDT + 1) << 12 | 0x63
    );
    assert_eq!(guest.machine.window_entry(15, 0), 0);
    assert_eq!(guest.asked(), [Asked::GdtChanged]);

    assert_eq!(set_gdt(&mut guest, &[GDT], 1), 0);
    assert_eq!(guest.machine.window_entry(16, 1), 0);
}

#[test]
fn the_monitors_page_of_the_table_stays() {
    let mut guest = Guest::new();
    let at = (2 << 12) + 14 * 8;
    guest.machine.put(at, &[0x3_4163]);
    let frames = [GDT; 14];
    assert_eq!(set_gdt(&mut guest, &frames, 14 * 512), 0);
    assert_eq!(
        guest.machine.window_entry(0, 13),
        1 << 63 | GDT << 12 | 0x63
    );
    assert_eq!(guest.machine.window_entry(0, 14), 0x3_4163);
    for entries in [14 * 512 + 1, 16 * 512, 0xffff_ffff] {
        assert_eq!(set_gdt(&mut guest, &frames, entries), error(Errno::EINVAL));
    }
}

#[test]
fn a_table_that_may_not_be_leaves_the_one_before_it() {
    let mut guest = Guest::new();
    assert_eq!(set_gdt(&mut guest, &[GDT], 16), 0);
    guest.asked();
    guest.machine.put((GDT + 1) << 12, &[TASK]);
    for frames in [[GDT + 1], [1], [12], [HOLE.start], [u64::MAX]] {
        assert_eq!(set_gdt(&mut guest, &frames, 16), error(Errno::EINVAL));
    }
    let result = guest.call(__HYPERVISOR_set_gdt, [NOWHERE, 16, 0, 0, 0]);
    assert_eq!(result, error(Errno::EFAULT));
    assert_eq!(guest.machine.window_entry(0, 0), 1 << 63 | GDT << 12 | 0x63);
    assert_eq!(guest.asked(), []);
}

#[test]
fn a_descriptor_is_written_where_the_guest_says() {
    let mut guest = Guest::new();
    let at = (GDT << 12) + 0x60;
    let call = |guest: &mut Guest, at, descriptor| {
        guest.call(__HYPERVISOR_update_descriptor, [at, descriptor, 0, 0, 0])
    };
    assert_eq!(call(&mut guest, at, DATA), 0);
    assert_eq!(guest.word(at), 0x00cf_f300_0000_ffff);
    assert_eq!(call(&mut guest, at, TASK), error(Errno::EINVAL));
    assert_eq!(guest.word(at), 0x00cf_f300_0000_ffff);
    for at in [at + 4, 0x2000, HOLE.start << 12, !7] {
        assert_eq!(call(&mut guest, at, DATA), error(Errno::EINVAL));
    }
}
