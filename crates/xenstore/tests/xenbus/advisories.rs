//! Known wounds of back ends and toolstacks in the handshake.

use std::sync::Arc;

use cantle_abi::DomId;
use cantle_abi::io::xenbus::XenbusState as S;
use cantle_xenstore::prelude::*;
use cantle_xenstore::xenbus::{Backend, DeviceId, Keys, Phase, Removal, Removed, toolstack};

use crate::{Disk, GUEST, NONE, World, ring, settled, world};

/// Connected and disconnected as fast as it goes, in any order and without waiting for answers, also with keys that cannot
/// be used: each connection has its one end, and no second one stands beside it. (Linux: a ring that never started left
/// a pointer behind.)
#[test]
fn xsa_350_toggling_connect_and_disconnect_leaves_nothing_behind() {
    let mut world = world();
    let states = [
        S::INITIALISING,
        S::CONNECTED,
        S::INITIALISED,
        S::CLOSED,
        S::CONNECTED,
        S::CLOSING,
        S::INITIALISED,
        S(99),
        S::UNKNOWN,
    ];
    // As random as it has to be: Weyl's sequence.
    let mut random = 0_u32;
    for round in 0..5000_u32 {
        random = random.wrapping_add(2_654_435_761);
        let state = states[usize::try_from(random >> 16).unwrap() % states.len()];
        let port = if random >> 8 & 3 == 0 { "666" } else { "9" };
        let mut keys = ring(round);
        keys.push(("event-channel".to_owned(), port.to_owned()));
        world.front.publish(&keys, state).unwrap();
        if random >> 12 & 3 != 0 {
            world.back.process().unwrap();
        }
        let disk = world.back.device();
        let connects = u32::try_from(disk.rings.len()).unwrap();
        assert!((0..=1).contains(&(connects - disk.disconnects)), "{disk:?}");
    }
    assert!(world.back.device().rings.len() > 100);
    world.front.publish(&Keys::new(), S::CLOSED).unwrap();
    settled(&mut world);
    let disk = world.back.device();
    assert_eq!(disk.rings.len(), usize::try_from(disk.disconnects).unwrap());
}

/// Where the ends are is what the toolstack knows, not what stands in directories that the guest may write.
#[test]
fn xsa_175_178_paths_that_the_guest_writes_are_not_believed() {
    let mut world = world();
    let victim = DeviceId::new("vbd", 51712, DomId(6), DomId::DOM0);
    toolstack::create_device(&*world.dom0, &victim, &[], &[]).unwrap();
    let own = world.id.frontend_path();
    for (key, value) in [
        ("backend", victim.backend_path()),
        ("backend-id", "6".to_owned()),
        ("frontend", victim.frontend_path()),
        ("frontend-id", "6".to_owned()),
        ("online", "0".to_owned()),
    ] {
        world
            .guest
            .write(NONE, &format!("{own}/{key}"), value.as_bytes())
            .unwrap();
    }
    world.front.publish(&ring(1), S::CONNECTED).unwrap();
    // The device itself checks that it is told the right domain.
    assert_eq!(settled(&mut world).1, S::CONNECTED);

    // A back end that is started now, and a removal, go by what the toolstack says too.
    let World {
        back,
        dom0,
        id,
        guest,
        ..
    } = world;
    drop(back);
    let client = Arc::new(dom0.store().client(DomId::DOM0).unwrap());
    let mut back = Backend::new(client.clone(), id.clone(), Disk::default()).unwrap();
    assert_eq!(back.process().unwrap(), Phase::Running(S::CONNECTED));
    let removing = Arc::new(dom0.store().client(DomId::DOM0).unwrap());
    let mut removal = Removal::begin(removing, id.clone()).unwrap();
    guest.write(NONE, &format!("{own}/state"), b"6").unwrap();
    assert_eq!(back.process().unwrap(), Phase::Finished);
    assert_eq!(removal.process().unwrap(), Removed::Orderly);
    assert!(!dom0.exists(NONE, &id.backend_path()).unwrap());
    assert!(!dom0.exists(NONE, &id.frontend_path()).unwrap());
    for path in [victim.backend_path(), victim.frontend_path()] {
        let state = dom0.read(NONE, &format!("{path}/state")).unwrap();
        assert_eq!(S::parse(&state), S::INITIALISING, "{path}");
    }
}

/// The guest cannot pretend to be the toolstack: the back end's directory is not its to write.
#[test]
fn xsa_178_the_guest_cannot_write_what_the_back_end_believes() {
    let mut world = world();
    world.front.publish(&ring(1), S::CONNECTED).unwrap();
    settled(&mut world);
    let back = world.id.backend_path();
    for key in [
        "online",
        "state",
        "frontend",
        "frontend-id",
        "params",
        "new",
    ] {
        let path = format!("{back}/{key}");
        assert!(world.guest.write(NONE, &path, b"6").is_err(), "{path}");
        assert!(world.guest.rm(NONE, &path).is_err(), "{path}");
    }
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    assert_eq!(GUEST, world.id.frontend);
}
