//! The handshake between a back end and a front end over a real store.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod advisories;
mod ends;

use std::sync::Arc;

use cantle_abi::io::xenbus::XenbusState as S;
use cantle_abi::{DomId, Gfn, Port};
use cantle_xenstore::prelude::*;
use cantle_xenstore::xenbus::{
    Backend, BareFrontend, Device, DeviceError, DeviceId, Keys, OtherEnd, Phase, toolstack,
};
use cantle_xenstore::{LocalClient, Shared, TxId};

const GUEST: DomId = DomId(5);
const NONE: TxId = TxId::NONE;

/// A device that records what happens to it.
#[derive(Debug, Default)]
struct Disk {
    rings: Vec<u32>,
    headrooms: Vec<u32>,
    disconnects: u32,
}

impl Device for Disk {
    fn describe(&self) -> Keys {
        vec![("feature-flush-cache".to_owned(), "1".to_owned())]
    }

    fn connect(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        assert_eq!(front.domain(), GUEST);
        let ring = front.require("ring-ref")?;
        let port: u32 = front.optional("event-channel")?.unwrap_or(0);
        if port == 666 {
            return Err("no such channel".into());
        }
        self.rings.push(ring);
        Ok(vec![("sectors".to_owned(), "2048".to_owned())])
    }

    fn reconfigure(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        let headroom = front.optional("xdp-headroom")?.unwrap_or(0);
        self.headrooms.push(headroom);
        Ok(vec![("headroom".to_owned(), headroom.to_string())])
    }

    fn disconnect(&mut self) {
        self.disconnects += 1;
    }
}

struct World {
    dom0: Arc<LocalClient>,
    guest: Arc<LocalClient>,
    id: DeviceId,
    back: Backend<Disk>,
    front: BareFrontend,
}

fn guest() -> toolstack::DomainSpec {
    toolstack::DomainSpec {
        domid: GUEST,
        name: "guest".to_owned(),
        memory_kib: 65_536,
        vcpus: 2,
        store: Some((Gfn(0xfefff), Port(1))),
        console: Some((Gfn(0xfeffe), Port(2))),
    }
}

fn world() -> World {
    let store = Shared::default();
    let dom0 = Arc::new(store.client(DomId::DOM0).unwrap());
    toolstack::create_domain(&*dom0, &guest()).unwrap();
    store.introduce(GUEST).unwrap();
    let id = DeviceId::new("vbd", 51712, GUEST, DomId::DOM0);
    toolstack::create_device(
        &*dom0,
        &id,
        &[("virtual-device", "51712")],
        &[("mode", "w")],
    )
    .unwrap();
    let guest = Arc::new(store.client(GUEST).unwrap());
    let back_client = Arc::new(store.client(DomId::DOM0).unwrap());
    let front = BareFrontend::new(guest.clone(), &id).unwrap();
    World {
        back: Backend::new(back_client, id.clone(), Disk::default()).unwrap(),
        dom0,
        guest,
        id,
        front,
    }
}

fn ring(number: u32) -> Keys {
    vec![
        ("ring-ref".to_owned(), number.to_string()),
        ("event-channel".to_owned(), "9".to_owned()),
    ]
}

/// Both states after the back end has had its turn.
fn settled(world: &mut World) -> (Phase, S) {
    let phase = world.back.process().unwrap();
    (phase, world.front.backend_state().unwrap())
}

#[test]
fn connects_and_closes() {
    let mut world = world();
    assert_eq!(
        settled(&mut world),
        (Phase::Running(S::INIT_WAIT), S::INIT_WAIT)
    );
    assert_eq!(world.front.backend_key("feature-flush-cache").unwrap(), "1");
    world.front.publish(&ring(8), S::INITIALISED).unwrap();
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    assert_eq!(world.back.device().rings, [8]);
    assert_eq!(world.front.backend_key("sectors").unwrap(), "2048");
    world.front.publish(&Keys::new(), S::CONNECTED).unwrap();
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    world.front.publish(&Keys::new(), S::CLOSING).unwrap();
    assert_eq!(settled(&mut world).1, S::CLOSING);
    assert_eq!(
        world.back.device().disconnects,
        0,
        "it serves until the front end is closed"
    );
    world.front.publish(&Keys::new(), S::CLOSED).unwrap();
    assert_eq!(settled(&mut world).1, S::CLOSED);
    assert_eq!(world.back.device().disconnects, 1);
}

#[test]
fn reconnects_after_closing_and_without_closing() {
    let mut world = world();
    world.front.publish(&ring(1), S::CONNECTED).unwrap();
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    world.front.publish(&Keys::new(), S::CLOSED).unwrap();
    assert_eq!(settled(&mut world).1, S::CLOSED);
    world.front.publish(&Keys::new(), S::INITIALISING).unwrap();
    assert_eq!(settled(&mut world).1, S::INIT_WAIT);
    world.front.publish(&ring(2), S::CONNECTED).unwrap();
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    // A kernel that was started by another one says nothing of closing.
    world.front.publish(&Keys::new(), S::INITIALISING).unwrap();
    assert_eq!(settled(&mut world).1, S::INIT_WAIT);
    assert_eq!(world.back.device().disconnects, 2);
    world.front.publish(&ring(3), S::INITIALISED).unwrap();
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    assert_eq!(world.back.device().rings, [1, 2, 3]);
}

#[test]
fn a_key_that_is_written_after_reconfiguring_is_read_as_linux_writes_it() {
    let mut world = world();
    world.front.publish(&ring(1), S::CONNECTED).unwrap();
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    world.front.publish(&Keys::new(), S::RECONFIGURING).unwrap();
    assert_eq!(settled(&mut world).1, S::RECONFIGURED);
    let key = format!("{}/xdp-headroom", world.id.frontend_path());
    world.guest.write(NONE, &key, b"256").unwrap();
    assert_eq!(settled(&mut world).1, S::RECONFIGURED);
    world.front.publish(&Keys::new(), S::CONNECTED).unwrap();
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    assert_eq!(world.back.device().headrooms, [0, 256]);
    assert_eq!(world.front.backend_key("headroom").unwrap(), "256");
    assert_eq!(world.back.device().disconnects, 0);
    // What a front end says over and over is done once, until it says something else.
    for _ in 0..10 {
        world.front.publish(&Keys::new(), S::RECONFIGURING).unwrap();
        settled(&mut world);
    }
    assert_eq!(world.back.device().headrooms.len(), 3);
    // Removal goes its usual way from there.
    toolstack::remove_device(&*world.dom0, &world.id).unwrap();
    assert_eq!(settled(&mut world).1, S::CLOSING);
    world.front.publish(&Keys::new(), S::CLOSED).unwrap();
    assert_eq!(settled(&mut world), (Phase::Finished, S::CLOSED));
    assert_eq!(world.back.device().disconnects, 1);
}

#[test]
fn removal_by_the_toolstack_is_orderly() {
    let mut world = world();
    world.front.publish(&ring(1), S::CONNECTED).unwrap();
    settled(&mut world);
    toolstack::remove_device(&*world.dom0, &world.id).unwrap();
    assert_eq!(
        settled(&mut world),
        (Phase::Running(S::CLOSING), S::CLOSING)
    );
    assert_eq!(world.back.device().disconnects, 0);
    world.front.publish(&Keys::new(), S::CLOSED).unwrap();
    assert_eq!(settled(&mut world), (Phase::Finished, S::CLOSED));
    assert_eq!(world.back.device().disconnects, 1);
    toolstack::destroy_device(&*world.dom0, &world.id).unwrap();
    assert!(!world.dom0.exists(NONE, &world.id.backend_path()).unwrap());
    assert!(!world.dom0.exists(NONE, &world.id.frontend_path()).unwrap());
}

#[test]
fn offline_before_anybody_connected_is_the_end() {
    let mut world = world();
    settled(&mut world);
    let online = format!("{}/online", world.id.backend_path());
    world.dom0.write(NONE, &online, b"0").unwrap();
    assert_eq!(settled(&mut world), (Phase::Finished, S::CLOSED));
}

#[test]
fn a_front_end_that_vanishes_is_disconnected() {
    let mut world = world();
    world.front.publish(&ring(1), S::CONNECTED).unwrap();
    settled(&mut world);
    world.dom0.rm(NONE, &world.id.frontend_path()).unwrap();
    assert_eq!(settled(&mut world).1, S::CLOSED);
    assert_eq!(world.back.device().disconnects, 1);
}

#[test]
fn a_back_end_whose_directory_was_removed_does_not_make_it_again() {
    let mut world = world();
    world.front.publish(&ring(1), S::CONNECTED).unwrap();
    settled(&mut world);
    world.dom0.rm(NONE, &world.id.backend_path()).unwrap();
    assert_eq!(world.back.process().unwrap(), Phase::Finished);
    assert_eq!(world.back.device().disconnects, 1);
    assert!(!world.dom0.exists(NONE, &world.id.backend_path()).unwrap());
}

#[test]
fn a_front_end_with_wrong_keys_is_closed_and_may_try_again() {
    let mut world = world();
    world.front.publish(&Keys::new(), S::INITIALISED).unwrap();
    assert_eq!(settled(&mut world).1, S::CLOSING);
    let refused = vec![("event-channel".to_owned(), "666".to_owned())];
    world.front.publish(&Keys::new(), S::CLOSED).unwrap();
    assert_eq!(settled(&mut world).1, S::CLOSED);
    world.front.publish(&Keys::new(), S::INITIALISING).unwrap();
    assert_eq!(settled(&mut world).1, S::INIT_WAIT);
    world
        .front
        .publish(&[ring(4), refused].concat(), S::INITIALISED)
        .unwrap();
    assert_eq!(settled(&mut world).1, S::CLOSING);
    assert_eq!(world.back.device().disconnects, 0, "it was never connected");
    world.front.publish(&Keys::new(), S::INITIALISING).unwrap();
    settled(&mut world);
    world.front.publish(&ring(4), S::INITIALISED).unwrap();
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    assert_eq!(world.back.device().rings, [4]);
}

#[test]
fn the_event_fd_says_when_there_is_something_to_do() {
    let mut world = world();
    settled(&mut world);
    settled(&mut world);
    assert!(!readable(world.back.event_fd()));
    world.front.publish(&ring(1), S::CONNECTED).unwrap();
    assert!(readable(world.back.event_fd()));
    settled(&mut world);
    settled(&mut world);
    assert!(!readable(world.back.event_fd()));
}

#[test]
fn xsa_349_a_flood_of_state_writes_queues_no_more_than_its_limit() {
    let mut world = world();
    settled(&mut world);
    let state = format!("{}/state", world.id.frontend_path());
    world.dom0.watch(&state, "flooded").unwrap();
    for round in 0..100_000_u32 {
        world
            .guest
            .write(NONE, &state, (round % 7).to_string().as_bytes())
            .unwrap();
    }
    world.front.publish(&ring(1), S::CONNECTED).unwrap();
    let mut waiting = 0;
    while world.dom0.take_event().is_some() {
        waiting += 1;
    }
    assert!(waiting < 64 * 1024 / state.len(), "{waiting}");
    // One look is enough, since the state is read anew.
    assert_eq!(settled(&mut world).1, S::CONNECTED);
    assert_eq!(world.back.device().rings, [1]);
}

#[test]
fn dropping_a_connected_back_end_disconnects_the_device() {
    #[derive(Debug)]
    struct Told(Arc<std::sync::atomic::AtomicU32>);
    impl Device for Told {
        fn describe(&self) -> Keys {
            Keys::new()
        }
        fn connect(&mut self, _: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
            Ok(Keys::new())
        }
        fn disconnect(&mut self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let told = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let world = world();
    let client = Arc::new(world.dom0.store().client(DomId::DOM0).unwrap());
    drop(world.back);
    let mut back = Backend::new(client, world.id.clone(), Told(told.clone())).unwrap();
    world.front.publish(&Keys::new(), S::CONNECTED).unwrap();
    back.process().unwrap();
    drop(back);
    assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn the_guest_may_read_what_it_must_and_write_only_its_own() {
    let world = world();
    let read = |path: &str| world.guest.read_string(NONE, path).unwrap();
    assert_eq!(read("name"), "guest");
    assert_eq!(read("cpu/1/availability"), "online");
    assert_eq!(read("store/port"), "1");
    assert_eq!(read("console/ring-ref"), 0xfeffe.to_string());
    assert_eq!(read("device/vbd/51712/backend-id"), "0");
    assert_eq!(world.guest.directory(NONE, "device").unwrap(), ["vbd"]);
    assert_eq!(read(&format!("{}/mode", world.id.backend_path())), "w");
    for path in [
        "name",
        "device/vif/0/state",
        "device/vbd/51713",
        "cpu/0/availability",
    ] {
        let error = world.guest.write(NONE, path, b"x").unwrap_err();
        assert_eq!(error.errno, cantle_abi::Errno::EACCES, "{path}");
    }
    let backend = world.id.backend_path();
    assert!(
        world
            .guest
            .write(NONE, &format!("{backend}/params"), b"/etc/shadow")
            .is_err()
    );
    world.guest.write(NONE, "data/report", b"x").unwrap();
    world.guest.write(NONE, "control/shutdown", b"").unwrap();
}

fn readable(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    use std::os::fd::AsRawFd;
    let poll = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let count = poll
        .lines()
        .find_map(|line| line.strip_prefix("eventfd-count:"))
        .unwrap();
    u64::from_str_radix(count.trim(), 16).unwrap() > 0
}

#[test]
fn a_guest_client_that_takes_no_events_is_bounded() {
    let world = world();
    // Everything the guest watches changes under many names; what waits for it stays small (XSA-326).
    world.guest.watch("/local/domain/5", "all").unwrap();
    for number in 0..20_000 {
        let path = format!("/local/domain/5/device/x{number}");
        world.dom0.write(NONE, &path, b"").unwrap();
    }
    let mut taken = 0;
    let mut whole = false;
    while let Some(event) = world.guest.take_event() {
        taken += 1;
        whole |= event.path == "/local/domain/5";
    }
    assert!(taken < 3000, "{taken} events waited");
    assert!(whole, "what was condensed is announced");
}
