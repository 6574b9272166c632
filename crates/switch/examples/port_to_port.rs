//! Nanoseconds for a 64-byte frame from port to port, with a sink that does nothing: `cargo run --release -p cantle-switch
//! --features test-utils --example port_to_port`.

use std::sync::Arc;
use std::time::Instant;

use cantle_netport::{Frame, NetDevice, NetPort, Offload, Part};
use cantle_switch::test_utils::{NullSink, Owned};
use cantle_switch::{
    IpPrefix, MacAddr, PortOptions, SpoofFilter, Switch, SwitchOptions, SwitchPort, VlanId,
    VlanSet, Vlans,
};

const BATCH: usize = 32;
const ROUNDS: usize = 200_000;

fn station(n: usize) -> MacAddr {
    let [.., a, b] = n.to_be_bytes();
    MacAddr([2, 0, 0, 0, a, b])
}

fn frame(to: MacAddr, from: MacAddr) -> Owned {
    let mut packet = vec![
        8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ];
    packet.resize(52, 0);
    Owned::new(to, from, &[], &packet)
}

/// Sends `frames` as batches again and again, and says what each took.
fn measure(what: &str, queue: &mut dyn NetPort, frames: &[Owned]) {
    let parts: Vec<Part<'_>> = frames
        .iter()
        .map(|frame| Part::from(&frame.bytes[..]))
        .collect();
    let batches: Vec<&[Part<'_>]> = parts.chunks(BATCH).collect();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let rounds = ROUNDS / 5 / batches.len();
        let start = Instant::now();
        for _ in 0..rounds {
            for parts in &batches {
                let mut batch: [Frame<'_>; BATCH] = std::array::from_fn(|at| Frame {
                    parts: std::slice::from_ref(&parts[at]),
                    len: parts[at].len(),
                    offload: Offload::default(),
                    taken: false,
                });
                queue.send(&mut batch);
            }
        }
        let sent = rounds * frames.len();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let each = start.elapsed().as_nanos() as f64 / sent as f64;
        best = best.min(each);
    }
    println!("{what:<44} {best:7.1} ns per frame");
}

fn port(switch: &Arc<Switch>, options: PortOptions) -> SwitchPort {
    let port = switch.add_port(options).expect("few ports");
    port.set_sink(Some(Arc::new(NullSink)));
    port
}

fn main() {
    let switch = Switch::new(SwitchOptions::default());
    let from = port(&switch, PortOptions::default());
    let vlans = Vlans::Trunk {
        allowed: VlanSet::all(),
        native: None,
    };
    let to = port(&switch, PortOptions::default());
    let trunk = port(
        &switch,
        PortOptions {
            vlans,
            ..PortOptions::default()
        },
    );
    let mut queue = from.open_queue().expect("the first queue");
    let behind = |port: &SwitchPort, stations: std::ops::Range<usize>| {
        for n in stations {
            switch
                .add_static(VlanId::DEFAULT, station(n), port.id())
                .expect("a station");
        }
    };
    behind(&to, 1..2);
    behind(&trunk, 2..3);
    behind(&to, 1000..1512);
    let one = vec![frame(station(1), station(0)); BATCH];
    measure("one receiver", &mut *queue, &one);
    let tagged = vec![frame(station(2), station(0)); BATCH];
    measure("one receiver, a tag put on", &mut *queue, &tagged);
    let mixed: Vec<Owned> = (0..BATCH)
        .map(|n| frame(station(1 + n % 2), station(0)))
        .collect();
    measure("two receivers in turn, one with a tag", &mut *queue, &mixed);
    let many: Vec<Owned> = (0..512)
        .map(|n| frame(station(1000 + n), station(0)))
        .collect();
    measure(
        "512 destinations (looked up in the table)",
        &mut *queue,
        &many,
    );
    let flood = vec![frame(MacAddr::BROADCAST, station(0)); BATCH];
    measure(
        "to everybody (two receivers, one with a tag)",
        &mut *queue,
        &flood,
    );
    let filter = SpoofFilter {
        macs: Some(vec![station(0)]),
        addresses: Some(vec![IpPrefix::from(std::net::IpAddr::from([192, 0, 2, 1]))]),
    };
    from.set_options(PortOptions {
        filter: Some(filter),
        ..PortOptions::default()
    })
    .expect("it is there");
    measure("one receiver, with a filter", &mut *queue, &one);
    assert!(to.counters().tx_packets > 0 && from.counters().dropped_total() == 0);
}
