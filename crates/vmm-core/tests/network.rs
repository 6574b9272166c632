//! The probe guest's network interface against a real tap, in a network namespace of the test's own.

// UNSAFETY: a thread leaves its network namespace.
#![expect(unsafe_code)]

mod support;

use std::process::Command;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_vmm_core::net::switch::{PortOptions, VlanId, Vlans};
use cantle_vmm_core::net::{HostSwitch, SwitchConfig};
use cantle_vmm_core::{
    Console, End, GuestConfig, Machine, MachineControl, NetConfig, NetLink, Outcome,
};
use support::{assert_passed, console, guest, have, have_kvm, run, text};

fn ip(arguments: &str) {
    let done = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .expect("iproute2 is installed");
    assert!(done.success(), "ip {arguments}");
}

#[test]
fn kvm_a_guest_pings_its_host() {
    if !have_kvm() || !have("/dev/net/tun", "no taps here") {
        return;
    }
    // SAFETY: a new network namespace, of this thread alone (and of the machine's threads, which it makes); no
    // descriptor table or memory is unshared.
    let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
    if let Err(error) = unshared {
        assert!(
            std::env::var_os("CI").is_none(),
            "a network namespace: {error}"
        );
        eprintln!("SKIPPED: no network namespace can be made: {error}");
        return;
    }
    ip("tuntap add dev probe0 mode tap vnet_hdr");
    ip("addr add 192.168.77.1/24 dev probe0");
    ip("link set probe0 up");
    let nets = vec![NetConfig {
        mac: Some([0x00, 0x16, 0x3e, 1, 2, 3]),
        ..NetConfig::tap("probe0")
    }];
    let config = GuestConfig {
        nets,
        ..guest("probe=net net-ip=192.168.77.2 net-peer=192.168.77.1")
    };
    let (outcome, text) = run(config);
    assert_passed(&outcome, &text, 1);
    let net = &outcome.stats.nets["0"];
    assert!(net["tx_packets"] >= 2 && net["rx_packets"] >= 2, "{net:?}");
    assert_eq!(net["rx_errors"], 0);
}

/// An interface at a switch, in a VLAN.
fn at(switch: &Arc<HostSwitch>, vlan: u16) -> NetConfig {
    NetConfig::new(NetLink::Switch {
        switch: switch.clone(),
        port: PortOptions {
            vlans: Vlans::Access(VlanId::new(vlan).expect("a VLAN")),
            ..PortOptions::default()
        },
        filter: true,
    })
}

/// A guest that runs beside the test.
struct Beside {
    control: MachineControl,
    thread: std::thread::JoinHandle<(Outcome, String)>,
}

impl Beside {
    /// Begins, and waits until it has printed `word`.
    fn start(name: &str, cmdline: &str, nets: Vec<NetConfig>, word: &str) -> Self {
        Self::with(name, cmdline, nets, word, |_| {})
    }

    /// As [`start`](Self::start), with something done before the guest runs.
    fn with(
        name: &str,
        cmdline: &str,
        nets: Vec<NetConfig>,
        word: &str,
        before: impl FnOnce(&MachineControl),
    ) -> Self {
        let (Console { input, output }, mut file) = console();
        let config = GuestConfig {
            name: name.to_owned(),
            nets,
            ..guest(cmdline)
        };
        let machine = Machine::new(config, Console { input, output }).expect("set up");
        let control = machine.control();
        before(&control);
        let mut reader = file.try_clone().expect("one more descriptor");
        let thread = std::thread::spawn(move || {
            let outcome = machine.run().expect("run");
            (outcome, text(&mut file))
        });
        let begun = Instant::now();
        loop {
            // The file's position is shared; nobody else reads before the guest's end.
            let printed = text_at(&mut reader);
            if printed.contains(word) {
                return Self { control, thread };
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60) && !thread.is_finished(),
                "{name} has not printed {word:?}:\n{printed}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(self) -> (Outcome, String) {
        self.control.destroy();
        self.thread.join().expect("its thread")
    }
}

/// What a file holds, read without moving its position, which the guest's console writes at.
fn text_at(file: &mut std::fs::File) -> String {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; 1 << 20];
    let read = file.read_at(&mut bytes, 0).expect("a file");
    bytes.truncate(read);
    String::from_utf8_lossy(&bytes).into_owned()
}

const SERVER: &str = "probe=net net-ip=10.7.0.1 net-serve=60";
const PINGS: &str = "probe=net net-ip=10.7.0.2 net-peer=10.7.0.1";

#[test]
fn kvm_guests_of_one_process_reach_each_other_by_a_switch() {
    if !have_kvm() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let switch = HostSwitch::new(SwitchConfig::new("lan")).expect("a switch");
    let capture = folder.path().join("web.pcap");
    let web = NetConfig {
        capture: Some(capture.clone()),
        ip: vec!["10.7.0.1".parse().expect("an address")],
        ..at(&switch, 1)
    };
    let web = Beside::start("web", SERVER, vec![web], "serving");
    let client = GuestConfig {
        name: "client".to_owned(),
        nets: vec![at(&switch, 1)],
        ..guest(PINGS)
    };
    let (outcome, text) = run(client);
    assert_passed(&outcome, &text, 1);
    let client = &outcome.stats.nets["0"];
    let (outcome, text) = web.end();
    assert_eq!(outcome.end, End::Destroyed, "{text}");
    let web = &outcome.stats.nets["0"];
    // An answer to who has its address, and three pings.
    assert!(web["tx_packets"] >= 4 && web["rx_packets"] >= 4, "{web:?}");
    assert!(
        web["port_rx_packets"] >= 4 && web["port_tx_packets"] >= 4,
        "{web:?}"
    );
    assert!(client["rx_packets"] >= 4, "{client:?}");
    assert_eq!(web["capture_lost"], 0);
    let captured = std::fs::metadata(&capture).expect("a capture").len();
    assert!(captured > 8 * 42, "{captured} bytes");
    assert_eq!(switch.switch().ports().len(), 0);
}

#[test]
fn kvm_vlans_of_a_switch_are_apart() {
    if !have_kvm() {
        return;
    }
    let switch = HostSwitch::new(SwitchConfig::new("lan")).expect("a switch");
    let web = Beside::start("web", SERVER, vec![at(&switch, 1)], "serving");
    let client = GuestConfig {
        name: "client".to_owned(),
        nets: vec![at(&switch, 2)],
        ..guest(PINGS)
    };
    let (_, text) = run(client);
    assert!(text.contains("1 failed"), "it was reached:\n{text}");
    let (outcome, _) = web.end();
    assert_eq!(outcome.stats.nets["0"]["rx_packets"], 0);
}

#[test]
fn kvm_an_interface_comes_and_is_taken_from_a_driver_that_holds_on_to_it() {
    if !have_kvm() {
        return;
    }
    let switch = HostSwitch::new(SwitchConfig::new("lan")).expect("a switch");
    let nets = vec![NetConfig::new(NetLink::Nowhere)];
    let cmdline = "probe=net net=1 net-ip=10.7.0.1 net-serve=60";
    let web = Beside::with("web", cmdline, nets, "serving", |control| {
        assert_eq!(control.attach_net(&at(&switch, 1)).expect("one more"), 1);
    });
    web.control.detach_net(1).expect("it is there");
    assert!(web.control.detach_net(2).is_err());
    let begun = Instant::now();
    while !switch.switch().ports().is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "it is still there"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    // The probe does not look at what the back end says.
    assert!(begun.elapsed() > Duration::from_secs(5), "it was not asked");
    assert!(!web.thread.is_finished(), "the guest goes on");
    let (outcome, text) = web.end();
    assert_eq!(outcome.end, End::Destroyed, "{text}");
    assert!(outcome.stats.nets["1"]["tx_packets"] >= 1);
}
