//! What a front end asks for beside packets: multicast groups, headroom, static grants.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use cantle_abi::io::netif::{
    NetifExtraInfo, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
};
use cantle_netback::BackendOptions;
use cantle_netback::test_utils::{
    FrontOptions, TestDevice, Vif, assert_nothing_mapped, outgoing, plain, settle, until,
};
use cantle_xenstore::xenbus::XenbusState;

fn front() -> FrontOptions {
    FrontOptions {
        control: true,
        multicast: true,
        ..FrontOptions::default()
    }
}

fn devices() -> [TestDevice; 2] {
    [TestDevice::pulled(4), TestDevice::pushed(4)]
}

fn to(address: [u8; 6]) -> Vec<u8> {
    let mut bytes = address.to_vec();
    bytes.resize(60, 0);
    bytes
}

fn amend(vif: &mut Vif, kind: u8, group: [u8; 6]) {
    let extra = NetifExtraInfo::mcast(kind, group, 0);
    assert!(vif.front.send_with(&outgoing(&[0; 60]), &[extra]));
    vif.front.kick();
    settle(&mut vif.backend);
    assert_eq!(vif.front.responses()[0].status, 0);
}

/// Which of these come in.
fn come_in(vif: &mut Vif, addresses: &[[u8; 6]]) -> Vec<[u8; 6]> {
    for address in addresses {
        vif.device.inject(0, plain(to(*address)));
    }
    settle(&mut vif.backend);
    let incoming = vif.front.receive();
    vif.front.post(256);
    let destination = |bytes: &Vec<u8>| *bytes.first_chunk().unwrap();
    incoming
        .iter()
        .map(|packet| destination(&packet.bytes))
        .collect()
}

#[test]
fn multicast_packets_come_in_for_the_groups_joined() {
    let (unicast, broadcast) = ([2, 0, 0, 0, 0, 9], [0xff; 6]);
    let (one, two) = ([1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 2]);
    let all = [unicast, broadcast, one, two];
    for device in devices() {
        let mut vif = Vif::connect(device, BackendOptions::default(), &front());
        assert_eq!(come_in(&mut vif, &all), [unicast, broadcast]);
        amend(&mut vif, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, two);
        assert_eq!(come_in(&mut vif, &all), [unicast, broadcast, two]);
        amend(&mut vif, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, one);
        amend(&mut vif, XEN_NETIF_EXTRA_TYPE_MCAST_DEL, two);
        assert_eq!(come_in(&mut vif, &all), [unicast, broadcast, one]);
        assert_eq!(vif.backend.stats().rx.counts().dropped, 2 + 1 + 1);
        assert!(
            vif.device.take_sent().concat().is_empty(),
            "a request is no packet"
        );
    }
    for device in devices() {
        let without = FrontOptions {
            multicast: false,
            ..front()
        };
        let mut vif = Vif::connect(device, BackendOptions::default(), &without);
        assert_eq!(come_in(&mut vif, &all), all);
    }
}

/// The next front end finds nothing of what the one before has asked for.
#[test]
fn what_was_asked_for_goes_with_the_connection() {
    for device in devices() {
        let mut vif = Vif::connect(device, BackendOptions::default(), &front());
        let group = [1, 0, 0x5e, 0, 0, 1];
        amend(&mut vif, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, group);
        let backend = &mut vif.backend;
        vif.front
            .control()
            .hash(|| assert!(settle(backend)), &[7; 40], 15, &[]);
        assert_eq!(come_in(&mut vif, &[group]), [group]);
        vif.front.set_state(XenbusState::CLOSED);
        settle(&mut vif.backend);
        assert_nothing_mapped(&vif.world);
        let options = front();
        vif.front = vif.world.front(&options);
        vif.front.set_state(XenbusState::INITIALISING);
        settle(&mut vif.backend);
        vif.front.set_state(XenbusState::CONNECTED);
        settle(&mut vif.backend);
        assert_eq!(vif.backend.state(), XenbusState::CONNECTED);
        assert!(come_in(&mut vif, &[group]).is_empty());
        let shape = cantle_netback::test_utils::Shape::tcp(
            cantle_netport::headers::IpVersion::V4,
            vec![1; 100],
        );
        vif.device.inject(0, plain(shape.build(false)));
        settle(&mut vif.backend);
        assert_eq!(vif.front.receive()[0].hash, None);
    }
}

#[test]
fn headroom_changes_while_connected() {
    for device in devices() {
        let options = FrontOptions {
            headroom: 64,
            ..front()
        };
        let mut vif = Vif::connect(device, BackendOptions::default(), &options);
        for (asked, given) in [
            (64, 64),
            (256, 256),
            (0, 0),
            (2048, 2048),
            (2049, 0),
            (40_000, 0),
        ] {
            vif.front.set_headroom(asked);
            settle(&mut vif.backend);
            assert_eq!(vif.front.backend_state(), XenbusState::RECONFIGURED);
            vif.front.set_state(XenbusState::CONNECTED);
            settle(&mut vif.backend);
            assert_eq!(vif.front.backend_state(), XenbusState::CONNECTED);
            for len in [60, 3000, 9000] {
                vif.device.inject(0, plain(vec![2; len]));
            }
            settle(&mut vif.backend);
            let incoming = vif.front.receive();
            vif.front.post(256);
            assert_eq!(incoming.len(), 3);
            for (packet, len) in incoming.iter().zip([60, 3000, 9000]) {
                assert_eq!((packet.offset, packet.bytes.len()), (given, len));
                assert!(packet.bytes.iter().all(|byte| *byte == 2));
            }
        }
    }
}

/// Static grants serve both directions, for small packets and large; without them everything goes on by its grant.
#[test]
fn static_grants_come_and_go_while_packets_pass() {
    for device in devices() {
        let mut vif = Vif::connect(device, BackendOptions::default(), &front());
        let copies = |vif: &Vif| vif.world.guest().table().stats().copies;
        for lent in [false, true, false, true] {
            let Vif { backend, front, .. } = &mut vif;
            let serve = || assert!(settle(backend));
            let (queues, control) = front.parts();
            if lent {
                control.lend(serve, 0, &queues[0]);
            }
            let before = copies(&vif);
            for len in [60, 3000, 20_000] {
                assert!(vif.front.send(&outgoing(&vec![2; len])));
                assert!(vif.device.inject(0, plain(vec![4; len])));
            }
            vif.front.kick();
            settle(&mut vif.backend);
            let out = vif.device.take_sent().concat();
            let lens: Vec<usize> = out.iter().map(|frame| frame.bytes.len()).collect();
            assert_eq!(lens, [60, 3000, 20_000]);
            assert!(
                vif.front
                    .responses()
                    .iter()
                    .all(|response| response.status == 0)
            );
            let incoming = vif.front.receive();
            vif.front.post(256);
            assert!(
                incoming
                    .iter()
                    .all(|packet| packet.bytes.iter().all(|byte| *byte == 4))
            );
            assert_eq!(incoming.len(), 3);
            assert_eq!(copies(&vif) == before, lent);
            if lent {
                let Vif { backend, front, .. } = &mut vif;
                let (queues, control) = front.parts();
                let removed = control.unlend(|| assert!(settle(backend)), 0, &queues[0]);
                assert_eq!(removed, 512);
            }
        }
        until(&mut vif.backend, |_| true);
    }
}
