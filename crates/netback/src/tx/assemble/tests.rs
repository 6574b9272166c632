use super::*;
use cantle_abi::io::netif::XEN_NETIF_EXTRA_TYPE_MCAST_ADD;
use proptest::prelude::*;

fn slot(id: u16, flags: u16, offset: u16, size: u16) -> NetifTxRequest {
    NetifTxRequest {
        gref: GrantRef(u32::from(id) + 100),
        offset,
        flags,
        id,
        size,
    }
}

/// Feeds slots; each outcome with its answers.
fn feed(slots: &[NetifTxRequest]) -> Vec<(Step, Vec<Answer>)> {
    let mut assembler = Assembler::new();
    let mut steps = Vec::new();
    for slot in slots {
        let step = assembler.feed(slot);
        if step != Step::More {
            steps.push((step, assembler.answers().to_vec()));
        }
    }
    steps
}

#[test]
fn one_slot_is_a_packet() {
    let mut assembler = Assembler::new();
    let flags = NETTXF_csum_blank | NETTXF_data_validated;
    assert_eq!(assembler.feed(&slot(7, flags, 96, 1500)), Step::Whole);
    assert_eq!(
        assembler.packet(),
        Packet {
            slots: &[Slot {
                gref: GrantRef(107),
                offset: 96,
                len: 1500
            }],
            len: 1500,
            csum_blank: true,
            data_validated: true,
            gso: None,
            multicast: None,
        }
    );
    assert_eq!(assembler.answers(), [Some(7)]);
}

#[test]
fn the_first_slot_has_what_the_others_leave() {
    let mut assembler = Assembler::new();
    let extra = NetifExtraInfo::gso(1448, XEN_NETIF_GSO_TYPE_TCPV4, 0).to_tx_slot();
    let flags = NETTXF_more_data | NETTXF_extra_info;
    assert_eq!(assembler.feed(&slot(1, flags, 10, 9000)), Step::More);
    assert_eq!(assembler.feed(&extra), Step::More);
    assert_eq!(
        assembler.feed(&slot(2, NETTXF_more_data, 0, 4096)),
        Step::More
    );
    assert_eq!(assembler.feed(&slot(3, 0, 0, 4000)), Step::Whole);
    let packet = assembler.packet();
    let lens: Vec<u16> = packet.slots.iter().map(|slot| slot.len).collect();
    assert_eq!(lens, [904, 4096, 4000]);
    assert_eq!(packet.gso, Some((GsoKind::TcpV4, 1448)));
    assert_eq!(assembler.answers(), [Some(1), None, Some(2), Some(3)]);
}

#[test]
fn each_broken_field_is_refused() {
    let whole = XEN_NETIF_NR_SLOTS_MIN + 1;
    let long: Vec<_> = (0_u16..)
        .take(whole)
        .map(|id| {
            slot(
                id,
                if usize::from(id) + 1 < whole {
                    NETTXF_more_data
                } else {
                    0
                },
                0,
                100,
            )
        })
        .collect();
    assert!(
        feed(&long)
            .iter()
            .any(|(step, _)| *step == Step::Refused(Fault::TooManySlots))
    );

    let cases = [
        (vec![slot(0, 0, 0, 13)], Fault::TooShort(13)),
        (
            vec![slot(0, 0, 4000, 97)],
            Fault::CrossesPage {
                offset: 4000,
                len: 97,
            },
        ),
        (
            vec![slot(0, NETTXF_more_data, 0, 100), slot(1, 0, 4090, 7)],
            Fault::CrossesPage {
                offset: 4090,
                len: 7,
            },
        ),
        (
            vec![slot(0, NETTXF_more_data, 0, 100), slot(1, 0, 0, 101)],
            Fault::Size {
                total: 100,
                parts: 101,
            },
        ),
    ];
    for (slots, fault) in cases {
        let answers = (0_u16..).take(slots.len()).map(Some).collect();
        assert_eq!(feed(&slots), [(Step::Refused(fault), answers)]);
    }
}

#[test]
fn extra_info_that_was_not_negotiated_is_refused() {
    let mut multicast = NetifExtraInfo::gso(0, 0, 0);
    multicast.kind = XEN_NETIF_EXTRA_TYPE_MCAST_ADD;
    let unknown = NetifExtraInfo {
        kind: 200,
        flags: 0,
        u: [0; 6],
    };
    let no_size = NetifExtraInfo::gso(0, XEN_NETIF_GSO_TYPE_TCPV4, 0);
    let no_type = NetifExtraInfo::gso(1448, 9, 0);
    let cases = [
        (multicast, Fault::Extra(XEN_NETIF_EXTRA_TYPE_MCAST_ADD)),
        (unknown, Fault::Extra(200)),
        (no_size, Fault::Segmentation { kind: 1, size: 0 }),
        (
            no_type,
            Fault::Segmentation {
                kind: 9,
                size: 1448,
            },
        ),
    ];
    for (extra, fault) in cases {
        let slots = [slot(5, NETTXF_extra_info, 0, 100), extra.to_tx_slot()];
        let refused = (Step::Refused(fault), vec![Some(5), None]);
        assert_eq!(feed(&slots), [refused]);
    }
}

#[test]
fn a_refused_packet_is_answered_to_its_end_and_the_next_is_good() {
    let bad = NetifExtraInfo {
        kind: 9,
        flags: XEN_NETIF_EXTRA_FLAG_MORE,
        u: [0; 6],
    };
    let gso = NetifExtraInfo::gso(1, XEN_NETIF_GSO_TYPE_TCPV6, 0);
    let slots = [
        slot(1, NETTXF_extra_info | NETTXF_more_data, 0, 200),
        bad.to_tx_slot(),
        gso.to_tx_slot(),
        slot(2, NETTXF_more_data, 0, 10),
        slot(3, 0, 0, 10),
        slot(4, 0, 0, 60),
    ];
    let refused = Step::Refused(Fault::Extra(9));
    assert_eq!(
        feed(&slots),
        [
            (refused, vec![Some(1), None]),
            (refused, vec![None]),
            (refused, vec![Some(2)]),
            (refused, vec![Some(3)]),
            (Step::Whole, vec![Some(4)]),
        ]
    );
}

/// Extra-info slots without end: answered as they come, nothing piles up.
#[test]
fn an_endless_chain_of_extra_info_is_not_kept() {
    let mut extra = NetifExtraInfo::gso(1, XEN_NETIF_GSO_TYPE_TCPV4, 0);
    extra.flags = XEN_NETIF_EXTRA_FLAG_MORE;
    let mut assembler = Assembler::new();
    assembler.feed(&slot(0, NETTXF_extra_info, 0, 100));
    for _ in 0..1000 {
        assembler.feed(&extra.to_tx_slot());
        assert!(assembler.answers().len() <= PACKET_SLOTS_MAX);
    }
}

proptest! {
    /// Whatever a guest writes: each slot is answered once, in order, and a whole packet keeps the rules.
    #[test]
    fn any_slots_are_answered_once_each(
        raw in proptest::collection::vec((any::<u32>(), any::<u16>(), 0_u16..16, any::<u16>(), 0_u16..5000), 0..200)
    ) {
        let mut assembler = Assembler::new();
        let (mut answered, mut fed) = (Vec::new(), Vec::new());
        for (gref, offset, flags, id, size) in raw {
            let request = NetifTxRequest { gref: GrantRef(gref), offset: offset % 4200, flags, id, size };
            fed.push(id);
            match assembler.feed(&request) {
                Step::More => continue,
                Step::Refused(_) => {}
                Step::Whole => {
                    let packet = assembler.packet();
                    let sum: usize = packet.slots.iter().map(|slot| usize::from(slot.len)).sum();
                    prop_assert_eq!(sum, usize::from(packet.len));
                    prop_assert!(packet.len >= FRAME_MIN);
                    prop_assert!(packet.slots.len() <= XEN_NETIF_NR_SLOTS_MIN);
                    prop_assert!(packet.gso.is_none_or(|(_, size)| size != 0));
                    for slot in packet.slots {
                        prop_assert!(usize::from(slot.offset) + usize::from(slot.len) <= PAGE_SIZE);
                    }
                }
            }
            answered.extend_from_slice(assembler.answers());
        }
        prop_assert!(answered.len() <= fed.len());
        for (answer, id) in answered.iter().zip(&fed) {
            prop_assert!(answer.is_none() || *answer == Some(*id));
        }
        prop_assert!(fed.len() - answered.len() <= PACKET_SLOTS_MAX);
    }
}
