use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::*;
use crate::headers::{IpVersion, Protocol};
use crate::port::{Frame, Received};
use crate::test_utils::{Shape, in_netns, ip, transport_sum};
use crate::{Checksum, Gso, GsoKind, Offload, Offloads, Part, PartMut};

const ALL: Offloads = Offloads {
    checksum: true,
    tso_v4: true,
    tso_v6: true,
};
/// The link address of the frames' receiver: 10.0.0.2.
const MAC: &str = "02:00:00:00:00:01";

/// Two interfaces that are one wire: `here0` is the port's, `there0` the host's.
fn wire() -> PacketDevice {
    ip("link add here0 type veth peer name there0");
    ip(&format!("link set dev there0 address {MAC}"));
    ip("addr add 10.0.0.2/24 dev there0");
    ip("neigh add 10.0.0.1 lladdr 02:00:00:00:00:02 dev there0");
    ip("link set dev here0 up");
    ip("link set dev there0 up");
    PacketDevice::open("here0").unwrap()
}

fn send(port: &mut PacketPort, bytes: &[u8], offload: Offload) -> bool {
    let (headers, rest) = bytes.split_at(bytes.len().min(90));
    let parts = [Part::from(headers), Part::from(rest)];
    let mut batch = [Frame {
        parts: &parts,
        len: bytes.len(),
        offload,
        taken: false,
    }];
    port.send(&mut batch);
    batch[0].taken
}

/// The frames that come within a moment, or until there are enough; those of the test only, which are to or from its addresses.
fn read(port: &mut PacketPort, count: usize) -> Vec<(Vec<u8>, Offload)> {
    let until = Instant::now() + Duration::from_millis(if count == 0 { 50 } else { 5000 });
    let mut frames = Vec::new();
    let mut buffer = vec![0; 70_000];
    while Instant::now() < until && (count == 0 || frames.len() < count) {
        let mut into = [PartMut::from(&mut buffer[..])];
        match port.receive(&mut into).unwrap() {
            Received::Nothing => std::thread::sleep(Duration::from_millis(1)),
            Received::Lost => {}
            Received::Frame { len, offload } => {
                let bytes = buffer[..len].to_vec();
                if bytes[0] == 2 && bytes[6] == 2 && bytes[12..14] != [0x86, 0xdd] {
                    frames.push((bytes, offload));
                }
            }
        }
    }
    frames
}

fn tcp(vlans: usize, len: usize) -> (Shape, Offload) {
    let payload = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let shape = Shape {
        vlans,
        ..Shape::tcp(IpVersion::V4, payload)
    };
    let offload = Offload {
        checksum: Checksum::Blank {
            start: u16::try_from(shape.start()).unwrap(),
            offset: 16,
        },
        gso: (len > 1448).then_some(Gso {
            kind: GsoKind::TcpV4,
            size: 1448,
            header_len: u16::try_from(shape.start() + 20).unwrap(),
            ecn: false,
        }),
    };
    (shape, offload)
}

#[test]
fn what_is_no_interface_is_said_to_be_missing() {
    let missing = PacketDevice::open("cantle-none0");
    assert!(matches!(
        missing,
        Err(PacketError::Interface(InterfaceError::NoDevice { .. }))
    ));
}

#[test]
fn frames_go_out_and_come_in_and_none_comes_back() {
    in_netns(|| {
        let device = wire();
        assert_eq!(device.mtu(), Some(1500));
        let mut port = device.queue().unwrap();
        let socket = UdpSocket::bind("10.0.0.2:80").unwrap();
        let shape = Shape {
            protocol: Protocol::Udp,
            ..Shape::tcp(IpVersion::V4, b"over the wire".to_vec())
        };
        let blank = Offload {
            checksum: Checksum::Blank {
                start: 34,
                offset: 6,
            },
            gso: None,
        };
        assert!(send(&mut port, &shape.build(true), blank));
        let mut bytes = [0; 100];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"over the wire");
        socket.send_to(b"and back", from).unwrap();
        let came = read(&mut port, 1);
        assert!(came[0].0.ends_with(b"and back"));
        assert_eq!(came[0].1.checksum, Checksum::Present, "completed here");
        assert!(read(&mut port, 0).is_empty(), "no frame of our own");
    });
}

#[test]
fn a_large_frame_is_whole_for_who_takes_it_and_cut_for_others() {
    in_netns(|| {
        let device = wire();
        let mut near = device.queue().unwrap();
        let mut far = PacketDevice::open("there0").unwrap().queue().unwrap();
        let (shape, offload) = tcp(0, 60_000);
        far.accept(ALL).unwrap();
        assert!(send(&mut near, &shape.build(true), offload));
        let whole = read(&mut far, 1);
        assert!(whole[0].0 == shape.build(true));
        assert_eq!(whole[0].1, offload);

        far.accept(Offloads::NONE).unwrap();
        assert!(send(&mut near, &shape.build(true), offload));
        let cut = read(&mut far, 60_000_usize.div_ceil(1448));
        let mut payload: Vec<u8> = Vec::new();
        for (bytes, offload) in &cut {
            assert_eq!(*offload, Offload::default());
            assert_eq!(transport_sum(&shape, bytes), 0xffff);
            payload.extend(&bytes[54..]);
        }
        assert!(payload == shape.payload);
    });
}

#[test]
fn a_vlan_tag_stays_in_its_frame() {
    in_netns(|| {
        let device = wire();
        let mut near = device.queue().unwrap();
        let mut far = PacketDevice::open("there0").unwrap().queue().unwrap();
        for (vlans, len) in [(1, 100), (2, 100), (1, 20_000)] {
            let (shape, offload) = tcp(vlans, len);
            far.accept(ALL).unwrap();
            assert!(send(&mut near, &shape.build(true), offload));
            let came = read(&mut far, 1);
            assert!(came[0].0 == shape.build(true), "{vlans}");
            assert_eq!(came[0].1.checksum, offload.checksum);
            far.accept(Offloads::NONE).unwrap();
            assert!(send(&mut near, &shape.build(true), offload));
            for (bytes, _) in read(&mut far, len.div_ceil(1448)) {
                assert_eq!(bytes[12..16], shape.build(true)[12..16]);
                assert_eq!(transport_sum(&shape, &bytes), 0xffff);
            }
        }
    });
}

#[test]
fn each_frame_comes_to_one_queue_and_a_flow_to_the_same() {
    in_netns(|| {
        let device = wire();
        let mut near = device.queue().unwrap();
        let far = PacketDevice::open("there0").unwrap();
        let mut queues: Vec<_> = (0..4).map(|_| far.queue().unwrap()).collect();
        let (shape, _) = tcp(0, 100);
        for flow in 0..64_u8 {
            for _ in 0..2 {
                let mut frame = shape.build(false);
                frame[35] = flow;
                assert!(send(&mut near, &frame, Offload::default()));
            }
        }
        let mut places = BTreeMap::new();
        for (n, queue) in queues.iter_mut().enumerate() {
            for (bytes, _) in read(queue, 0) {
                places.entry(bytes[35]).or_insert_with(Vec::new).push(n);
            }
        }
        assert_eq!(places.len(), 64);
        let mut used = [false; 4];
        for (flow, queues) in places {
            assert_eq!(queues.len(), 2, "{flow}");
            assert_eq!(queues[0], queues[1], "{flow}");
            used[queues[0]] = true;
        }
        assert_eq!(used, [true; 4]);
        // A group ends with its last queue, and the next is a new one.
        drop(queues);
        let mut again = far.queue().unwrap();
        assert!(send(&mut near, &shape.build(false), Offload::default()));
        assert_eq!(read(&mut again, 1).len(), 1);
    });
}
