use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;
use crate::checksum::sum_parts;
use crate::test_utils::{in_netns, ip};
use crate::{Offload, Part};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 0x17];

/// A network of the host's own: one interface, 10.1.2.3, with a default route.
fn network() {
    ip("link set dev lo up");
    ip("link add up0 type veth peer name wire0");
    ip("link set dev wire0 up");
    ip("addr add 10.1.2.3/24 dev up0");
    ip("link set dev up0 up");
    ip("route add default via 10.1.2.1");
}

/// A device, or nothing, with a line on stderr, where `passt` is not installed.
fn passt(options: PasstOptions) -> Option<PasstDevice> {
    match PasstDevice::new(options) {
        Ok(device) => Some(device),
        Err(error @ PasstError::NotInstalled { .. }) => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn send(port: &mut PasstPort, bytes: &[u8]) {
    let parts = [Part::from(bytes)];
    let mut batch = [Frame {
        parts: &parts,
        len: bytes.len(),
        offload: Offload::default(),
        taken: false,
    }];
    port.send(&mut batch);
    assert!(batch[0].taken);
}

/// Waits for a frame that is looked for.
fn find(port: &mut PasstPort, what: &str, is: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let until = Instant::now() + Duration::from_secs(10);
    let mut buffer = vec![0; 70_000];
    while Instant::now() < until {
        match port.receive(&mut [PartMut::from(&mut buffer[..])]).unwrap() {
            Received::Frame { len, .. } if is(&buffer[..len]) => return buffer[..len].to_vec(),
            Received::Nothing => std::thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
    }
    panic!("no {what} came");
}

/// "Who has 10.1.2.1?"
fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(GUEST);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST);
    frame.extend([10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 10, 1, 2, 1]);
    frame
}

/// A DHCP discover (RFC 2131).
fn discover() -> Vec<u8> {
    let mut dhcp = vec![1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78];
    dhcp.resize(28, 0);
    dhcp.extend(GUEST);
    dhcp.resize(236, 0);
    dhcp.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    dhcp.resize(300, 0);
    let mut packet = vec![0x45, 0];
    let total = u16::try_from(28 + dhcp.len()).unwrap();
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    let sum = !sum_parts([&packet[..]]).value();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0, 68, 0, 67]);
    packet.extend((total - 20).to_be_bytes());
    packet.extend([0, 0]);
    let mut frame = vec![0xff; 6];
    frame.extend(GUEST);
    frame.extend([8, 0]);
    frame.extend(packet);
    frame.extend(dhcp);
    frame
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn network_of_a_guest(port: &mut PasstPort) {
    send(port, &arp());
    let reply = find(port, "ARP reply", |frame| frame[12..14] == [8, 6]);
    assert_eq!(reply[20..22], [0, 2]);
    assert_eq!(reply[28..32], [10, 1, 2, 1]);
    send(port, &discover());
    let offer = find(port, "DHCP offer", |frame| {
        frame[12..14] == [8, 0] && frame[23] == 17 && half(frame, 36) == 68
    });
    let dhcp = &offer[42..];
    assert_eq!(dhcp[..8], [2, 1, 6, 0, 0x12, 0x34, 0x56, 0x78]);
    assert_eq!(dhcp[16..20], [10, 1, 2, 77]);
    let offers = dhcp[240..].windows(3).any(|option| option == [53, 1, 2]);
    assert!(offers, "{dhcp:?}");
}

#[test]
fn a_guest_gets_a_network() {
    in_netns(|| {
        network();
        let options = PasstOptions {
            addresses: vec![IpAddr::from([10, 1, 2, 77])],
            mtu: Some(9000),
            tcp_ports: vec!["4711:80".to_owned()],
            more: vec!["--ipv4-only".into()],
            ..PasstOptions::default()
        };
        let Some(device) = passt(options) else { return };
        assert_eq!(device.mtu(), Some(9000));
        let mut port = device.queue().unwrap();
        assert!(matches!(device.queue(), Err(PasstError::InUse)));
        network_of_a_guest(&mut port);

        // A port that is forwarded: the connection arrives.
        let connecting =
            TcpStream::connect_timeout(&"10.1.2.3:4711".parse().unwrap(), Duration::from_secs(5));
        connecting.unwrap();
        let syn = find(&mut port, "connection", |frame| {
            frame[12..14] == [8, 0] && frame[23] == 6 && half(frame, 36) == 80
        });
        assert_eq!(syn[47] & 0x12, 2, "SYN");

        // The next guest has one of its own.
        drop(port);
        let until = Instant::now() + Duration::from_secs(5);
        let mut again = loop {
            match device.queue() {
                Ok(port) => break port,
                // The last one still has the forwarded port.
                Err(PasstError::Ended { .. }) if Instant::now() < until => {}
                Err(error) => panic!("{error}"),
            }
        };
        network_of_a_guest(&mut again);
        assert!(again.process.runs());
        again.process.end();
        let until = Instant::now() + Duration::from_secs(5);
        while again.process.runs() {
            assert!(
                Instant::now() < until,
                "passt does not end when it is told to"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut buffer = [0; 100];
        while again.is_open() {
            let _ = again.receive(&mut [PartMut::from(&mut buffer[..])]);
        }
    });
}

#[test]
fn passt_says_what_it_does_not_like() {
    in_netns(|| {
        network();
        let options = PasstOptions {
            tcp_ports: vec!["no such port".to_owned()],
            ..PasstOptions::default()
        };
        match PasstDevice::new(options) {
            Err(PasstError::Ended { status, complaint }) => {
                assert!(!status.success());
                assert!(complaint.contains("no such port"), "{complaint}");
            }
            Err(error @ PasstError::NotInstalled { .. }) => eprintln!("SKIPPED: {error}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_missing_passt_is_said_to_be_missing() {
    let options = PasstOptions {
        program: PathBuf::from("/nowhere/passt"),
        ..PasstOptions::default()
    };
    let error = PasstDevice::new(options).unwrap_err();
    assert!(matches!(error, PasstError::NotInstalled { .. }));
    assert!(error.to_string().contains("apt install passt"));
}
