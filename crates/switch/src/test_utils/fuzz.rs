//! Whatever bytes a guest sends: what must never happen.

use std::sync::Arc;

use cantle_netport::headers::HEADERS_MAX;
use cantle_netport::{Checksum, Gso, GsoKind, NetDevice, Offload};

use super::{Collector, Owned, send};
use crate::{
    IpPrefix, MacAddr, PortOptions, SpoofFilter, Switch, SwitchOptions, SwitchPort, VlanId,
    VlanSet, Vlans,
};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).expect("a VLAN's number")
}

struct Port {
    port: SwitchPort,
    sink: Arc<Collector>,
}

fn port(switch: &Arc<Switch>, vlans: Vlans, filter: Option<SpoofFilter>) -> Port {
    let options = PortOptions {
        vlans,
        filter,
        ..PortOptions::default()
    };
    let port = switch.add_port(options).expect("few ports");
    let sink = Arc::new(Collector::default());
    port.set_sink(Some(sink.clone()));
    Port { port, sink }
}

/// Takes `input` for frames that guests send, with metadata as they like, and checks what holds whatever they are: no VLAN reaches
/// another, a filtered port sends its own addresses only, what is delivered is as long as it says and its metadata is within
/// it, and each frame is either delivered, flooded or counted as dropped.
///
/// # Panics
///
/// Where one of these does not hold.
pub fn any_frames(input: &[u8]) {
    let switch = Switch::new(SwitchOptions::default());
    let own = IpPrefix::from(std::net::IpAddr::from([192, 0, 2, 1]));
    let filter = SpoofFilter {
        macs: Some(vec![OWN]),
        addresses: Some(vec![own]),
    };
    let all = |native| Vlans::Trunk {
        allowed: [1, 3].map(vlan).into_iter().collect::<VlanSet>(),
        native,
    };
    // One in VLAN 2 by itself, whom nobody may reach; the trunks carry 1 and 3.
    let alone = port(&switch, Vlans::Access(vlan(2)), None);
    let senders = [
        port(&switch, Vlans::Access(vlan(1)), Some(filter)),
        port(&switch, Vlans::Access(vlan(1)), None),
        port(&switch, all(None), None),
        port(&switch, all(Some(vlan(1))), None),
    ];
    let mut queues: Vec<_> = senders
        .iter()
        .map(|from| from.port.open_queue().expect("the first"))
        .collect();
    let mut rest = input;
    while let Some(([who, len, kind, place, first], after)) = rest.split_first_chunk() {
        let (bytes, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        let start = u16::from(*place);
        let gso = Gso {
            kind: GsoKind::TcpV6,
            size: u16::from(*kind >> 2),
            header_len: start,
            ecn: false,
        };
        let offload = Offload {
            checksum: if kind & 1 == 0 {
                Checksum::Present
            } else {
                Checksum::Blank { start, offset: 16 }
            },
            gso: (kind & 2 != 0).then_some(gso),
        };
        let from = usize::from(*who) % senders.len();
        let Some(queue) = queues.get_mut(from) else {
            return;
        };
        let frame = Owned {
            bytes: bytes.to_vec(),
            offload,
        };
        // The first part has all that is looked at, or as much as the sender likes.
        let first = if first & 1 == 0 {
            HEADERS_MAX
        } else {
            usize::from(*first)
        };
        let dropped = || {
            senders
                .iter()
                .map(|port| port.port.counters().dropped_total())
                .sum::<u64>()
        };
        let before = dropped();
        let taken = send(&mut **queue, &[frame], first);
        assert!(
            taken == [true] || dropped() > before,
            "lost without a trace"
        );
        for (at, to) in senders.iter().enumerate() {
            for frame in to.sink.take() {
                assert_ne!(at, from, "back to where it came from");
                check(&frame, from == 0, at < 2);
            }
        }
    }
    assert!(alone.sink.take().is_empty(), "from another VLAN");
}

/// Checks a frame that came to a port: from the filtered one or not, at an access port or not.
fn check(frame: &Owned, filtered: bool, access: bool) {
    let [kind @ .., _, _] = frame.bytes.get(12..18).unwrap_or(&[0; 6]) else {
        return;
    };
    assert!(frame.bytes.len() >= 14);
    assert!(
        !access || !crate::header::is_tag(u16::from_be_bytes([kind[0], kind[1]])),
        "a tag"
    );
    assert!(
        !filtered || frame.bytes.get(6..12) == Some(&OWN.0),
        "another's address"
    );
    if let Checksum::Blank { start, offset } = frame.offload.checksum {
        assert!(usize::from(start) + usize::from(offset) + 2 <= frame.bytes.len());
    }
    if let Some(gso) = frame.offload.gso {
        assert!(gso.size != 0 && usize::from(gso.header_len) <= frame.bytes.len());
    }
}
