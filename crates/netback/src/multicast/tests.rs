use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;

fn add(address: [u8; 6]) -> NetifExtraInfo {
    NetifExtraInfo::mcast(XEN_NETIF_EXTRA_TYPE_MCAST_ADD, address, 0)
}

fn del(address: [u8; 6]) -> NetifExtraInfo {
    NetifExtraInfo::mcast(XEN_NETIF_EXTRA_TYPE_MCAST_DEL, address, 0)
}

fn group(n: u8) -> [u8; 6] {
    [0x33, 0x33, 0, 0, 0, n]
}

#[test]
fn only_groups_that_were_joined_pass_once_that_is_asked_for() {
    let filter = MulticastFilter::new();
    filter.amend(&add(group(1))).unwrap();
    assert!(filter.passes(group(2)));
    filter.set_on(true);
    assert!(filter.passes(group(1)));
    assert!(!filter.passes(group(2)));
    filter.amend(&del(group(1))).unwrap();
    assert!(!filter.passes(group(1)));
}

#[test]
fn unicast_and_broadcast_always_pass() {
    let filter = MulticastFilter::new();
    filter.set_on(true);
    assert!(filter.passes([0x00, 0x16, 0x3e, 0, 0, 1]));
    assert!(filter.passes([0; 6]));
    assert!(filter.passes(BROADCAST));
    assert!(!filter.passes([0xff, 0xff, 0xff, 0xff, 0xff, 0xfd]));
}

#[test]
fn the_address_of_one_is_no_group() {
    let filter = MulticastFilter::new();
    let one = [0x00, 0x16, 0x3e, 0, 0, 1];
    let refused = Err(MulticastFault::Unicast(one));
    assert_eq!(filter.amend(&add(one)), refused);
    assert_eq!(filter.amend(&del(one)), refused);
    // The mark of a free entry above all.
    assert!(filter.amend(&del([0; 6])).is_err());
}

#[test]
fn there_is_room_for_64_groups_each_counted_once() {
    let filter = MulticastFilter::new();
    filter.set_on(true);
    for n in 0..64 {
        filter.amend(&add(group(n))).unwrap();
        filter.amend(&add(group(n))).unwrap();
    }
    let full = Err(MulticastFault::Full(group(64)));
    assert_eq!(filter.amend(&add(group(64))), full);
    assert!(!filter.passes(group(64)));
    filter.amend(&del(group(10))).unwrap();
    filter.amend(&add(group(64))).unwrap();
    assert!(filter.passes(group(64)) && filter.passes(group(63)) && !filter.passes(group(10)));
    filter.reset();
    assert!(filter.passes(group(65)));
    filter.set_on(true);
    assert!((0..=64).all(|n| !filter.passes(group(n))));
}

#[test]
fn extra_info_of_other_kinds_changes_nothing() {
    let filter = MulticastFilter::new();
    filter.set_on(true);
    for kind in [0, 1, 4, 5, 255] {
        filter
            .amend(&NetifExtraInfo::mcast(kind, group(1), 0))
            .unwrap();
        assert!(!filter.passes(group(1)));
    }
}

/// A group is joined and left by one queue again and again while others look: those that stay are found at every moment, the one
/// that comes and goes is never taken for another, and nothing is freed under a reader.
#[test]
fn xsa_527_groups_are_left_while_others_look() {
    let filter = MulticastFilter::new();
    filter.set_on(true);
    // Around the ones that come and go, so that their entries are before, between and after.
    filter.amend(&add(group(100))).unwrap();
    for n in 0..8 {
        filter.amend(&add(group(n))).unwrap();
    }
    filter.amend(&add(group(101))).unwrap();
    let (stop, begin) = (AtomicBool::new(false), Barrier::new(3));
    std::thread::scope(|threads| {
        let looks = || {
            begin.wait();
            while !stop.load(Ordering::Relaxed) {
                assert!(filter.passes(group(100)), "it was never left");
                assert!(filter.passes(group(101)), "it was never left");
                assert!(!filter.passes(group(200)), "it was never joined");
                std::hint::black_box(filter.passes(group(3)));
            }
        };
        let readers = [threads.spawn(looks), threads.spawn(looks)];
        begin.wait();
        for round in 0..50_000_u32 {
            let n = u8::try_from(round % 8).unwrap();
            filter.amend(&del(group(n))).unwrap();
            assert!(!filter.passes(group(n)));
            filter.amend(&add(group(n))).unwrap();
            assert!(filter.passes(group(n)));
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

proptest! {
    /// Against a set: few addresses, so that they meet, and more than there is room for.
    #[test]
    fn it_is_a_set_of_at_most_64(
        steps in prop::collection::vec((0..3_u8, 0..80_u8, prop::bool::weighted(0.05)), 0..400),
        is_on: bool,
    ) {
        let filter = MulticastFilter::new();
        filter.set_on(is_on);
        let mut model = HashSet::new();
        for (step, n, unicast) in steps {
            let address = if unicast { [0x02, 0, 0, 0, 0, n] } else { group(n) };
            if step < 2 {
                let expected = if unicast {
                    Err(MulticastFault::Unicast(address))
                } else if !model.contains(&address) && model.len() == 64 {
                    Err(MulticastFault::Full(address))
                } else {
                    model.insert(address);
                    Ok(())
                };
                prop_assert_eq!(filter.amend(&add(address)), expected);
            } else {
                model.remove(&address);
                prop_assert_eq!(filter.amend(&del(address)).is_err(), unicast);
            }
            prop_assert_eq!(filter.passes(address), !is_on || unicast || model.contains(&address));
        }
        for n in 0..80 {
            prop_assert_eq!(filter.passes(group(n)), !is_on || model.contains(&group(n)));
        }
    }
}
