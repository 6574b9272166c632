//! Chains of tx slots and extra info, as bytes, through what puts packets together.

use cantle_abi::GrantRef;
use cantle_abi::PAGE_SIZE;
use cantle_abi::io::netif::{NetifTxRequest, XEN_NETIF_NR_SLOTS_MIN};
use cantle_netback::tx::{Assembler, Extras, Step};

/// Slots taken from one input at most.
const SLOTS_MAX: usize = 2000;

/// Runs one input: what is accepted, then slots of twelve bytes.
///
/// # Panics
///
/// Where a slot is answered twice or never, too many are held, or a packet is not what the rules say.
pub fn run(data: &[u8]) {
    let Some((&accepted, slots)) = data.split_first() else {
        return;
    };
    let extras = Extras {
        multicast: accepted & 1 != 0,
        hash: accepted & 2 != 0,
    };
    let mut assembler = Assembler::accepting(extras);
    let mut held = 0;
    for bytes in slots.as_chunks::<12>().0.iter().take(SLOTS_MAX) {
        held += 1;
        match assembler.feed(&slot(bytes)) {
            Step::More => assert!(held <= XEN_NETIF_NR_SLOTS_MIN + 4, "{held} slots"),
            Step::Refused(_) => {
                assert_eq!(assembler.answers().len(), held);
                held = 0;
            }
            Step::Whole => {
                assert_eq!(assembler.answers().len(), held);
                held = 0;
                check(&assembler, extras);
            }
        }
    }
}

fn slot(bytes: &[u8; 12]) -> NetifTxRequest {
    let [g0, g1, g2, g3, o0, o1, f0, f1, i0, i1, s0, s1] = *bytes;
    NetifTxRequest {
        gref: GrantRef(u32::from_le_bytes([g0, g1, g2, g3])),
        offset: u16::from_le_bytes([o0, o1]),
        flags: u16::from_le_bytes([f0, f1]),
        id: u16::from_le_bytes([i0, i1]),
        size: u16::from_le_bytes([s0, s1]),
    }
}

fn check(assembler: &Assembler, extras: Extras) {
    let packet = assembler.packet();
    assert!(packet.len >= 14);
    assert!((1..=XEN_NETIF_NR_SLOTS_MIN).contains(&packet.slots.len()));
    let sum: usize = packet.slots.iter().map(|slot| usize::from(slot.len)).sum();
    assert_eq!(sum, usize::from(packet.len));
    for slot in packet.slots {
        assert!(usize::from(slot.offset) + usize::from(slot.len) <= PAGE_SIZE);
    }
    assert!(packet.gso.is_none_or(|(_, size)| size > 0));
    assert!(packet.multicast.is_none() || extras.multicast);
}
