//! Several queues over real rings, against a plain model of what should arrive where: hashes, static grants, headroom, both ways of
//! saying segmentation, and both kinds of port.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod model;
mod packets;

use std::time::{Duration, Instant};

use cantle_netback::test_utils::{
    FrontOptions, Incoming, PATIENCE, TestDevice, Vif, assert_nothing_mapped, settle, until,
};
use cantle_netback::{Backend, BackendOptions};
use proptest::prelude::*;

use model::{Hashing, Model};
use packets::{Packet, packet};

#[derive(Clone, Debug)]
struct Setup {
    queues: u32,
    pushed: bool,
    hashing: Option<Hashing>,
    statics: bool,
    front: FrontOptions,
}

impl Setup {
    fn connect(&self) -> Vif {
        let device = if self.pushed {
            TestDevice::pushed(8)
        } else {
            TestDevice::pulled(8)
        };
        let mut vif = Vif::connect(device, BackendOptions::default(), &self.front);
        let Vif { backend, front, .. } = &mut vif;
        if let Some(hashing) = &self.hashing {
            let (key, mapping) = (&hashing.key, &hashing.mapping);
            let serve = || assert!(settle(backend));
            front.control().hash(serve, key, hashing.types, mapping);
        }
        if self.statics {
            let (queues, control) = front.parts();
            for (n, queue) in (0..).zip(queues) {
                control.lend(|| assert!(settle(backend)), n, queue);
            }
        }
        vif
    }

    fn model(&self) -> Model {
        let hash = self
            .hashing
            .as_ref()
            .map(|hashing| hashing.config(self.queues));
        Model::new(&self.front, hash)
    }
}

fn setup() -> impl Strategy<Value = Setup> {
    let queues = prop_oneof![Just(1_u32), Just(2), Just(4)];
    let headroom = prop_oneof![3 => Just(0_u16), 1 => Just(256), 1 => Just(2048)];
    let features = any::<[bool; 7]>();
    let usual = prop::bool::weighted(0.5);
    (queues, any::<[bool; 3]>(), headroom, features, usual).prop_flat_map(
        |(queues, [pushed, statics, split_channels], headroom, features, usual)| {
            let [sg, gso_v4, gso_v6, prefix_v4, prefix_v6, csum_v4, csum_v6] =
                features.map(|feature| feature || usual);
            let front = FrontOptions {
                sg,
                gso_v4,
                gso_v6,
                gso_v4_prefix: prefix_v4,
                gso_v6_prefix: prefix_v6,
                csum_v4,
                csum_v6,
                split_channels,
                queues,
                control: true,
                headroom,
                ..FrontOptions::default()
            };
            let hashing = prop::option::of(model::hashing(queues));
            hashing.prop_map(move |hashing| Setup {
                queues,
                pushed,
                hashing,
                statics,
                front: front.clone(),
            })
        },
    )
}

/// Takes what comes on all queues, and posts the pages again, until so many frames have come or been dropped; and what comes after.
fn collect(vif: &mut Vif, count: usize, dropped: u64) -> Vec<Vec<Incoming>> {
    let queues = vif.front.queues().len();
    let mut arrived = vec![Vec::new(); queues];
    let end = Instant::now() + PATIENCE;
    loop {
        settle(&mut vif.backend);
        for (queue, arrived) in vif.front.queues().iter_mut().zip(&mut arrived) {
            arrived.extend(queue.receive());
            queue.post(256);
        }
        let seen: usize = arrived.iter().map(Vec::len).sum();
        let lost = vif.backend.stats().rx.counts().dropped;
        if (seen >= count && lost >= dropped) || Instant::now() > end {
            settle(&mut vif.backend);
            return arrived;
        }
        if queues > 1 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn copies(vif: &Vif) -> (u64, u64) {
    let table = vif.world.guest().table().stats();
    (table.copies, table.maps)
}

/// The front end goes away in good order, and nothing of it is left.
fn close(mut vif: Vif) {
    use cantle_xenstore::xenbus::XenbusState;
    vif.front.set_state(XenbusState::CLOSED);
    until(&mut vif.backend, |backend: &mut Backend| {
        backend.state() == XenbusState::CLOSED
    });
    assert_nothing_mapped(&vif.world);
    assert_eq!(vif.device.open().len(), 1, "the first port stays");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// What comes in arrives on the queue where it should be, in the form that the front end takes, in its flow's order; or it is dropped
    /// for a reason.
    #[test]
    fn what_comes_in_arrives_where_and_as_it_should(
        setup in setup(),
        packets in prop::collection::vec(packet(), 1..14),
    ) {
        let mut vif = setup.connect();
        let model = setup.model();
        let before = copies(&vif);
        let frames: Vec<_> = packets.iter().map(Packet::recorded).collect();
        if setup.pushed {
            let (first, second) = frames.split_at(frames.len() / 2);
            let taken = [vif.device.deliver(first), vif.device.deliver(second)].concat();
            for (packet, taken) in packets.iter().zip(taken) {
                prop_assert_eq!(taken, model.expect(packet).count > 0, "{:?}", packet);
            }
        } else {
            for (packet, frame) in packets.iter().zip(&frames) {
                vif.device.inject(packet.flow.into(), frame.clone());
            }
        }
        let count = packets.iter().map(|packet| model.expect(packet).count).sum();
        let lost = packets.iter().filter(|packet| model.expect(packet).count == 0).count();
        let arrived = collect(&mut vif, count, u64::try_from(lost).unwrap());
        let counts = vif.backend.stats().rx.counts();
        prop_assert_eq!(counts.dropped, u64::try_from(lost).unwrap());
        prop_assert_eq!(counts.errors, 0);
        prop_assert_eq!(counts.packets, u64::try_from(count).unwrap());
        for flow in 0..packets::FLOWS {
            let sent: Vec<&Packet> = packets.iter().filter(|packet| packet.flow == flow).collect();
            model.check_flow(&setup, flow, &sent, &arrived);
        }
        if setup.statics {
            // Whatever went through, no grant was asked for, but where a port reads into mapped pages.
            let (copied, mapped) = copies(&vif);
            prop_assert_eq!(copied, before.0);
            prop_assert!(mapped == before.1 || !setup.pushed);
        }
        close(vif);
    }

    /// What a queue sends leaves by its own port, in order, and each slot is answered.
    #[test]
    fn what_goes_out_leaves_by_its_queues_port(
        setup in setup(),
        packets in prop::collection::vec((packet(), prop::collection::vec(0..300_usize, 0..3), 0..4096_usize), 1..10),
    ) {
        let mut vif = setup.connect();
        let before = copies(&vif);
        let queues = vif.front.queues().len();
        let mut expected = vec![Vec::new(); queues];
        for (packet, split, offset) in &packets {
            let queue = usize::from(packet.flow) % queues;
            let recorded = packet.recorded();
            let sent = vif.front.queues()[queue].send(&packet.outgoing(&recorded.bytes, split, *offset));
            if sent {
                expected[queue].push(recorded);
            }
        }
        vif.front.queues().iter_mut().for_each(|queue| queue.kick());
        let mut statuses = Vec::new();
        until(&mut vif.backend, |_| {
            let responses = vif.front.queues().iter_mut().flat_map(|queue| queue.responses());
            statuses.extend(responses.map(|response| response.status));
            vif.front.queues().iter().all(|queue| queue.unanswered() == 0)
        });
        prop_assert!(statuses.iter().all(|status| *status >= 0), "{:?}", statuses);
        prop_assert_eq!(vif.device.take_sent(), expected);
        if setup.statics {
            prop_assert_eq!(copies(&vif), before);
        }
        close(vif);
    }
}
