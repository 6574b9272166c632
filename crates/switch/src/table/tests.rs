use super::*;
use crate::{MacAddr, VlanId};

fn owner(serial: u64, limit: usize) -> Arc<Owner> {
    let slot = u16::try_from(serial).unwrap();
    Arc::new(Owner {
        id: PortId::new(serial, slot),
        epoch: AtomicU64::new(1),
        used: AtomicUsize::new(0),
        limit: AtomicUsize::new(limit),
    })
}

fn key(n: u64) -> Key {
    Key::new(VlanId::DEFAULT, MacAddr::of_number(0x0200_0000_0000 + n))
}

#[test]
fn a_port_that_fills_its_share_takes_nobody_elses() {
    let table = Table::new(100, 300, 5);
    let (greedy, victim) = (owner(1, 50), owner(2, 50));
    assert_eq!(table.learn(key(1000), &victim, 1, 0), Learned::Here);
    for n in 0..500 {
        let expected = if n < 50 { Learned::Here } else { Learned::Full };
        assert_eq!(table.learn(key(n), &greedy, 1, 0), expected);
    }
    assert_eq!(table.find(key(1000)).unwrap().place(), Some(victim.id));
    assert_eq!(table.learn(key(1001), &victim, 1, 0), Learned::Here);
    // Its old addresses make room for its new ones.
    assert_eq!(table.learn(key(500), &greedy, 1, 300), Learned::Full);
    assert_eq!(table.learn(key(500), &greedy, 1, 301), Learned::Here);
    assert_eq!(greedy.used.load(Ordering::Relaxed), 1);
}

#[test]
fn the_table_as_a_whole_is_bounded() {
    let table = Table::new(100, 300, 5);
    for n in 0..1000 {
        table.learn(key(n), &owner(n % 10, 50), 1, 0);
    }
    assert_eq!(
        (table.list(0).len(), table.used.load(Ordering::Relaxed)),
        (100, 100)
    );
}

#[test]
fn an_entry_that_was_kept_says_that_it_is_gone() {
    let table = Table::new(100, 300, 5);
    let (a, b) = (owner(1, 50), owner(2, 50));
    let mut cache = Cache::default();
    assert!(cache.get(key(1), &table).is_none());
    table.learn(key(1), &a, 1, 0);
    assert_eq!(cache.get(key(1), &table).unwrap().place(), Some(a.id));
    table.learn(key(1), &b, 1, 0);
    assert_eq!(cache.get(key(1), &table).unwrap().place(), Some(b.id));
    table.forget(b.id, false);
    assert!(cache.get(key(1), &table).is_none());
    assert!(table.fix(key(1), &a, 0));
    assert_eq!(cache.get(key(1), &table).unwrap().place(), Some(a.id));
    assert_eq!(table.learn(key(1), &b, 1, 0), Learned::Elsewhere);
    assert!(table.unfix(key(1)) && !table.unfix(key(1)));
    assert!(cache.get(key(1), &table).is_none());
}

#[test]
fn who_is_late_teaches_nothing() {
    let table = Table::new(100, 300, 5);
    let a = owner(1, 50);
    a.epoch.store(2, Ordering::Release);
    assert_eq!(table.learn(key(1), &a, 1, 0), Learned::Late);
    assert_eq!(table.learn(key(1), &a, 2, 0), Learned::Here);
    a.epoch.store(GONE, Ordering::Release);
    table.forget(a.id, true);
    assert_eq!(table.learn(key(1), &a, 2, 0), Learned::Late);
    assert!(!table.fix(key(1), &a, 0));
    assert_eq!(
        (table.list(0), a.used.load(Ordering::Relaxed)),
        (Vec::new(), 0)
    );
}

#[test]
fn an_address_that_flaps_stays() {
    let table = Table::new(100, 300, 2);
    let ports = [owner(1, 50), owner(2, 50)];
    table.learn(key(1), &ports[0], 1, 7);
    let seen: Vec<Learned> = (1..6)
        .map(|n| table.learn(key(1), &ports[n % 2], 1, 7))
        .collect();
    use Learned::{Flapping, Here, Moved};
    assert_eq!(seen, [Moved, Moved, Flapping, Here, Flapping]);
    assert_eq!(table.learn(key(1), &ports[1], 1, 8), Moved);
    let used = ports.map(|port| port.used.load(Ordering::Relaxed));
    assert_eq!(used, [0, 1]);
}
