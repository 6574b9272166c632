//! How interfaces come and go: connections in a loop, hot-unplug in good order and by force while packets are under way, and a
//! back end that takes over from one that died.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use cantle_abi::DomId;
use cantle_netback::Backend;
use cantle_netback::test_utils::{FrontOptions, NetFront, Outgoing, World, settle};
use cantle_netport::Offload;
use cantle_netport::test_utils::{Recorded, Recorder, RecorderHandle};
use cantle_xenstore::xenbus::{Removal, Removed, XenbusState};

fn connect() -> (World, Backend, NetFront, RecorderHandle) {
    let world = World::new();
    let (port, wire) = Recorder::new().unwrap();
    let mut backend = world.backend(Box::new(port)).unwrap();
    let front = world.front(&FrontOptions::default());
    assert!(settle(&mut backend));
    assert_eq!(front.backend_state(), XenbusState::CONNECTED);
    (world, backend, front, wire)
}

fn send(front: &mut NetFront, packets: u8) {
    for n in 0..packets {
        let bytes = [n; 200];
        assert!(front.send(&Outgoing {
            bytes: &bytes,
            ..Outgoing::default()
        }));
    }
    front.kick();
}

fn removal(world: &World) -> Removal {
    let client = world.store().client(DomId::DOM0).unwrap();
    Removal::begin(Arc::new(client), world.id().clone()).unwrap()
}

#[track_caller]
fn assert_nothing_mapped(world: &World) {
    let table = world.guest().table().stats();
    assert_eq!(table.maps, table.unmaps, "{table:?}");
}

#[test]
fn connections_in_a_loop_leave_nothing_behind() {
    let (world, mut backend, front, wire) = connect();
    for _ in 0..100 {
        front.set_state(XenbusState::CLOSING);
        settle(&mut backend);
        front.set_state(XenbusState::CLOSED);
        settle(&mut backend);
        assert_eq!(front.backend_state(), XenbusState::CLOSED);
        assert!(!wire.link());
        assert_nothing_mapped(&world);
        front.set_state(XenbusState::INITIALISING);
        settle(&mut backend);
        front.set_state(XenbusState::CONNECTED);
        settle(&mut backend);
        assert_eq!(front.backend_state(), XenbusState::CONNECTED);
    }
}

#[test]
fn hot_unplug_serves_until_the_front_end_is_closed() {
    let (world, mut backend, mut front, wire) = connect();
    let mut removal = removal(&world);
    send(&mut front, 20);
    assert!(settle(&mut backend));
    assert_eq!(front.backend_state(), XenbusState::CLOSING);
    assert_eq!(removal.process().unwrap(), Removed::NotYet);
    assert_eq!(wire.take_sent().len(), 20);
    front.set_state(XenbusState::CLOSED);
    assert!(!settle(&mut backend), "it is finished");
    assert_eq!(removal.process().unwrap(), Removed::Orderly);
    assert_nothing_mapped(&world);
}

#[test]
fn forced_unplug_ends_an_interface_with_packets_under_way() {
    let (world, mut backend, mut front, wire) = connect();
    for n in 0..50 {
        wire.inject(Recorded {
            bytes: vec![n; 300],
            offload: Offload::default(),
        });
    }
    send(&mut front, 20);
    assert_eq!(removal(&world).force().unwrap(), Removed::Forced);
    assert!(!settle(&mut backend), "it is finished");
    assert!(!wire.link());
    assert_nothing_mapped(&world);
}

/// The front end notices nothing: its rings, its grants and its ports are what they were.
#[test]
fn a_back_end_takes_over_from_one_that_died() {
    let (world, mut backend, mut front, mut wire) = connect();
    for _ in 0..10 {
        send(&mut front, 20);
        assert!(settle(&mut backend));
        assert_eq!(wire.take_sent().len(), 20);
        assert_eq!(front.responses().len(), 20);
        drop(backend);
        assert_nothing_mapped(&world);
        let (port, again) = Recorder::new().unwrap();
        backend = world.backend(Box::new(port)).unwrap();
        wire = again;
        assert!(settle(&mut backend));
        assert_eq!(front.backend_state(), XenbusState::CONNECTED);
    }
}
