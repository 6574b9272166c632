use std::thread::sleep;
use std::time::Duration;

use cantle_abi::io::xenbus::XenbusState as S;
use cantle_evtchn::Hub;
use cantle_grant::{InProcessMapper, Tables};
use cantle_netback::{BackendOptions, NetControl};
use cantle_xenstore::prelude::*;
use cantle_xenstore::xenbus::{BareFrontend, toolstack};
use cantle_xenstore::{LocalClient, Shared, TxId};
use proptest::prelude::*;

use super::*;

const GUEST: DomId = DomId(1);
const CONTROL: &str = "/cantle/network/control";
const CONTROL_ERROR: &str = "/cantle/network/control-error";

/// A host without a guest in it: a store, and what serves interfaces.
struct Host {
    store: Shared,
    dom0: LocalClient,
    nets: Arc<Nets>,
    watch: NetWatch,
    stop: EventFd,
}

impl Host {
    fn new(configs: &[NetConfig]) -> Self {
        Self::called("guest", configs)
    }

    fn called(name: &str, configs: &[NetConfig]) -> Self {
        let store = Shared::default();
        let dom0 = store.client(DomId::DOM0).unwrap();
        let spec = toolstack::DomainSpec {
            domid: GUEST,
            name: name.to_owned(),
            memory_kib: 4096,
            vcpus: 1,
            store: None,
            console: None,
        };
        toolstack::create_domain(&dom0, &spec).unwrap();
        store.introduce(GUEST).unwrap();
        let platform = Platform {
            store: store.clone(),
            channels: Hub::new().add_system(DomId::DOM0).unwrap(),
            grants: Arc::new(InProcessMapper::new(Arc::new(Tables::new()), DomId::DOM0)),
            guest: GUEST,
            guest_name: name.to_owned(),
        };
        let stop = crate::services::event().unwrap();
        let nets = Arc::new(Nets::new(platform, &stop, configs).unwrap());
        let client = Arc::new(store.client(DomId::DOM0).unwrap());
        Self {
            watch: NetWatch::new(nets.clone(), client).unwrap(),
            store,
            dom0,
            nets,
            stop,
        }
    }

    fn id(index: u32) -> DeviceId {
        DeviceId::new("vif", index, GUEST, DomId::DOM0)
    }

    fn back(&self, index: u32, key: &str) -> Option<String> {
        let path = format!("{}/{key}", Self::id(index).backend_path());
        self.dom0.read_string(TxId::NONE, &path).ok()
    }

    fn front(&self, index: u32, key: &str) -> Option<String> {
        let path = format!("{}/{key}", Self::id(index).frontend_path());
        self.dom0.read_string(TxId::NONE, &path).ok()
    }

    /// Says something of an interface; why it was not done.
    fn say(&mut self, index: u32, key: &str, value: Option<&str>) -> Option<String> {
        let path = format!("{}/{key}", Self::id(index).backend_path());
        match value {
            Some(value) => self
                .dom0
                .write(TxId::NONE, &path, value.as_bytes())
                .unwrap(),
            None => self.dom0.rm(TxId::NONE, &path).unwrap(),
        }
        self.watch.look();
        self.back(index, "control-error")
    }

    /// Gives an order; why it was not done.
    fn order(&mut self, order: &str) -> Option<String> {
        self.dom0
            .write(TxId::NONE, CONTROL, order.as_bytes())
            .unwrap();
        self.watch.look();
        assert!(
            !self.dom0.exists(TxId::NONE, CONTROL).unwrap(),
            "it was taken"
        );
        self.dom0.read_string(TxId::NONE, CONTROL_ERROR).ok()
    }

    fn control(&self, index: u32) -> NetControl {
        self.nets.lock().nets[&index].control.clone()
    }

    fn there(&self) -> Vec<u32> {
        self.nets.lock().nets.keys().copied().collect()
    }

    /// Until only these are left.
    fn wait_for(&mut self, left: &[u32]) {
        for _ in 0..500 {
            self.watch.look();
            if self.there() == left {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("{:?}", self.there());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.write(1).unwrap();
        self.nets.end();
    }
}

fn nowhere() -> NetConfig {
    NetConfig::new(NetLink::Nowhere)
}

fn at(switch: &Arc<HostSwitch>) -> NetConfig {
    NetConfig::new(NetLink::Switch {
        switch: switch.clone(),
        port: cantle_switch::PortOptions::default(),
        filter: false,
    })
}

#[test]
fn what_an_interface_is_stands_in_its_directories() {
    let mut options = BackendOptions::default();
    options.mtu = Some(9000);
    options.tx_rate = Some("10MB/s".parse().unwrap());
    options.link = false;
    let host = Host::new(&[
        NetConfig {
            mac: Some([0, 0x16, 0x3e, 1, 2, 3]),
            ip: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            options,
            ..nowhere()
        },
        nowhere(),
    ]);
    let back = |key| host.back(0, key);
    assert_eq!(back("mac").as_deref(), Some("00:16:3e:01:02:03"));
    assert_eq!(back("mtu").as_deref(), Some("9000"));
    assert_eq!(back("rate").as_deref(), Some("500000,50000"));
    assert_eq!(
        (back("rate-rx"), back("link").as_deref()),
        (None, Some("0"))
    );
    assert_eq!(back("ip").as_deref(), Some("10.0.0.2 fd00::2"));
    assert_eq!(host.front(0, "mac"), back("mac"));
    assert_eq!(host.front(0, "mtu").as_deref(), Some("9000"));
    assert_eq!(host.front(0, "disconnect").as_deref(), Some("1"));
    assert_eq!(host.front(1, "disconnect").as_deref(), Some("0"));
    assert_eq!((host.front(1, "mtu"), host.back(1, "ip")), (None, None));
    assert_ne!(host.back(0, "mac"), host.back(1, "mac"));
}

#[test]
fn what_is_said_while_it_is_served_is_done() {
    let mut host = Host::new(&[nowhere()]);
    let control = host.control(0);
    assert!(control.link());
    assert_eq!(host.say(0, "link", Some("0")), None);
    assert!(!control.link());
    assert_eq!(host.front(0, "disconnect").as_deref(), Some("1"));
    assert_eq!(host.say(0, "link", Some("1")), None);
    assert_eq!(host.front(0, "disconnect").as_deref(), Some("0"));
    assert_eq!(host.say(0, "link", Some("0")), None);
    assert_eq!(host.say(0, "link", None), None);
    assert!(control.link(), "unless it is said, it is up");
    assert_eq!(host.say(0, "mtu", Some("1400")), None);
    assert_eq!(host.front(0, "mtu").as_deref(), Some("1400"));
    for rate in [Some("1000000,50000"), Some(""), None] {
        for key in ["rate", "rate-rx"] {
            assert_eq!(host.say(0, key, rate), None);
        }
    }
}

#[test]
fn what_cannot_be_done_says_why_and_changes_nothing() {
    let mut host = Host::new(&[nowhere()]);
    for (key, value, word) in [
        ("link", "up", "not 0 or 1"),
        ("mtu", "67", "not one of 68 to 65535"),
        ("mtu", "many", "not one of 68 to 65535"),
        ("rate", "10MB/s", "rate: "),
        ("rate-rx", "5", "rate-rx: "),
    ] {
        let why = host.say(0, key, Some(value)).unwrap();
        assert!(why.contains(word), "{key}={value}: {why}");
        assert!(host.control(0).link());
        assert_eq!(host.front(0, "mtu"), None);
    }
    assert_eq!(host.say(0, "mtu", Some("1500")), None, "and is taken back");
}

#[test]
fn interfaces_come_and_go() {
    let mut host = Host::new(&[nowhere(), nowhere()]);
    host.nets.start().unwrap();
    assert_eq!(host.nets.attach(&nowhere()).unwrap(), 2);
    host.watch.look();
    assert_eq!(host.say(2, "mtu", Some("1400")), None);
    assert_eq!(
        host.front(2, "mtu").as_deref(),
        Some("1400"),
        "it is watched"
    );
    // No driver has it: it goes at once.
    host.nets.detach(1).unwrap();
    host.wait_for(&[0, 2]);
    for directory in [Host::id(1).backend_path(), Host::id(1).frontend_path()] {
        assert!(!host.dom0.exists(TxId::NONE, &directory).unwrap());
    }
    assert_eq!(host.nets.detach(1), Err(NetError::Unknown(1)));
    // Its number is free for the next.
    assert_eq!(host.nets.attach(&nowhere()).unwrap(), 1);
    assert_eq!(host.nets.attach(&nowhere()).unwrap(), 3);
    let mut stats = Stats::default();
    host.stop.write(1).unwrap();
    host.nets.end();
    host.nets.count(&mut stats);
    assert_eq!(stats.nets.keys().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    assert!(matches!(
        host.nets.attach(&nowhere()),
        Err(SetupError::Nets(NetError::Ended))
    ));
}

#[test]
fn a_driver_lets_go_of_an_interface_before_it_goes() {
    let mut host = Host::new(&[nowhere()]);
    host.nets.start().unwrap();
    let guest = Arc::new(host.store.client(GUEST).unwrap());
    let driver = BareFrontend::new(guest, &Host::id(0)).unwrap();
    // It waits for its back end in vain, and has the device for its own.
    driver.publish(&Vec::new(), S::INITIALISED).unwrap();
    let until = |state| {
        for _ in 0..500 {
            if driver.backend_state().unwrap() == state {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("{state:?}: {:?}", driver.backend_state());
    };
    until(S::CLOSING);
    host.nets.detach(0).unwrap();
    host.nets.detach(0).unwrap();
    for _ in 0..10 {
        host.watch.look();
        assert_eq!(host.there(), [0]);
        sleep(Duration::from_millis(5));
    }
    driver.publish(&Vec::new(), S::CLOSED).unwrap();
    host.wait_for(&[]);
    assert_eq!(host.back(0, "state"), None);
}

#[test]
fn a_driver_that_never_lets_go_is_not_waited_for() {
    let mut host = Host::new(&[nowhere()]);
    host.nets.start().unwrap();
    let guest = Arc::new(host.store.client(GUEST).unwrap());
    let driver = BareFrontend::new(guest, &Host::id(0)).unwrap();
    driver.publish(&Vec::new(), S::INITIALISED).unwrap();
    while driver.backend_state().unwrap() != S::CLOSING {
        sleep(Duration::from_millis(5));
    }
    host.nets.detach(0).unwrap();
    host.watch.look();
    assert_eq!(host.there(), [0]);
    let long_ago = Instant::now().checked_sub(super::watch::PATIENCE).unwrap();
    let mut state = host.nets.lock();
    state
        .nets
        .get_mut(&0)
        .unwrap()
        .leaving
        .as_mut()
        .unwrap()
        .since = long_ago;
    drop(state);
    host.wait_for(&[]);
    assert!(
        !host
            .dom0
            .exists(TxId::NONE, &Host::id(0).backend_path())
            .unwrap()
    );
}

#[test]
fn directories_that_are_taken_away_take_the_interface_with_them() {
    let mut host = Host::new(&[nowhere(), nowhere()]);
    host.nets.start().unwrap();
    toolstack::destroy_device(&host.dom0, &Host::id(0)).unwrap();
    host.wait_for(&[1]);
    assert_eq!(host.nets.attach(&nowhere()).unwrap(), 0);
}

#[test]
fn an_interface_that_cannot_be_leaves_nothing_for_the_guest_to_see() {
    let host = Host::new(&[nowhere()]);
    host.nets.start().unwrap();
    let socket = std::path::PathBuf::from("/nowhere/at/all");
    let refused = host
        .nets
        .attach(&NetConfig::new(NetLink::Stream { socket }));
    assert!(
        matches!(refused, Err(SetupError::Net { .. })),
        "{refused:?}"
    );
    assert_eq!(
        (host.front(1, "state"), host.back(1, "state")),
        (None, None)
    );
    assert_eq!(host.there(), [0]);
}

#[test]
fn what_a_guest_says_wakes_nobody() {
    let mut host = Host::new(&[nowhere()]);
    host.nets.start().unwrap();
    host.watch.look();
    let guest = Arc::new(host.store.client(GUEST).unwrap());
    let driver = BareFrontend::new(guest, &Host::id(0)).unwrap();
    for state in [S::INITIALISED, S::CLOSED, S::INITIALISING, S::CLOSED] {
        let before = driver.backend_state().unwrap();
        driver.publish(&Vec::new(), state).unwrap();
        while driver.backend_state().unwrap() == before {
            sleep(Duration::from_millis(2));
        }
    }
    assert!(!host.watch.has_event());
    assert_eq!(host.say(0, "link", Some("0")), None);
}

#[test]
fn orders_are_given_in_the_store() {
    let mut host = Host::new(&[nowhere()]);
    host.nets.start().unwrap();
    let why = host.order("attach none").unwrap();
    assert!(why.contains("nobody here knows"), "{why}");
    host.nets.read_with(Arc::new(|text| match text {
        "none" => Ok(nowhere()),
        _ => Err(format!("{text:?} is not none")),
    }));
    assert_eq!(host.order("attach none"), None);
    let attached = host
        .dom0
        .read_string(TxId::NONE, "/cantle/network/attached");
    assert_eq!(attached.unwrap(), "1");
    assert_eq!(host.there(), [0, 1]);
    assert_eq!(host.order("detach 0"), None);
    host.wait_for(&[1]);
    for (wrong, word) in [
        ("attach some", "not none"),
        ("attach", "attach WORDS or detach NUMBER"),
        ("detach 7", "no network interface 7"),
        ("detach all", "no interface's number"),
        ("explode", "attach WORDS or detach NUMBER"),
        ("", "attach WORDS or detach NUMBER"),
    ] {
        let why = host.order(wrong).unwrap();
        assert!(why.contains(word), "{wrong:?}: {why}");
    }
    assert_eq!(host.there(), [1]);
}

#[test]
fn a_guest_gives_no_orders() {
    let host = Host::new(&[nowhere()]);
    let guest = host.store.client(GUEST).unwrap();
    let order = guest.write(TxId::NONE, CONTROL, b"attach none");
    assert_eq!(order.unwrap_err().errno, cantle_abi::Errno::EACCES);
    let link = format!("{}/link", Host::id(0).backend_path());
    assert_eq!(
        guest.write(TxId::NONE, &link, b"0").unwrap_err().errno,
        cantle_abi::Errno::EACCES
    );
}

#[test]
fn there_are_not_more_than_there_may_be() {
    let host = Host::new(&vec![nowhere(); MAX_NETS]);
    assert!(matches!(
        host.nets.attach(&nowhere()),
        Err(SetupError::Nets(NetError::TooMany))
    ));
    let mut wrong = nowhere();
    wrong.options.queues_max = 17;
    assert!(wrong.check().is_err());
    wrong.options.queues_max = 1;
    wrong.options.mtu = Some(67);
    assert!(wrong.check().is_err());
}

#[test]
fn guests_meet_at_a_switch_and_a_mirror_sees_them() {
    let config = SwitchConfig {
        mirrors: vec!["ids.0".to_owned()],
        ..SwitchConfig::new("lan")
    };
    let switch = HostSwitch::new(config).unwrap();
    let mut filtered = at(&switch);
    filtered.ip = vec!["10.0.0.2".parse().unwrap()];
    if let NetLink::Switch { filter, .. } = &mut filtered.link {
        *filter = true;
    }
    let web = Host::called("web", &[filtered]);
    let ids = Host::called("ids", &[at(&switch)]);
    let db = Host::called("db", &[at(&switch)]);
    let port = |name: &str| {
        let ports = switch.switch().ports();
        ports.into_iter().find(|port| port.options.name == name)
    };
    let of = |name| port(name).unwrap().id;
    let filter = port("web.0").unwrap().options.filter.clone().unwrap();
    let mac = filter.macs.unwrap()[0].to_string();
    assert_eq!(Some(mac), web.back(0, "mac"));
    assert_eq!(filter.addresses.unwrap().len(), 1);
    assert_eq!(web.back(0, "vifname").as_deref(), Some("lan"));
    let mirror = port("ids.0").unwrap().options.mirror.clone().unwrap();
    assert_eq!(mirror.received, [of("web.0"), of("db.0")]);
    assert_eq!(mirror.sent, []);
    db.nets.start().unwrap();
    db.nets.detach(0).unwrap();
    let mut db = db;
    db.wait_for(&[]);
    assert!(port("db.0").is_none(), "its port goes with it");
    drop((web, ids));
    assert_eq!(switch.switch().ports().len(), 0);
}

/// What may happen to interfaces.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Attach,
    Detach(u32),
    /// Its directories are taken away.
    Destroy(u32),
    Link(u32, bool),
    Mtu(u32, u32),
}

fn deed() -> impl Strategy<Value = Deed> {
    let index = 0..5_u32;
    prop_oneof![
        3 => Just(Deed::Attach),
        2 => index.clone().prop_map(Deed::Detach),
        1 => index.clone().prop_map(Deed::Destroy),
        2 => (index.clone(), any::<bool>()).prop_map(|(index, up)| Deed::Link(index, up)),
        2 => (index, 0..70_000_u32).prop_map(|(index, mtu)| Deed::Mtu(index, mtu)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Interfaces by their numbers, with whether they are up and what packets they were last told to carry, against a map.
    #[test]
    fn interfaces_are_those_of_a_map(deeds in prop::collection::vec(deed(), 0..24)) {
        let mut host = Host::new(&[]);
        host.nets.start().unwrap();
        let mut model = BTreeMap::<u32, (bool, Option<u32>)>::new();
        for deed in deeds {
            match deed {
                Deed::Attach => {
                    let free = (0..).find(|index| !model.contains_key(index)).unwrap();
                    prop_assert_eq!(host.nets.attach(&nowhere()).unwrap(), free);
                    model.insert(free, (true, None));
                }
                Deed::Detach(index) => {
                    let there = model.remove(&index).is_some();
                    prop_assert_eq!(host.nets.detach(index).is_ok(), there);
                }
                Deed::Destroy(index) => {
                    toolstack::destroy_device(&host.dom0, &Host::id(index)).unwrap();
                    model.remove(&index);
                }
                Deed::Link(index, up) => if let Some((now, _)) = model.get_mut(&index) {
                    *now = up;
                    host.say(index, "link", Some(if up { "1" } else { "0" }));
                }
                Deed::Mtu(index, mtu) => if let Some((_, now)) = model.get_mut(&index) {
                    let good = (68..=65_535).contains(&mtu);
                    if good {
                        *now = Some(mtu);
                    }
                    let why = host.say(index, "mtu", Some(&mtu.to_string()));
                    prop_assert!(!good || why.is_none());
                }
            }
            let there: Vec<u32> = model.keys().copied().collect();
            host.wait_for(&there);
            for (index, (up, mtu)) in &model {
                prop_assert_eq!(host.control(*index).link(), *up);
                let disconnect = if *up { "0" } else { "1" };
                prop_assert_eq!(host.front(*index, "disconnect"), Some(disconnect.to_owned()));
                prop_assert_eq!(host.front(*index, "mtu"), mtu.map(|mtu| mtu.to_string()));
            }
        }
    }
}
