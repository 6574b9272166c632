//! The probe guest's network interface against a real tap, in a network namespace of the test's own.

// UNSAFETY: a thread leaves its network namespace.
#![expect(unsafe_code)]

mod support;

use std::process::Command;

use cantle_vmm_core::{GuestConfig, NetConfig};
use support::{assert_passed, guest, have, have_kvm, run};

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
