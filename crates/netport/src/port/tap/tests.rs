use std::time::{Duration, Instant};

use super::*;
use crate::headers::{IpVersion, Protocol};
use crate::port::{Frame, InterfaceError, NetDevice, NetPort, Received};
use crate::test_utils::{Shape, in_netns, ip};
use crate::{Checksum, Offload, Part, PartMut};

#[test]
fn a_missing_device_is_said_to_be_missing() {
    assert!(matches!(
        Tap::open("cantle-none0"),
        Err(TapError::NoDevice { name }) if name == "cantle-none0"
    ));
    assert!(matches!(
        TapDevice::open("cantle-none0"),
        Err(TapError::NoDevice { .. })
    ));
}

#[test]
fn impossible_names_are_refused() {
    for name in [
        "",
        "a-name-of-16-byt",
        "a/b",
        "a b",
        "a\0b",
        "tap%d",
        "..",
        "a:b",
    ] {
        assert!(
            matches!(Tap::open(name), Err(TapError::BadName { .. })),
            "{name:?}"
        );
    }
}

#[test]
fn what_is_no_tap_is_refused() {
    let refused = Tap::open("lo");
    assert!(
        matches!(
            refused,
            Err(TapError::Refused { .. } | TapError::NoRights { .. } | TapError::Driver(_))
        ),
        "{refused:?}"
    );
}

/// A UDP frame from one of many senders to 10.0.0.1, whose link address is `mac`.
fn udp(mac: [u8; 6], flow: u8) -> Vec<u8> {
    let shape = Shape {
        protocol: Protocol::Udp,
        ..Shape::tcp(IpVersion::V4, vec![flow; 100])
    };
    let mut frame = shape.build(false);
    frame[..6].copy_from_slice(&mac);
    frame
}

fn send(port: &mut dyn NetPort, bytes: &[u8]) -> bool {
    let parts = [Part::from(bytes)];
    let mut batch = [Frame {
        parts: &parts,
        len: bytes.len(),
        offload: Offload::default(),
        taken: false,
    }];
    port.send(&mut batch);
    batch[0].taken
}

/// Reads what waits; the frames that are no IPv4 ones (the kernel's own greetings) are left out.
fn read(port: &mut dyn NetPort) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; 70_000];
    loop {
        let mut into = [PartMut::from(&mut buffer[..])];
        match port.receive(&mut into).unwrap() {
            Received::Nothing => return frames,
            Received::Lost => {}
            Received::Frame { len, .. } => frames.push(buffer[..len].to_vec()),
        }
        frames.retain(|frame| frame.get(12..14) == Some(&[8, 0]));
    }
}

/// Reads that many, as far as they come: the kernel may take its time to pass them on.
fn read_some(port: &mut dyn NetPort, count: usize) -> Vec<Vec<u8>> {
    let until = Instant::now() + Duration::from_secs(5);
    let mut frames = read(port);
    while frames.len() < count && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
        frames.extend(read(port));
    }
    frames
}

#[test]
fn several_queues_of_one_tap_all_send() {
    in_netns(|| {
        let device = TapDevice::create("multi0").unwrap();
        device.interface().bring_up().unwrap();
        assert_eq!(device.mtu(), Some(1500));
        let mut queues: Vec<_> = (0..4).map(|_| device.open_queue().unwrap()).collect();
        for queue in &mut queues {
            assert!(send(&mut **queue, &udp([0xff; 6], 1)));
        }
        // The queues are closed, and the device stays: the next one works.
        drop(queues);
        let mut again = device.open_queue().unwrap();
        assert!(send(&mut *again, &udp([0xff; 6], 1)));
        drop((again, device));
        // Another test's child has our descriptors until it is another program.
        let until = Instant::now() + Duration::from_secs(5);
        while !matches!(Tap::open("multi0"), Err(TapError::NoDevice { .. })) {
            assert!(Instant::now() < until, "the tap stays");
        }
    });
}

#[test]
fn a_tap_with_one_queue_keeps_working() {
    in_netns(|| {
        ip("tuntap add dev single0 mode tap vnet_hdr");
        let device = TapDevice::open("single0").unwrap();
        device.interface().bring_up().unwrap();
        assert_eq!(device.queues_max(), 1);
        let mut queue = device.open_queue().unwrap();
        assert!(send(&mut *queue, &udp([0xff; 6], 1)));
        let refused = device.queue();
        assert!(
            matches!(refused, Err(TapError::NoMoreQueues { queues: 1, .. })),
            "{refused:?}"
        );
        let busy = Tap::open("single0");
        assert!(matches!(busy, Err(TapError::Busy { .. })), "{busy:?}");

        // What came while nobody read is not given to the next reader.
        ip("addr add 10.0.0.1/24 dev single0");
        ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev single0");
        let socket = std::net::UdpSocket::bind("10.0.0.1:5000").unwrap();
        socket.send_to(b"to be seen", "10.0.0.2:5000").unwrap();
        assert_eq!(read_some(&mut *queue, 1).len(), 1);
        socket.send_to(b"stale", "10.0.0.2:5000").unwrap();
        drop(queue);
        let mut queue = device.open_queue().unwrap();
        assert!(read(&mut *queue).is_empty());
        std::thread::sleep(Duration::from_millis(50));
        socket.send_to(b"fresh", "10.0.0.2:5000").unwrap();
        assert_eq!(read_some(&mut *queue, 1).len(), 1);
    });
}

#[test]
fn a_flow_comes_by_the_queue_it_was_sent_by() {
    in_netns(|| {
        let device = TapDevice::create("flow0").unwrap();
        device.interface().bring_up().unwrap();
        ip("link set dev flow0 address 02:00:00:00:00:02");
        ip("addr add 10.0.0.2/24 dev flow0");
        ip("neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev flow0");
        let mut queues: Vec<_> = (0..4).map(|_| device.open_queue().unwrap()).collect();
        // The destination of the frames of `udp` is port 80 of 10.0.0.2; its sender is 10.0.0.1:12345.
        let socket = std::net::UdpSocket::bind("10.0.0.2:80").unwrap();
        for chosen in [2, 0, 3] {
            assert!(send(&mut *queues[chosen], &udp([2, 0, 0, 0, 0, 2], 7)));
            let mut bytes = [0; 200];
            let (len, from) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!((len, from.port()), (100, 12345));
            socket.send_to(b"an answer", from).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            let came: Vec<_> = queues
                .iter_mut()
                .map(|queue| read(&mut **queue).len())
                .collect();
            let mut expected = [0; 4];
            expected[chosen] = 1;
            assert_eq!(came, expected, "{chosen}");
        }
    });
}

#[test]
fn the_queue_that_is_set_aside_takes_no_flow() {
    in_netns(|| {
        let device = TapDevice::create("aside0").unwrap();
        device.interface().bring_up().unwrap();
        ip("addr add 10.0.0.2/24 dev aside0");
        ip("neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev aside0");
        let mut queue = device.open_queue().unwrap();
        let socket = std::net::UdpSocket::bind("10.0.0.2:80").unwrap();
        // The link's state may take a moment to be known.
        let until = Instant::now() + Duration::from_secs(5);
        while read(&mut *queue).is_empty() {
            assert!(Instant::now() < until, "nothing comes");
            socket.send_to(b"first", "10.0.0.1:1").unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(5));
        read(&mut *queue);
        for port in 1000..1064 {
            socket.send_to(b"new", ("10.0.0.1", port)).unwrap();
        }
        assert_eq!(read_some(&mut *queue, 64).len(), 64);
    });
}

#[test]
fn the_interface_takes_a_bridge_and_an_mtu() {
    in_netns(|| {
        ip("link add bridge7 type bridge");
        ip("link add bridge8 type bridge");
        let device = TapDevice::create("member0").unwrap();
        let interface = device.interface();
        interface.join_bridge("bridge7").unwrap();
        let elsewhere = interface.join_bridge("bridge8");
        assert!(
            matches!(elsewhere, Err(InterfaceError::InBridge { .. })),
            "{elsewhere:?}"
        );
        for none in ["bridge9", "lo", "a/b"] {
            let missing = interface.join_bridge(none);
            assert!(
                matches!(missing, Err(InterfaceError::NoBridge { .. })),
                "{missing:?}"
            );
        }
        interface.set_mtu(9000).unwrap();
        assert_eq!(device.mtu(), Some(9000));
        let refused = interface.set_mtu(1 << 20);
        assert!(
            matches!(refused, Err(InterfaceError::Refused { .. })),
            "{refused:?}"
        );
        ip("link show dev member0 master bridge7");
    });
}

/// A batch, of which the kernel refuses every third frame for its header, by one call and one by one.
#[test]
fn a_batch_by_one_call_is_as_one_by_one() {
    in_netns(|| {
        ip("link add br0 type bridge");
        ip("link set dev br0 up");
        let (from, to) = (TapDevice::create("from0"), TapDevice::create("to0"));
        let (from, to) = (from.unwrap(), to.unwrap());
        for device in [&from, &to] {
            device.interface().join_bridge("br0").unwrap();
            device.interface().bring_up().unwrap();
        }
        let (ring, plain) = (from.queue().unwrap(), from.queue().unwrap());
        if !ring.has_ring() {
            eprintln!("SKIPPED in part: no io_uring for taps here");
        }
        let mut to = to.open_queue().unwrap();
        let mut probe = from.open_queue().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while read(&mut *to).is_empty() {
            assert!(Instant::now() < until, "the bridge forwards nothing");
            std::thread::sleep(Duration::from_millis(2));
            send(&mut *probe, &udp([0xff; 6], 200));
        }
        std::thread::sleep(Duration::from_millis(20));
        read(&mut *to);
        for mut port in [ring, plain.without_ring()] {
            let frames: Vec<_> = (0..150).map(|flow| udp([0xff; 6], flow)).collect();
            let parts: Vec<_> = frames
                .iter()
                .map(|bytes| {
                    let (headers, rest) = bytes.split_at(50);
                    [Part::from(headers), Part::from(rest)]
                })
                .collect();
            let bad = Offload {
                checksum: Checksum::Blank {
                    start: u16::MAX,
                    offset: 6,
                },
                gso: None,
            };
            let mut batch: Vec<_> = frames
                .iter()
                .zip(&parts)
                .enumerate()
                .map(|(n, (bytes, parts))| Frame {
                    parts,
                    len: bytes.len(),
                    offload: if n % 3 == 0 { bad } else { Offload::default() },
                    taken: n % 3 == 0,
                })
                .collect();
            port.send(&mut batch);
            for (n, frame) in batch.iter().enumerate() {
                assert_eq!(frame.taken, n % 3 != 0, "{n}");
            }
            let sent: Vec<_> = frames
                .iter()
                .enumerate()
                .filter(|(n, _)| n % 3 != 0)
                .map(|(_, bytes)| bytes.clone())
                .collect();
            assert!(read_some(&mut *to, sent.len()) == sent);
        }
    });
}
