//! A migration stream from somewhere: any bytes, and streams of records that belong together or do not, with some bytes changed.

mod records;

use arbitrary::{Arbitrary, Unstructured};
use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_DIRECTORY, XS_READ, XS_RESET_WATCHES, XS_TRANSACTION_END, XS_TRANSACTION_START,
    XS_WRITE, XsType,
};
use cantle_xenstore::server::{Host, HostConn, RestoredConn};
use cantle_xenstore::state::{Reader, Record, emit, emit_header};
use cantle_xenstore::{Server, TxId};

pub(super) use records::Made;

use crate::input::Odd;

/// A stream, as somebody may have left it.
#[derive(Arbitrary, Debug)]
struct Stream {
    records: Vec<Made>,
    /// Without its end.
    endless: bool,
    /// Bytes that are changed: where, and by which bits.
    changed: Vec<(u16, u8)>,
}

/// Runs one input.
///
/// # Panics
///
/// Where a server that was restored is no whole one, or is not restored again from what it saves.
pub fn run(data: &[u8]) {
    for record in Reader::new(data).into_iter().flatten() {
        let _ = record;
    }
    restore(data);
    arrive(data);
    let Ok(stream) = Stream::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let mut bytes = Vec::new();
    emit_header(&mut bytes);
    for record in stream.records.iter().take(100) {
        record.emit(&mut bytes);
    }
    if !stream.endless {
        let _ = emit(&mut bytes, &Record::End);
    }
    change(&mut bytes, &stream.changed);
    restore(&bytes);
    arrive(&bytes);
}

/// Changes a few bytes.
pub(super) fn change(bytes: &mut [u8], changes: &[(u16, u8)]) {
    for (at, bits) in changes.iter().take(8) {
        if !bytes.is_empty() {
            let at = usize::from(*at) % bytes.len();
            bytes[at] ^= bits;
        }
    }
}

/// The stream as a guest that comes to a host where there is something already.
fn arrive(stream: &[u8]) {
    let mut server = Server::new();
    let dom0 = server.connect_socket();
    for path in ["/local/domain/2/x\0there", "/a/b\0there"] {
        let written = server.request(dom0, XS_WRITE, TxId::NONE, path.as_bytes());
        assert!(written.is_ok());
    }
    let before = save(&server, &[]);
    match server.load_domain(stream, DomId(2)) {
        Ok(conn) => {
            let connections: Vec<RestoredConn> = conn.into_iter().collect();
            restore(&save(&server, &connections));
            is_whole(&mut server, &connections);
        }
        Err(_) => {
            check(&mut server);
            assert_eq!(
                nodes(&before),
                nodes(&save(&server, &[])),
                "nothing is left"
            );
        }
    }
}

/// What a stream says, but for the numbers of changes.
fn nodes(stream: &[u8]) -> Vec<Record<'_>> {
    let records = Reader::new(stream).into_iter().flatten().flatten();
    records
        .filter(|record| !matches!(record, Record::Own(_)))
        .collect()
}

fn restore(stream: &[u8]) {
    let Ok(restored) = Server::restore(stream) else {
        return;
    };
    assert!(restored.len <= stream.len());
    let mut server = restored.server;
    let first = save(&server, &restored.connections);
    let again = Server::restore(&first).expect("a server reads what it has written");
    let second = save(&again.server, &again.connections);
    assert_eq!(first, second, "it is the same server");
    is_whole(&mut server, &restored.connections);
}

fn save(server: &Server, connections: &[RestoredConn]) -> Vec<u8> {
    let connections = connections.iter().map(|known| HostConn {
        conn: known.conn,
        by: known.by,
        unfed: &known.unfed,
        unique_id: known.unique_id,
    });
    let host = Host {
        global: None,
        connections: connections.collect(),
    };
    let mut stream = Vec::new();
    let saved = server.save(&mut stream, &host);
    assert_eq!(saved, Ok(()), "what came from a stream fits into one");
    stream
}

/// A server that goes on: its accounts are right, its connections and domains can be used.
pub(super) fn is_whole(server: &mut Server, connections: &[RestoredConn]) {
    check(server);
    for known in connections {
        let _ = server.feed(known.conn, &known.unfed);
        for (op, payload) in [
            (XS_READ, "/a\0"),
            (XS_WRITE, "/a/b\0value"),
            (XS_DIRECTORY, "/\0"),
            (XS_RESET_WATCHES, "\0"),
        ] {
            let _ = server.request(known.conn, op, TxId::NONE, payload.as_bytes());
        }
        for tx in 0..3 {
            let _ = server.request(known.conn, XS_TRANSACTION_END, TxId(tx), b"T\0");
        }
        let waiting = server.output(known.conn, usize::MAX).len();
        server.consume_output(known.conn, waiting);
    }
    check(server);
    let dom0 = server.connect_socket();
    let mut ask = |op: XsType, tx: u32, payload: &str| {
        let answer = server.request(dom0, op, TxId(tx), payload.as_bytes());
        String::from_utf8(answer.expect("domain 0 may do that")).expect("ASCII")
    };
    let tx = ask(XS_TRANSACTION_START, 0, "\0");
    let tx = tx.trim_end_matches('\0').parse().expect("a number");
    ask(XS_WRITE, tx, "/whole/node\0is written");
    ask(XS_TRANSACTION_END, tx, "T\0");
    assert_eq!(ask(XS_READ, 0, "/whole/node\0"), "is written");
    for domid in 1..4 {
        let _ = server.introduce(DomId(domid));
        check(server);
        let _ = server.release(DomId(domid));
    }
    for known in connections {
        server.disconnect(known.conn);
    }
    check(server);
}

/// What the store says of itself.
fn check(server: &mut Server) {
    let dom0 = server.connect_socket();
    let answer = server.request(dom0, XS_CONTROL, TxId::NONE, b"check\0");
    let answer = answer.map(|answer| String::from_utf8_lossy(&answer).into_owned());
    assert_eq!(answer.as_deref(), Ok("OK\0"));
    server.disconnect(dom0);
}

/// A domain that is mostly one that there may be.
fn domain(odd: Odd) -> DomId {
    DomId(odd.half())
}
