//! Ports that are read.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cantle_netport::test_utils::{Recorded, Recorder};
use cantle_netport::{
    Checksum, Frame, NetDevice, NetPort, NullPort, Offload, Offloads, PartMut, Received,
};
use cantle_switch::test_utils::{Collector, Owned, send};
use cantle_switch::{
    MacAddr, PortOptions, Switch, SwitchOptions, UplinkError, VlanId, VlanSet, Vlans,
};

const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PATIENCE: Duration = Duration::from_secs(20);

fn wait(what: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < until, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn frames_go_both_ways() {
    let switch = Switch::new(SwitchOptions::default());
    let (far, wire) = Recorder::new().unwrap();
    let vlans = Vlans::Trunk {
        allowed: VlanSet::all(),
        native: None,
    };
    let uplink = switch
        .add_uplink(
            Box::new(far),
            PortOptions {
                vlans,
                ..PortOptions::default()
            },
        )
        .unwrap();
    assert!(wire.link() && wire.accepted().tso_v6);
    let guest = switch.add_port(PortOptions::default()).unwrap();
    let sink = Arc::new(Collector::default());
    guest.set_sink(Some(sink.clone()));

    let offload = Offload {
        checksum: Checksum::Blank {
            start: 38,
            offset: 16,
        },
        gso: None,
    };
    let mut all = Vec::new();
    for n in 0..500_u16 {
        let mut frame = Owned::new(GUEST, HOST, &[1], &n.to_be_bytes());
        frame.bytes.resize(60 + usize::from(n) * 130, 3);
        wire.inject(Recorded {
            bytes: frame.bytes.clone(),
            offload,
        });
        frame.bytes.drain(12..16);
        frame.offload.checksum = Checksum::Blank {
            start: 34,
            offset: 16,
        };
        all.push(frame);
    }
    wait(|| guest.counters().tx_packets == 500);
    assert_eq!(sink.take(), all);

    let mut queue = guest.open_queue().unwrap();
    let back = Owned::new(HOST, GUEST, &[], &[0x88, 0xb5]);
    assert_eq!(send(&mut *queue, &[back], 256), [true]);
    let sent = wire.wait_sent(1, PATIENCE);
    assert_eq!(
        sent[0].bytes,
        Owned::new(HOST, GUEST, &[1], &[0x88, 0xb5]).bytes
    );
    assert_eq!(uplink.port().counters().tx_packets, 1);

    // Whoever else still holds its port.
    let held = uplink.port().clone();
    drop(uplink);
    assert_eq!(switch.ports().len(), 1);
    assert_eq!(switch.options(held.id()), None);
    assert!(
        switch
            .addresses()
            .iter()
            .all(|known| known.mac == GUEST && known.vlan == VlanId::DEFAULT)
    );
}

#[test]
fn two_uplinks_send_at_each_other() {
    let switch = Switch::new(SwitchOptions::default());
    let pair: Vec<_> = (0..2)
        .map(|_| {
            let (far, wire) = Recorder::new().unwrap();
            (
                switch
                    .add_uplink(Box::new(far), PortOptions::default())
                    .unwrap(),
                wire,
            )
        })
        .collect();
    for n in (0..2000_u16).map(|n| n.to_le_bytes()[0]) {
        let frame = |to, from| Recorded {
            bytes: Owned::new(to, from, &[], &[n; 50]).bytes,
            offload: Offload::default(),
        };
        pair[0].1.inject(frame(HOST, GUEST));
        pair[1].1.inject(frame(GUEST, HOST));
    }
    wait(|| {
        pair.iter()
            .all(|(uplink, _)| uplink.port().counters().tx_packets == 2000)
    });
    assert!(pair.iter().all(|(_, wire)| wire.take_sent().len() == 2000));
}

/// Says that there is something, and then there is not.
struct Broken {
    readable: std::fs::File,
    asked: Arc<AtomicU64>,
    fails: bool,
}

impl NetPort for Broken {
    fn send(&mut self, _batch: &mut [Frame<'_>]) {}

    fn receive(&mut self, _into: &mut [PartMut<'_>]) -> io::Result<Received> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.fails {
            Err(io::Error::other("broken"))
        } else {
            Ok(Received::Nothing)
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(std::os::fd::AsFd::as_fd(&self.readable))
    }

    fn accept(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_port_that_is_broken_costs_little_and_goes_away() {
    for fails in [false, true] {
        let switch = Switch::new(SwitchOptions::default());
        let asked = Arc::new(AtomicU64::new(0));
        let readable = std::fs::File::open("/dev/zero").unwrap();
        let broken = Broken {
            readable,
            asked: asked.clone(),
            fails,
        };
        let uplink = switch
            .add_uplink(Box::new(broken), PortOptions::default())
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let count = asked.load(Ordering::Relaxed);
        assert!((2..60).contains(&count), "{count}");
        assert_eq!(uplink.port().counters().errors > 0, fails);
        drop(uplink);
        assert!(switch.ports().is_empty());
    }
}

#[test]
fn a_port_that_is_not_read_is_refused() {
    let switch = Switch::new(SwitchOptions::default());
    let refused = switch.add_uplink(Box::new(NullPort), PortOptions::default());
    assert!(matches!(refused, Err(UplinkError::NoDescriptor)));
    assert!(switch.ports().is_empty());
}
