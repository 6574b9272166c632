//! The network interface: an ARP frame goes out; with `net-ip=` and `net-peer=` the peer is asked for its address and pinged; with
//! `net-serve=SECONDS` ARP and pings are answered.

use cantle_abi::GrantRef;
use cantle_abi::io::netif::{NETIF_RSP_DROPPED, NETIF_RSP_OKAY};

use crate::network::{FRAME_MAX, Interface, Mac, checksum, frame};
use crate::report::Outcome;
use crate::text::Text;
use crate::{Probe, clock, ensure, events, fail, grants, say};

type Ip = [u8; 4];

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const BROADCAST: Mac = [0xff; 6];
const ARP_ASK: u8 = 1;
const ARP_ANSWER: u8 = 2;
const ICMP: u8 = 1;
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;

fn parse_ip(text: &str) -> Option<Ip> {
    let mut ip = [0; 4];
    let mut parts = text.split('.');
    for byte in &mut ip {
        *byte = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then_some(ip)
}

/// An ARP packet for IPv4 over Ethernet.
fn arp(what: u8, from: (Mac, Ip), to: (Mac, Ip)) -> [u8; 28] {
    let mut packet = [0; 28];
    let head = [0, 1, 8, 0, 6, 4, 0, what];
    let bytes = head
        .into_iter()
        .chain(from.0)
        .chain(from.1)
        .chain(to.0)
        .chain(to.1);
    packet.iter_mut().zip(bytes).for_each(|(slot, b)| *slot = b);
    packet
}

/// An IPv4 packet with an ICMP echo, and its length.
fn echo(kind: u8, from: Ip, to: Ip, body: &[u8]) -> ([u8; 256], usize) {
    let mut packet = [0; 256];
    let len = (28 + body.len()).min(256);
    let [high, low] = u16::try_from(len).unwrap_or(0).to_be_bytes();
    let head = [0x45, 0, high, low, 0, 1, 0, 0, 64, ICMP, 0, 0];
    let bytes = head
        .into_iter()
        .chain(from)
        .chain(to)
        .chain([kind, 0, 0, 0])
        .chain(body.iter().copied());
    packet.iter_mut().zip(bytes).for_each(|(slot, b)| *slot = b);
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    let sum = checksum(&packet[20..len]).to_be_bytes();
    packet[22..24].copy_from_slice(&sum);
    (packet, len)
}

/// What of a received frame concerns the probe.
enum Heard {
    ArpAsk(Mac, Ip),
    ArpAnswer(Mac, Ip),
    /// Kind, sender and what follows the checksum.
    Icmp(u8, Mac, Ip, usize),
    Other,
}

fn listen(bytes: &[u8], own: Ip) -> Heard {
    let part = |at: usize, len: usize| bytes.get(at..at + len).unwrap_or_default();
    let mac = |at| part(at, 6).try_into().unwrap_or_default();
    let ip = |at: usize| -> Ip { part(at, 4).try_into().unwrap_or_default() };
    let kind = part(12, 2);
    if kind == ARP.to_be_bytes() && ip(38) == own {
        return match part(20, 2) {
            [0, ARP_ASK] => Heard::ArpAsk(mac(22), ip(28)),
            [0, ARP_ANSWER] => Heard::ArpAnswer(mac(22), ip(28)),
            _ => Heard::Other,
        };
    }
    if kind == IPV4.to_be_bytes() && part(14, 1) == [0x45] && part(23, 1) == [ICMP] && ip(30) == own
    {
        let total = part(16, 2).try_into().map_or(0, u16::from_be_bytes);
        return Heard::Icmp(
            part(34, 1).first().copied().unwrap_or(u8::MAX),
            mac(6),
            ip(26),
            14 + usize::from(total),
        );
    }
    Heard::Other
}

/// An interface with an address.
struct Host {
    interface: Interface,
    ip: Ip,
    buffer: [u8; FRAME_MAX],
}

impl Host {
    fn send(&mut self, to: Mac, kind: u16, payload: &[u8]) -> Outcome {
        let len = frame(&mut self.buffer, to, self.interface.mac, kind, payload);
        let bytes = self.buffer;
        let status = self.interface.send(bytes.get(..len).unwrap_or_default())?;
        ensure!(status == NETIF_RSP_OKAY, "sending: {status}");
        Ok(())
    }

    /// Receives one frame and answers it where it is a question.
    fn step(&mut self, ms: u64) -> Outcome<Option<Heard>> {
        let Some(len) = self.interface.receive(&mut self.buffer, ms)? else {
            return Ok(None);
        };
        let bytes = self.buffer;
        let bytes = bytes.get(..len).unwrap_or_default();
        let heard = listen(bytes, self.ip);
        match heard {
            Heard::ArpAsk(mac, ip) => {
                let own = (self.interface.mac, self.ip);
                self.send(mac, ARP, &arp(ARP_ANSWER, own, (mac, ip)))?;
            }
            Heard::Icmp(ECHO, mac, ip, end) => {
                let body = bytes.get(38..end.min(len)).unwrap_or_default();
                let (packet, len) = echo(ECHO_REPLY, self.ip, ip, body);
                self.send(mac, IPV4, packet.get(..len).unwrap_or_default())?;
            }
            _ => {}
        }
        Ok(Some(heard))
    }

    /// The hardware address of a peer.
    fn resolve(&mut self, peer: Ip) -> Outcome<Mac> {
        for _ in 0..10 {
            let own = (self.interface.mac, self.ip);
            self.send(BROADCAST, ARP, &arp(ARP_ASK, own, ([0; 6], peer)))?;
            let end = clock::now() + 500_000_000;
            while clock::now() < end {
                if let Some(Heard::ArpAnswer(mac, ip)) = self.step(100)?
                    && ip == peer
                {
                    return Ok(mac);
                }
            }
        }
        fail!("the peer does not answer ARP");
    }

    fn ping(&mut self, mac: Mac, peer: Ip) -> Outcome<u64> {
        let from = clock::now();
        let (packet, len) = echo(
            ECHO,
            self.ip,
            peer,
            b"\x12\x34\x00\x01 from the probe guest",
        );
        self.send(mac, IPV4, packet.get(..len).unwrap_or_default())?;
        let end = from + 5_000_000_000;
        while clock::now() < end {
            if let Some(Heard::Icmp(ECHO_REPLY, _, ip, _)) = self.step(100)?
                && ip == peer
            {
                return Ok((clock::now() - from) / 1_000);
            }
        }
        fail!("the peer does not answer a ping");
    }
}

pub(super) fn net(probe: &mut Probe) -> Outcome {
    events::prepare()?;
    grants::prepare()?;
    let ip = probe.start.option("net-ip").and_then(parse_ip);
    let peer = probe.start.option("net-peer").and_then(parse_ip);
    let serve = probe.start.number("net-serve").unwrap_or(0);
    let id = probe.start.option("net").map(|id| crate::path!("{id}"));
    let store = probe.store()?;
    let interface = Interface::connect(store, id.as_ref().map(|id| id.as_str()))?;
    let mut host = Host {
        interface,
        ip: ip.unwrap_or([0; 4]),
        buffer: [0; FRAME_MAX],
    };
    let mac = host.interface.mac;
    say!(
        "probe: net: mac {}",
        Text::<24>::format(format_args!("{mac:02x?}"))
    );

    // Who has a link-local address? Asked without one of our own, it changes nobody's tables.
    let probe = arp(ARP_ASK, (mac, [0; 4]), ([0; 6], [169, 254, 199, 2]));
    let len = frame(&mut host.buffer, BROADCAST, mac, ARP, &probe);
    let status = host
        .interface
        .send(host.buffer.get(..len).unwrap_or_default())?;
    // Dropped: the other side of the interface is not up.
    ensure!(
        status == NETIF_RSP_OKAY || status == NETIF_RSP_DROPPED,
        "sending: {status}"
    );
    // What must be refused, with the interface in order afterwards.
    for (gref, offset, size, what) in [
        (GrantRef(511), 0, 60, "a grant that is none"),
        (GrantRef(u32::MAX), 0, 60, "a grant out of range"),
    ] {
        let status = host.interface.send_raw(gref, offset, size)?;
        ensure!(status != NETIF_RSP_OKAY, "{what} was sent");
    }
    if let Some(peer) = peer {
        let mac = host.resolve(peer)?;
        for _ in 0..3 {
            let us = host.ping(mac, peer)?;
            say!("probe: net: ping {us} us");
        }
    } else {
        let again = host
            .interface
            .send(host.buffer.get(..len).unwrap_or_default())?;
        ensure!(
            again == status,
            "sent first with {status}, then with {again}"
        );
    }
    if serve > 0 {
        say!("probe: net: serving");
        let end = clock::now() + serve * 1_000_000_000;
        while clock::now() < end {
            host.step(100)?;
        }
    }
    let Host { interface, .. } = host;
    say!(
        "probe: net: {} sent, {} received",
        interface.sent,
        interface.received
    );
    interface.close(store)
}
