//! Guests that are not let in, and leave no trace.

use cantle_abi::{DomId, Port};
use cantle_xenstore::server::{RestoreError, Wrong};
use cantle_xenstore::state::own::Own;
use cantle_xenstore::state::{
    Conn, ConnectionData, DomainData, GlobalData, NodeData, NodePerm, Pending, Reader, Record,
    TransactionData, WatchData, emit, emit_header,
};
use cantle_xenstore::{Access, Limits, Server};

use super::{check, with_guest};

/// A server to which guests come.
pub(super) fn world() -> Server {
    let limits = Limits {
        nodes: 20,
        watches: 3,
        transactions: 2,
        ..Limits::DEFAULT
    };
    with_guest(limits, DomId(8)).0
}

/// All that is kept of it, but for numbers.
pub(super) fn state(server: &Server) -> Vec<String> {
    let mut stream = Vec::new();
    server.checkpoint().unwrap().write(&mut stream).unwrap();
    let records = Reader::new(&stream).unwrap().map(Result::unwrap);
    records
        .filter(|record| !matches!(record, Record::Own(Own::Server(_) | Own::Generations(_))))
        .map(|record| format!("{record:?}"))
        .collect()
}

fn ring(conn_id: u32, domid: u16, output: &[u8]) -> Record<'_> {
    Record::Connection(ConnectionData {
        conn_id,
        conn: Conn::Ring {
            domid: DomId(domid),
            target: None,
            port: Port(1),
        },
        input: &[],
        output,
        begun: 0,
        unique_id: None,
    })
}

fn node(path: &str, pending: Option<u32>) -> Record<'_> {
    Record::Node(NodeData {
        pending: pending.map(|tx_id| Pending {
            conn_id: 1,
            tx_id,
            read: false,
            written: true,
        }),
        perms: vec![NodePerm {
            access: Access::None,
            stale: false,
            domid: DomId(5),
        }],
        path: path.as_bytes(),
        value: b"value",
    })
}

fn watch(path: &str, conn_id: u32) -> Record<'_> {
    Record::Watch(WatchData {
        conn_id,
        path: path.as_bytes(),
        token: b"token",
        depth: None,
    })
}

fn transaction(tx_id: u32) -> Record<'static> {
    Record::Transaction(TransactionData { conn_id: 1, tx_id })
}

/// A guest with a ring and a home, and then these.
fn refused(more: &[Record<'_>], to: DomId) -> Wrong {
    let mut stream = Vec::new();
    emit_header(&mut stream);
    let begin = [ring(1, 5, &[]), node("/local/domain/5", None)];
    for record in begin.iter().chain(more) {
        emit(&mut stream, record).unwrap();
    }
    emit(&mut stream, &Record::End).unwrap();
    let mut server = world();
    let before = state(&server);
    let result = server.load_domain(&stream, to);
    assert!(result.is_err(), "{more:?}");
    assert_eq!(state(&server), before, "{result:?}");
    check(&mut server);
    match result {
        Err(RestoreError::Record { wrong, .. }) => wrong,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_the_guest_s_is_refused() {
    let domain = |domid| {
        Record::Domain(DomainData {
            domid: DomId(domid),
            features: 0,
            quotas: Vec::new(),
        })
    };
    let socket = Record::Connection(ConnectionData {
        conn_id: 2,
        conn: Conn::Socket { fd: 3 },
        input: &[],
        output: &[],
        begun: 0,
        unique_id: None,
    });
    let global = Record::Global(GlobalData {
        socket_fd: None,
        evtchn_fd: None,
    });
    for (record, wrong) in [
        (node("/", None), Wrong::Path),
        (node("/tool/x", None), Wrong::Path),
        (node("/local/domain/50", None), Wrong::Path),
        (node("/local/domain/8/x", None), Wrong::Path),
        (node("/local/domain/5/", None), Wrong::Path),
        (node("/local/domain/5/../8", None), Wrong::Path),
        (node("@releaseDomain", None), Wrong::Path),
        (node("/local/domain/5/x", Some(3)), Wrong::Unknown),
        (ring(1, 5, &[]), Wrong::Twice),
        (ring(2, 6, &[]), Wrong::Domain),
        (socket, Wrong::Domain),
        (domain(6), Wrong::Domain),
        (global, Wrong::Domain),
        (watch("x", 2), Wrong::Unknown),
        (watch("//", 1), Wrong::Path),
        (watch("a//b", 1), Wrong::Path),
    ] {
        let what = format!("{record:?}");
        assert_eq!(refused(&[record], DomId(9)), wrong, "{what}");
    }
    assert_eq!(
        refused(&[transaction(1), node("/x", Some(1))], DomId(9)),
        Wrong::Path
    );
    assert_eq!(
        refused(&[transaction(1), transaction(1)], DomId(9)),
        Wrong::Twice
    );
    assert_eq!(refused(&[domain(5), domain(5)], DomId(9)), Wrong::Twice);
    // Nobody may become domain 0, or one that has a ring already.
    assert_eq!(refused(&[], DomId::DOM0), Wrong::Domain);
    assert_eq!(refused(&[], DomId(0x7ff1)), Wrong::Domain);
    assert_eq!(refused(&[], DomId(8)), Wrong::Twice);
}

#[test]
fn a_guest_brings_no_more_than_its_quotas_allow() {
    let paths: Vec<String> = (0..20).map(|n| format!("/local/domain/5/{n}")).collect();
    let nodes: Vec<Record<'_>> = paths.iter().map(|path| node(path, None)).collect();
    assert_eq!(refused(&nodes, DomId(9)), Wrong::Quota);
    let watches: Vec<Record<'_>> = paths[..4].iter().map(|path| watch(path, 1)).collect();
    assert_eq!(refused(&watches, DomId(9)), Wrong::Quota);
    assert_eq!(refused(&[1, 2, 3].map(transaction), DomId(9)), Wrong::Quota);
    // Not even where it says that it may.
    let mut free = vec![Record::Domain(DomainData {
        domid: DomId(5),
        features: 0,
        quotas: vec![(b"nodes", 0), (b"watches", 1000)],
    })];
    free.extend(nodes);
    assert_eq!(refused(&free, DomId(9)), Wrong::Quota);
    free.truncate(1);
    free.extend(watches);
    assert_eq!(refused(&free, DomId(9)), Wrong::Quota);
}
