//! `mmu_update` against a plain model, and calls with anything as arguments.

use super::*;
use crate::test_utils::{END, HOLE, L4, SPECIAL};
use proptest::prelude::*;

/// What a list of updates leaves of two tables, by the rules alone.
fn expected(list: &[(u64, u64)], words: &mut [u64]) -> (bool, u32) {
    for (done, &(ptr, val)) in (0..).zip(list) {
        let mfn = ptr >> 12;
        let ram = |mfn: u64| (FIRST..END).contains(&mfn) && !HOLE.contain(mfn);
        let target = val >> 12 & 0xff_ffff_ffff;
        let mappable = ram(target) || SPECIAL.contain(target) || target == 12;
        let machphys = ptr & 3 == 1;
        let guarded = mfn == L4 && (0x800..0x880).contains(&(ptr & 0xfff));
        let entry_fine = (val & 1 == 0 || mappable) && ptr & 4 == 0 && !guarded;
        if !ram(mfn) || !machphys && !entry_fine {
            return (false, done);
        }
        if !machphys {
            let word = &mut words[usize::try_from((ptr & !3) / 8).unwrap()];
            *word = if ptr & 3 == 2 {
                val | *word & 0x60
            } else {
                val
            };
        }
    }
    (true, u32::try_from(list.len()).unwrap())
}

/// Machine addresses around everything that has a border.
fn pointer() -> impl Strategy<Value = u64> {
    let frame = prop_oneof![
        3 => Just(120_u64),
        2 => Just(L4),
        1 => prop::sample::select(std::vec![0, 1, 12, FIRST - 1, HOLE.start - 1, HOLE.start, HOLE.end, END - 1, END, SPECIAL.start]),
        1 => 0_u64..1 << 52,
    ];
    (frame, prop_oneof![0_u64..4096, 0x7f8_u64..0x888])
        .prop_map(|(frame, offset)| frame << 12 | offset)
}

fn value() -> impl Strategy<Value = u64> {
    let frame = prop_oneof![2 => 90_u64..120, 1 => 0_u64..210, 1 => 0_u64..1 << 40];
    (frame, 0_u64..4096, any::<bool>())
        .prop_map(|(frame, bits, nx)| frame << 12 | bits | u64::from(nx) << 63)
}

proptest! {
    #[test]
    fn updates_do_what_the_model_does(list in prop::collection::vec((pointer(), value()), 0..20)) {
        let mut guest = Guest::new();
        // The list is outside of what it can change: its frame is no target of `pointer`, but for the rare whole range.
        let words: Vec<u64> = list.iter().flat_map(|&(ptr, val)| [ptr, val]).collect();
        guest.put(PAGE, words.as_slice());
        let hits_list = list.iter().any(|(ptr, _)| (PAGE_MFN..PAGE_MFN + 8).contains(&(ptr >> 12)) || (L4 + 1..L4 + 8).contains(&(ptr >> 12)));
        // An update of slot 0 of the table in use unmaps the list itself.
        let unmaps = list.iter().any(|(ptr, _)| ptr >> 12 == L4 && ptr & 0xff8 == 0);
        prop_assume!(!hits_list && !unmaps);
        let mut model = guest.machine.words.clone();
        let (fine, done) = expected(&list, &mut model);
        let result = guest.call(__HYPERVISOR_mmu_update, [PAGE, list.len() as u64, PAGE + 0x1800, SELF, 0]);
        prop_assert_eq!(result, if fine { 0 } else { error(Errno::EINVAL) });
        prop_assert_eq!(guest.read_u64(PAGE + 0x1800), u64::from(done));
        let at = usize::try_from(((PAGE_MFN + 1) << 12 | 0x800) / 8).unwrap();
        model[at] = u64::from(done);
        prop_assert!(guest.machine.words == model);
    }

    #[test]
    fn no_call_is_too_odd(
        number in 0_u64..44,
        arguments in prop::array::uniform5(prop_oneof![0_u64..40, Just(PAGE), Just(SELF), any::<u64>(), 90_u64 << 12..200 << 12]),
        page in prop::collection::vec(prop_oneof![0_u64..40, Just(PAGE), any::<u64>(), 90_u64..200], 64),
    ) {
        let mut guest = Guest::new();
        guest.put(PAGE, page.as_slice());
        guest.call_with(number, arguments);
    }

    #[test]
    fn no_multicall_is_too_odd(page in prop::collection::vec(prop_oneof![0_u64..44, Just(PAGE), any::<u64>(), 90_u64..200], 512), count in 0_u64..100) {
        let mut guest = Guest::new();
        guest.put(PAGE, page.as_slice());
        guest.call(__HYPERVISOR_multicall, [PAGE, count, 0, 0, 0]);
    }
}
