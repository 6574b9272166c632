//! The whole switch against a plain model: random ports, VLANs, filters, moves and times.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "model/plain.rs"]
mod plain;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cantle_netport::{Checksum, Gso, GsoKind, NetDevice, NetPort, Offload};
use cantle_switch::test_utils::{Collector, ManualClock, Owned, send};
use cantle_switch::{
    DropReason, Limit, Limits, MacAddr, Mirror, PortOptions, SpoofFilter, Switch, SwitchOptions,
    SwitchPort, VlanId, VlanSet, Vlans,
};
use plain::{Plain, PortNumber};
use proptest::prelude::*;

/// Ports are added to and removed from so many places.
const PLACES: usize = 5;
const AGE: u64 = 5;

#[derive(Clone, Debug)]
struct Shape {
    options: PortOptions,
    /// Places of ports whose frames it gets copies of: received, sent.
    mirror: Option<(Vec<usize>, Vec<usize>)>,
}

#[derive(Clone, Debug)]
enum Op {
    Send {
        place: usize,
        queue: usize,
        frames: Vec<Owned>,
        first: usize,
    },
    Advance(u64),
    Add {
        place: usize,
        shape: Shape,
    },
    Change {
        place: usize,
        shape: Shape,
    },
    /// By dropping all there is of it, or by name.
    Remove {
        place: usize,
        drop: bool,
    },
    Fix {
        place: usize,
        vlan: VlanId,
        mac: MacAddr,
    },
    Unfix {
        vlan: VlanId,
        mac: MacAddr,
    },
    Forget(Option<usize>),
    LinkDown(usize),
}

fn station(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

fn stations() -> impl Strategy<Value = MacAddr> {
    (1_u8..6).prop_map(station)
}

fn vlans() -> impl Strategy<Value = VlanId> {
    (1_u16..4).prop_map(vlan)
}

fn part_in_vlans() -> impl Strategy<Value = Vlans> {
    let set = proptest::collection::vec(vlans(), 0..4)
        .prop_map(|set| set.into_iter().collect::<VlanSet>());
    prop_oneof![
        vlans().prop_map(Vlans::Access),
        Just(Vlans::Access(VlanId::DEFAULT)),
        (set, proptest::option::of(vlans()))
            .prop_map(|(allowed, native)| Vlans::Trunk { allowed, native }),
    ]
}

fn limit() -> impl Strategy<Value = Option<Limit>> {
    let limit = (0_u32..3, 0_u32..4).prop_map(|(per_second, burst)| Limit { per_second, burst });
    proptest::option::weighted(0.2, limit)
}

fn shape() -> impl Strategy<Value = Shape> {
    let filter = proptest::collection::vec(stations(), 1..4).prop_map(|macs| SpoofFilter {
        macs: Some(macs),
        addresses: None,
    });
    let limits = (limit(), limit(), limit()).prop_map(|(broadcast, multicast, unknown)| Limits {
        broadcast,
        multicast,
        unknown,
    });
    let places = || proptest::collection::vec(0..PLACES, 0..4);
    (
        part_in_vlans(),
        proptest::bool::weighted(0.3),
        proptest::option::weighted(0.2, filter),
        limits,
        proptest::bool::weighted(0.85),
        proptest::bool::weighted(0.8),
        proptest::option::weighted(0.1, (places(), places())),
    )
        .prop_map(
            |(vlans, isolated, filter, limits, learn, flood_unknown, mirror)| Shape {
                options: PortOptions {
                    vlans,
                    isolated,
                    filter,
                    limits,
                    learn,
                    flood_unknown,
                    addresses_max: 3,
                    ..PortOptions::default()
                },
                mirror,
            },
        )
}

fn frame() -> impl Strategy<Value = Owned> {
    let destination = prop_oneof![
        6 => stations(),
        1 => Just(MacAddr::BROADCAST),
        1 => Just(MacAddr([0x33, 0x33, 0, 0, 0, 1])),
        1 => Just(MacAddr([1, 0x80, 0xc2, 0, 0, 0])),
    ];
    let source =
        prop_oneof![20 => stations(), 1 => Just(MacAddr([3; 6])), 1 => Just(MacAddr([0; 6]))];
    let number = prop_oneof![2 => Just(0_u16), 8 => 1_u16..4, 1 => Just(4095_u16)];
    let kind = prop_oneof![12 => Just(0x8100_u16), 1 => Just(0x88a8_u16), 1 => Just(0x9100_u16)];
    let tag = (kind, number, 0_u16..16).prop_map(|(kind, number, top)| (kind, number | top << 12));
    let count = prop_oneof![6 => Just(0_usize), 4 => Just(1), 2 => Just(2), 1 => Just(3)];
    let tags = count.prop_flat_map(move |count| proptest::collection::vec(tag.clone(), count));
    let cut = prop_oneof![20 => Just(usize::MAX), 1 => 0_usize..30];
    (destination, source, tags, 0_usize..500, cut, offload()).prop_map(
        |(destination, source, tags, len, cut, offload)| {
            let mut bytes = [destination.0, source.0].concat();
            for (kind, tci) in tags {
                bytes.extend(kind.to_be_bytes());
                bytes.extend(tci.to_be_bytes());
            }
            bytes.extend([0x88, 0xb5]);
            bytes.extend((0..len).map(|at| at.to_le_bytes()[0]));
            bytes.truncate(cut);
            Owned { bytes, offload }
        },
    )
}

fn offload() -> impl Strategy<Value = Offload> {
    let place = || prop_oneof![8 => 18_u16..40, 1 => 0_u16..18, 1 => any::<u16>()];
    let checksum = prop_oneof![
        4 => Just(Checksum::Present),
        1 => Just(Checksum::Validated),
        2 => (place(), 0_u16..20).prop_map(|(start, offset)| Checksum::Blank { start, offset }),
    ];
    let gso = (
        prop_oneof![9 => 1_u16..1500, 1 => Just(0)],
        prop_oneof![1 => Just(0), 4 => place()],
    )
        .prop_map(|(size, header_len)| Gso {
            kind: GsoKind::TcpV4,
            size,
            header_len,
            ecn: false,
        });
    (checksum, proptest::option::weighted(0.2, gso))
        .prop_map(|(checksum, gso)| Offload { checksum, gso })
}

fn op() -> impl Strategy<Value = Op> {
    let place = || 0..PLACES;
    let frames = proptest::collection::vec(frame(), 1..10);
    // The first part has the link's header in any case.
    let first = prop_oneof![Just(usize::MAX), 22_usize..300];
    prop_oneof![
        12 => (place(), 0_usize..2, frames, first)
            .prop_map(|(place, queue, frames, first)| Op::Send { place, queue, frames, first }),
        2 => (0_u64..4).prop_map(Op::Advance),
        2 => (place(), shape()).prop_map(|(place, shape)| Op::Add { place, shape }),
        2 => (place(), shape()).prop_map(|(place, shape)| Op::Change { place, shape }),
        1 => (place(), any::<bool>()).prop_map(|(place, drop)| Op::Remove { place, drop }),
        1 => (place(), vlans(), stations()).prop_map(|(place, vlan, mac)| Op::Fix { place, vlan, mac }),
        1 => (vlans(), stations()).prop_map(|(vlan, mac)| Op::Unfix { vlan, mac }),
        1 => proptest::option::of(place()).prop_map(Op::Forget),
        1 => place().prop_map(Op::LinkDown),
    ]
}

struct Real {
    port: SwitchPort,
    queues: Vec<Box<dyn NetPort>>,
    sink: Arc<Collector>,
    number: PortNumber,
}

struct World {
    clock: Arc<ManualClock>,
    switch: Arc<Switch>,
    places: Vec<Option<Real>>,
    plain: Plain,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let options = SwitchOptions {
            addresses_max: 6,
            age: Duration::from_secs(AGE),
            moves_max: 2,
            clock: clock.clone(),
            ..SwitchOptions::default()
        };
        let places = std::iter::repeat_with(|| None).take(PLACES).collect();
        let plain = Plain::new(6, AGE, 2);
        Self {
            clock,
            switch: Switch::new(options),
            places,
            plain,
        }
    }

    /// The options of a shape, once with the switch's names of ports and once with the model's.
    fn options(&self, shape: &Shape) -> (PortOptions, Option<plain::Copies>) {
        let mut options = shape.options.clone();
        let Some((received, sent)) = &shape.mirror else {
            return (options, None);
        };
        let there = |of: &Vec<usize>| {
            of.iter()
                .filter_map(|place| self.places[*place].as_ref())
                .collect::<Vec<&Real>>()
        };
        let (received, sent) = (there(received), there(sent));
        options.mirror = Some(Mirror {
            received: received.iter().map(|real| real.port.id()).collect(),
            sent: sent.iter().map(|real| real.port.id()).collect(),
        });
        let numbers = |of: &[&Real]| of.iter().map(|real| real.number).collect();
        (
            options,
            Some(plain::Copies {
                received: numbers(&received),
                sent: numbers(&sent),
            }),
        )
    }

    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Send {
                place,
                queue,
                frames,
                first,
            } => return self.send(*place, *queue, frames, *first),
            Op::Advance(by) => {
                self.clock.advance(Duration::from_secs(*by));
                self.plain.now += by;
            }
            Op::Add { place, shape } => {
                if self.places[*place].is_none() {
                    let (options, copies) = self.options(shape);
                    let port = self.switch.add_port(options.clone()).unwrap();
                    let queues = (0..2).map(|_| port.open_queue().unwrap()).collect();
                    let sink = Arc::new(Collector::default());
                    port.set_sink(Some(sink.clone()));
                    port.set_link(true);
                    let number = self.plain.add(options, copies);
                    self.places[*place] = Some(Real {
                        port,
                        queues,
                        sink,
                        number,
                    });
                }
            }
            Op::Change { place, shape } => {
                let (options, copies) = self.options(shape);
                if let Some(real) = &self.places[*place] {
                    let done = real.port.set_options(options.clone());
                    prop_assert_eq!(
                        done.is_ok(),
                        self.plain.change(real.number, options, copies)
                    );
                }
            }
            Op::Remove { place, drop } => {
                if let Some(real) = &self.places[*place] {
                    let there = self.plain.remove(real.number);
                    if *drop {
                        self.places[*place] = None;
                    } else {
                        prop_assert_eq!(self.switch.remove_port(real.port.id()), there);
                    }
                }
            }
            Op::Fix { place, vlan, mac } => {
                if let Some(real) = &self.places[*place] {
                    let done = self.switch.add_static(*vlan, *mac, real.port.id()).is_ok();
                    prop_assert_eq!(done, self.plain.fix(*vlan, *mac, real.number));
                }
            }
            Op::Unfix { vlan, mac } => {
                prop_assert_eq!(
                    self.switch.remove_static(*vlan, *mac),
                    self.plain.unfix(*vlan, *mac)
                );
            }
            Op::Forget(None) => {
                self.switch.forget(None);
                self.plain.forget(None);
            }
            Op::Forget(Some(place)) => {
                if let Some(real) = &self.places[*place] {
                    self.switch.forget(Some(real.port.id()));
                    self.plain.forget(Some(real.number));
                }
            }
            Op::LinkDown(place) => {
                if let Some(real) = &self.places[*place] {
                    real.port.set_link(false);
                    real.port.set_link(true);
                    self.plain.forget(Some(real.number));
                }
            }
        }
        self.compare()
    }

    fn send(
        &mut self,
        place: usize,
        queue: usize,
        frames: &[Owned],
        first: usize,
    ) -> Result<(), TestCaseError> {
        let Some(real) = &mut self.places[place] else {
            return Ok(());
        };
        let taken = send(&mut *real.queues[queue], frames, first);
        let expected: Vec<bool> = frames
            .iter()
            .map(|frame| self.plain.send(real.number, frame))
            .collect();
        prop_assert_eq!(taken, expected);
        self.compare()
    }

    /// What came to each port, what each counted, and what is known.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        for real in self.places.iter().flatten() {
            let mut came = real.sink.take();
            let (mut expected, mirror, counts) = self.plain.take(real.number);
            if mirror {
                // Copies of what was received and sent come in no certain order.
                came.sort_by(|a, b| a.bytes.cmp(&b.bytes));
                expected.sort_by(|a, b| a.bytes.cmp(&b.bytes));
            }
            prop_assert_eq!(came, expected);
            let counters = real.port.counters();
            let dropped: BTreeMap<String, u64> = DropReason::ALL
                .iter()
                .filter(|reason| counters.dropped(**reason) != 0)
                .map(|reason| (format!("{reason:?}"), counters.dropped(*reason)))
                .collect();
            prop_assert_eq!(dropped, counts.dropped);
            let passed = (
                counters.rx_packets,
                counters.rx_bytes,
                counters.tx_packets,
                counters.tx_bytes,
            );
            prop_assert_eq!(passed, (counts.rx.0, counts.rx.1, counts.tx.0, counts.tx.1));
            prop_assert_eq!(
                (counters.moves, counters.flaps, counters.unlearned),
                counts.learning
            );
        }
        let names: BTreeMap<_, _> = self
            .places
            .iter()
            .flatten()
            .map(|real| (real.port.id(), real.number))
            .collect();
        let mut known: Vec<_> = self
            .switch
            .addresses()
            .iter()
            .map(|known| (known.vlan, known.mac, names[&known.port], known.idle))
            .collect();
        known.sort();
        prop_assert_eq!(known, self.plain.known());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_switch_does_as_the_model(
        first in proptest::collection::vec(shape(), PLACES),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let mut world = World::new();
        for (place, shape) in first.into_iter().enumerate().take(4) {
            world.step(&Op::Add { place, shape })?;
        }
        for op in &ops {
            world.step(op)?;
        }
    }
}
