//! The format against its own emitter, against bytes written down by hand from the document, and against broken ones.

use cantle_abi::{DomId, Gfn, Port};
use proptest::collection::vec;
use proptest::prelude::*;

use super::own::{ConnectionState, DomainState, Op, Own, ServerState, Step, TransactionState};
use super::*;
use crate::Access;

/// An owned record, for generators: what [`Record`] borrows.
#[derive(Clone, Debug)]
struct Made {
    shape: u8,
    numbers: [u32; 3],
    short: [u16; 3],
    flags: [bool; 3],
    strings: Vec<(Vec<u8>, u32)>,
    bytes: [Vec<u8>; 2],
    perms: Vec<NodePerm>,
}

fn access() -> impl Strategy<Value = Access> {
    prop::sample::select(vec![
        Access::None,
        Access::Read,
        Access::Write,
        Access::Both,
    ])
}

fn string() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=255_u8, 0..20)
}

fn made() -> impl Strategy<Value = Made> {
    let perm =
        (access(), any::<bool>(), any::<u16>()).prop_map(|(access, stale, domid)| NodePerm {
            access,
            stale,
            domid: DomId(domid),
        });
    (
        0..18_u8,
        any::<[u32; 3]>(),
        any::<[u16; 3]>(),
        any::<[bool; 3]>(),
        vec((string(), any::<u32>()), 2..6),
        [vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..40)],
        vec(perm, 0..5),
    )
        .prop_map(
            |(shape, numbers, short, flags, strings, bytes, perms)| Made {
                shape,
                numbers,
                short,
                flags,
                strings,
                bytes,
                perms,
            },
        )
}

impl Made {
    fn record(&self) -> Record<'_> {
        let [first, second, third] = self.numbers;
        let [short, length, _] = self.short;
        let [flag, other_flag, third_flag] = self.flags;
        let conn_id = first.max(1);
        let quotas = |range: core::ops::Range<usize>| -> Vec<Quota<'_>> {
            let named = self.strings.iter().map(|(name, value)| (&name[..], *value));
            named.skip(range.start).take(range.len()).collect()
        };
        match self.shape {
            0 => Record::Global(GlobalData {
                socket_fd: flag.then_some(i32::from(short)),
                evtchn_fd: other_flag.then_some(7),
            }),
            1 => Record::Connection(ConnectionData {
                conn_id,
                conn: if flag {
                    Conn::Socket {
                        fd: second.cast_signed(),
                    }
                } else {
                    Conn::Ring {
                        domid: DomId(short),
                        target: other_flag.then_some(DomId(length & 0x7fff)),
                        port: Port(third),
                    }
                },
                input: &self.bytes[0],
                output: &self.bytes[1],
                begun: length.min(self.bytes[1].len().try_into().unwrap()),
                unique_id: third_flag.then_some(u64::from(second) << 32 | u64::from(third)),
            }),
            2 => Record::Watch(WatchData {
                conn_id,
                path: &self.strings[0].0,
                token: &self.strings[1].0,
                depth: flag.then_some(short & 0x7fff),
            }),
            3 => Record::Transaction(TransactionData {
                conn_id,
                tx_id: second.max(1),
            }),
            4 | 5 => Record::Node(NodeData {
                pending: (self.shape == 5).then_some(Pending {
                    conn_id,
                    tx_id: second,
                    read: flag,
                    written: other_flag,
                }),
                perms: self.perms.clone(),
                path: &self.strings[0].0,
                value: &self.bytes[0],
            }),
            6 => Record::GlobalQuota(GlobalQuotaData {
                domain: quotas(0..1),
                global: quotas(1..6),
            }),
            7 => Record::Domain(DomainData {
                domid: DomId(short),
                features: third,
                quotas: quotas(0..usize::from(length % 6)),
            }),
            8 => Record::Own(Own::Server(ServerState {
                generation: first.into(),
                next_conn: second.into(),
                privileged: self.perms.iter().map(|perm| perm.domid).collect(),
            })),
            9 => Record::Own(Own::Generations(
                self.bytes[0].iter().map(|byte| (*byte).into()).collect(),
            )),
            10 => Record::Own(Own::Domain(DomainState {
                domid: DomId(short),
                introduced: flag,
                shutdown: other_flag,
                quotas: flag != third_flag,
                target: other_flag.then_some(DomId(length & 0x3fff)),
                ring: third_flag.then_some((Gfn(first.into()), Port(second))),
            })),
            11 => Record::Own(Own::Connection(ConnectionState {
                conn_id,
                id: second.into(),
                next_tx: third,
                privileged: flag,
                events: self.strings.iter().map(|(_, number)| *number).collect(),
                input: &self.bytes[0],
            })),
            12 => Record::Own(Own::Transaction(TransactionState {
                conn_id,
                tx_id: second,
                doomed: flag,
                base: vec![
                    NodeData {
                        pending: None,
                        perms: self.perms.clone(),
                        path: &self.strings[0].0,
                        value: &self.bytes[0],
                    };
                    usize::from(length % 3)
                ],
                log: self
                    .strings
                    .iter()
                    .zip([
                        Op::Value,
                        Op::Children,
                        Op::Perms,
                        Op::Write,
                        Op::Mkdir,
                        Op::Rm,
                        Op::SetPerms,
                    ])
                    .map(|((path, number), op)| Step {
                        op,
                        errno: (number & 0xff) as u16,
                        perms: self.perms.clone(),
                        path,
                        value: &self.bytes[1],
                    })
                    .collect(),
            })),
            13 => Record::Own(Own::Unwatch {
                conn_id,
                path: &self.strings[0].0,
                token: &self.strings[1].0,
            }),
            14 => Record::Own(Own::NoWatches { conn_id }),
            15 => Record::Own(Own::DomainGone {
                domid: DomId(short),
            }),
            _ => {
                let whole = self.bytes[0].len() / ALIGN * ALIGN;
                Record::Other {
                    kind: first | 0x100,
                    body: &self.bytes[0][..whole],
                }
            }
        }
    }
}

fn stream(records: &[Record<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    emit_header(&mut out);
    for record in records {
        emit(&mut out, record).unwrap();
    }
    emit(&mut out, &Record::End).unwrap();
    out
}

fn read(bytes: &[u8]) -> Result<Vec<Record<'_>>, ParseError> {
    Reader::new(bytes)?.collect()
}

proptest! {
    #[test]
    fn what_is_emitted_is_parsed(made in vec(made(), 0..12), tail in vec(any::<u8>(), 0..20)) {
        let mut records: Vec<_> = made.iter().map(Made::record).collect();
        let mut bytes = stream(&records);
        prop_assert_eq!(bytes.len() % ALIGN, 0);
        bytes.extend_from_slice(&tail);
        records.push(Record::End);
        let mut reader = Reader::new(&bytes).unwrap();
        let parsed: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(parsed, records);
        prop_assert_eq!(reader.rest(), &tail[..]);
        prop_assert!(reader.next().is_none());
    }

    #[test]
    fn fragments_end_where_their_bytes_end(made in vec(made(), 0..6)) {
        let records: Vec<_> = made.iter().map(Made::record).collect();
        let mut bytes = Vec::new();
        for record in &records {
            emit(&mut bytes, record).unwrap();
        }
        let parsed: Vec<_> = Reader::fragment(&bytes, 100).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(parsed, records);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200), version in 0..4_u32, flags in 0..3_u32) {
        let _ = read(&bytes);
        let mut stream = [&IDENT[..], &version.to_be_bytes(), &flags.to_be_bytes()].concat();
        stream.extend_from_slice(&bytes);
        let _ = read(&stream);
    }

    /// Every byte of valid records, changed: an error, or other records, but no panic, and nothing beyond the input.
    #[test]
    fn no_changed_byte_panics(made in vec(made(), 1..4), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let records: Vec<_> = made.iter().map(Made::record).collect();
        let mut bytes = stream(&records);
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        if let Err(error) = read(&bytes) {
            prop_assert!(error.offset <= bytes.len());
        }
    }

    #[test]
    fn a_stream_cut_short_is_an_error(made in vec(made(), 0..4), cut in any::<prop::sample::Index>()) {
        let records: Vec<_> = made.iter().map(Made::record).collect();
        let bytes = stream(&records);
        prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

/// A little stream, byte by byte as the document has it, in both byte orders.
fn by_hand(big: bool, version: u32) -> Vec<u8> {
    let n16 = |n: u16| {
        if big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    };
    let n32 = |n: u32| {
        if big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    };
    let n64 = |n: u64| {
        if big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    };
    let mut out = b"xenstore".to_vec();
    out.extend(version.to_be_bytes());
    out.extend(u32::from(big).to_be_bytes());
    let mut record = |kind: u32, body: &[&[u8]]| {
        let body = body.concat();
        out.extend(n32(kind));
        out.extend(n32(body.len().try_into().unwrap()));
        out.extend(&body);
        // Padding is ignored, so here it is none of our zeroes; and its length is not counted here.
        out.resize(out.len().next_multiple_of(8), 0x5a);
    };
    record(1, &[&n32(7), &n32(u32::MAX)]);
    let ring = [&n16(5)[..], &n16(3), &n32(9)].concat();
    let lengths = [&n16(3)[..], &n16(2), &n32(4)].concat();
    record(
        2,
        &[
            &n32(1),
            &n16(0),
            &n16(1),
            &ring,
            &lengths,
            b"inpoutp",
            b"?",
            &n64(77),
        ],
    );
    record(3, &[&n32(1), &n16(3), &n16(2), b"ab\0t\0"]);
    record(
        8,
        &[&n32(1), &n16(3), &n16(2), &n16(4), &n16(0xffff), b"ab\0t\0"],
    );
    record(4, &[&n32(1), &n32(6)]);
    let perms = [&b"r\x01"[..], &n16(5)].concat();
    record(
        5,
        &[
            &n32(1),
            &n32(6),
            &n16(3),
            &n16(2),
            &n16(3),
            &n16(1),
            &perms,
            b"/a\0",
            b"v\0",
        ],
    );
    record(6, &[&n16(1), &n16(1), &n32(8), &n32(9), b"nodes\0all\0"]);
    record(7, &[&n16(5), &n16(1), &n32(3), &n32(8), b"nodes\0"]);
    record(0, &[]);
    out
}

fn of_the_hand(version: u32) -> Vec<Record<'static>> {
    let watch = |depth| {
        Record::Watch(WatchData {
            conn_id: 1,
            path: b"ab",
            token: b"t",
            depth,
        })
    };
    vec![
        Record::Global(GlobalData {
            socket_fd: Some(7),
            evtchn_fd: None,
        }),
        Record::Connection(ConnectionData {
            conn_id: 1,
            conn: Conn::Ring {
                domid: DomId(5),
                target: Some(DomId(3)),
                port: Port(9),
            },
            input: b"inp",
            output: b"outp",
            begun: 2,
            unique_id: Some(77),
        }),
        watch(None),
        watch(Some(4)),
        Record::Transaction(TransactionData {
            conn_id: 1,
            tx_id: 6,
        }),
        Record::Node(NodeData {
            pending: Some(Pending {
                conn_id: 1,
                tx_id: 6,
                read: true,
                written: true,
            }),
            perms: vec![NodePerm {
                access: Access::Read,
                stale: true,
                domid: DomId(5),
            }],
            path: b"/a",
            value: b"v\0",
        }),
        Record::GlobalQuota(GlobalQuotaData {
            domain: vec![(b"nodes", 8)],
            global: vec![(b"all", 9)],
        }),
        Record::Domain(DomainData {
            domid: DomId(5),
            features: if version == 1 { 0 } else { 3 },
            quotas: vec![(b"nodes", 8)],
        }),
        Record::End,
    ]
}

#[test]
fn the_documents_bytes_are_read_in_both_orders() {
    for big in [false, true] {
        assert_eq!(
            read(&by_hand(big, 2)).unwrap(),
            of_the_hand(2),
            "big: {big}"
        );
    }
}

#[test]
fn version_1_has_neither_features_nor_depths() {
    let bytes = by_hand(false, 1);
    let records = read(&bytes).unwrap();
    let expected = of_the_hand(1);
    assert!(matches!(records[3], Record::Other { kind: 8, .. }));
    assert_eq!(records[..3], expected[..3]);
    assert_eq!(records[4..], expected[4..]);
}

/// Breaks one field of a stream at a time; what is said of it, and where.
#[test]
fn one_broken_field_is_named() {
    let whole = by_hand(false, 2);
    let broken = |at: usize, bytes: &[u8]| {
        let mut stream = whole.clone();
        stream[at..at + bytes.len()].copy_from_slice(bytes);
        read(&stream).unwrap_err()
    };
    let value = |offset, field, value| ParseError {
        offset,
        fault: Fault::Value { field, value },
    };
    assert_eq!(broken(0, b"X").fault, Fault::NoStream);
    assert_eq!(broken(8, &[0, 0, 0, 3]).fault, Fault::Version(3));
    assert_eq!(broken(8, &[0, 0, 0, 0]).fault, Fault::Version(0));
    assert_eq!(broken(12, &[1]), value(16, "flags", 0x0100_0000));
    // GLOBAL_DATA's length: less than its fields, and more than them.
    assert_eq!(broken(20, &[7]).fault, Fault::Truncated("evtchn-fd"));
    assert_eq!(broken(20, &[16]).fault, Fault::Leftover(8));
    assert_eq!(
        broken(20, &[0xff; 4]),
        ParseError {
            offset: 24,
            fault: Fault::Truncated("body")
        }
    );
    // CONNECTION_DATA begins at 32, its body at 40.
    assert_eq!(broken(40, &[0]), value(44, "conn-id", 0));
    assert_eq!(broken(44, &[2]), value(48, "conn-type", 2));
    assert_eq!(broken(46, &[2]), value(48, "fields", 2));
    assert_eq!(broken(46, &[0]).fault, Fault::Leftover(9));
    assert_eq!(broken(56, &[0xff]).fault, Fault::Truncated("data"));
    assert_eq!(broken(58, &[5]), value(64, "out-resp-len", 5));
    assert_eq!(broken(60, &[0xff; 4]).fault, Fault::Truncated("data"));
    // WATCH_DATA begins at 80.
    assert_eq!(broken(88, &[0]), value(92, "conn-id", 0));
    assert_eq!(broken(92, &[0]).fault, Fault::String("wpath"));
    assert_eq!(broken(94, &[3]).fault, Fault::Truncated("token"));
    assert_eq!(broken(98, b"x").fault, Fault::String("wpath"));
    assert_eq!(broken(97, &[0]).fault, Fault::String("wpath"));
    assert_eq!(broken(100, b"x").fault, Fault::String("token"));
    // TRANSACTION_DATA's body is at 144, NODE_DATA's at 160.
    assert_eq!(broken(148, &[0]), value(152, "tx-id", 0));
    assert_eq!(broken(168, &[0]).fault, Fault::String("path"));
    assert_eq!(broken(170, &[0xff]).fault, Fault::Truncated("value"));
    assert_eq!(broken(172, &[4]), value(174, "access", 4));
    assert_eq!(
        broken(174, &[0xff, 0xff]).fault,
        value(0, "perm", 0x2f).fault
    );
    assert_eq!(broken(176, b"x"), value(177, "perm", u64::from(b'x')));
    assert_eq!(broken(177, &[2]), value(178, "flags", 2));
    // GLOBAL_QUOTA_DATA's body is at 200, DOMAIN_DATA's at 232.
    assert_eq!(broken(200, &[2]).fault, Fault::Truncated("quota-names"));
    assert_eq!(
        broken(202, &[0xff, 0xff]).fault,
        Fault::Truncated("quota-val")
    );
    assert_eq!(broken(221, b"x").fault, Fault::Truncated("quota-names"));
    assert_eq!(broken(234, &[2]).fault, Fault::Truncated("quota-names"));
}

#[test]
fn what_has_no_room_is_not_written() {
    let long = vec![b'a'; 0x1_0000];
    let node = |path, value| {
        Record::Node(NodeData {
            pending: None,
            perms: Vec::new(),
            path,
            value,
        })
    };
    let mut out = vec![1, 2, 3];
    for (record, error) in [
        (node(&long, b""), EmitError::TooLong("path-len")),
        (node(b"/", &long), EmitError::TooLong("value-len")),
        (node(b"/\0", b""), EmitError::Nul("path")),
        (
            Record::Transaction(TransactionData {
                conn_id: 1,
                tx_id: 0,
            }),
            EmitError::Zero("tx-id"),
        ),
    ] {
        assert_eq!(emit(&mut out, &record), Err(error));
        assert_eq!(out, [1, 2, 3]);
    }
}
