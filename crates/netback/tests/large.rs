//! Large packets one after another, and others in between.

use cantle_abi::io::netif::XEN_NETIF_GSO_TYPE_TCPV4;
use cantle_netback::Backend;
use cantle_netback::test_utils::{FrontOptions, NetFront, Shape, World, settle};
use cantle_netport::headers::IpVersion;
use cantle_netport::test_utils::{Recorded, Recorder, RecorderHandle};
use cantle_netport::{Checksum, Gso, GsoKind, Offload};
use cantle_xenstore::xenbus::XenbusState;
use proptest::prelude::*;

fn connect(options: &FrontOptions) -> (World, Backend, NetFront, RecorderHandle) {
    let world = World::new();
    let (port, wire) = Recorder::new().expect("a descriptor");
    let mut backend = world
        .backend(Box::new(port))
        .expect("the directories are there");
    let front = world.front(options);
    settle(&mut backend);
    assert_eq!(front.backend_state(), XenbusState::CONNECTED);
    (world, backend, front, wire)
}

/// A frame with a payload that no other has.
fn frame(len: usize, seed: u8, gso: bool) -> Recorded {
    let payload = (0..len).map(|n| seed.wrapping_add(u8::try_from(n % 253).unwrap_or(0)));
    let shape = Shape::tcp(IpVersion::V4, payload.collect());
    let checksum = Checksum::Blank {
        start: u16::try_from(shape.start()).expect("near the start"),
        offset: u16::try_from(shape.checksum_offset()).expect("16"),
    };
    let gso = gso.then_some(Gso {
        kind: GsoKind::TcpV4,
        size: 1448,
        header_len: 54,
        ecn: false,
    });
    Recorded {
        bytes: shape.build(true),
        offload: Offload { checksum, gso },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Runs of large packets, with small ones, jumbo frames and ones with a checksum that the front end would not find in between; all
    /// arrive, whole and in order, however many pages were posted.
    #[test]
    fn whatever_comes_after_a_large_packet_arrives_whole(
        kinds in prop::collection::vec(0_u8..8, 1..60), posted in 20_u16..=256, at_once in 1_usize..20,
    ) {
        let options = FrontOptions { rx_buffers: posted, ..FrontOptions::default() };
        let (_world, mut backend, mut front, wire) = connect(&options);
        let mut seed = 0;
        for kinds in kinds.chunks(at_once) {
            let frames: Vec<Recorded> = kinds.iter().map(|kind| {
                seed += 1;
                match kind {
                    0 => frame(10, seed, false),
                    1 => frame(8960, seed, false),
                    2 => frame(4096 - 54, seed, false),
                    3 => frame(1460, seed, true),
                    4 => frame(9000, seed, true),
                    _ => frame(45 * 1448, seed, true),
                }
            }).collect();
            frames.iter().for_each(|frame| wire.inject(frame.clone()));
            let mut arrived = Vec::new();
            for _ in 0..200 {
                settle(&mut backend);
                arrived.extend(front.receive());
                let used = usize::from(posted) - front.posted();
                front.post(u16::try_from(used).expect("at most as many as there are"));
                if arrived.len() == frames.len() {
                    break;
                }
            }
            prop_assert_eq!(arrived.len(), frames.len());
            for (arrived, sent) in arrived.iter().zip(&frames) {
                prop_assert!(!arrived.error);
                prop_assert_eq!(&arrived.bytes, &sent.bytes);
                let gso = sent.offload.gso.map(|gso| (XEN_NETIF_GSO_TYPE_TCPV4, gso.size));
                prop_assert_eq!(arrived.gso, gso);
            }
        }
        prop_assert_eq!(backend.stats().rx.counts().dropped, 0);
    }
}
