//! Streams that say what cannot be: refused, by the place of the record.

use cantle_abi::{DomId, Port};
use cantle_xenstore::Server;
use cantle_xenstore::server::{RestoreError, Wrong};
use cantle_xenstore::state::own::{ConnectionState, DomainState, Own, ServerState};
use cantle_xenstore::state::{Conn, ConnectionData, Record, emit, emit_header};

fn refused(records: &[Record<'_>]) -> Wrong {
    let mut stream = Vec::new();
    emit_header(&mut stream);
    let mut last = 0;
    for record in records {
        last = stream.len();
        emit(&mut stream, record).unwrap();
    }
    emit(&mut stream, &Record::End).unwrap();
    match Server::restore(&stream) {
        Err(RestoreError::Record { offset, wrong }) => {
            assert_eq!(offset, last, "the last record is the one that is wrong");
            wrong
        }
        other => panic!("{other:?}"),
    }
}

fn ring(domid: DomId, target: Option<DomId>) -> Record<'static> {
    Record::Connection(ConnectionData {
        conn_id: 1,
        conn: Conn::Ring {
            domid,
            target,
            port: Port(1),
        },
        input: &[],
        output: &[],
        begun: 0,
        unique_id: None,
    })
}

fn server(generation: u64, next_conn: u64, privileged: DomId) -> Record<'static> {
    Record::Own(Own::Server(ServerState {
        generation,
        next_conn,
        privileged: vec![privileged],
    }))
}

#[test]
fn numbers_from_which_nobody_could_go_on_are_refused() {
    for (generation, next_conn) in [(u64::MAX, 1), (1, u64::MAX), (1 << 62, 1)] {
        let record = server(generation, next_conn, DomId(1));
        assert_eq!(refused(&[record]), Wrong::Number);
    }
    let state = Record::Own(Own::Connection(ConnectionState {
        conn_id: 1,
        id: u64::MAX,
        next_tx: 1,
        privileged: false,
        events: Vec::new(),
        input: &[],
    }));
    assert_eq!(refused(&[ring(DomId(1), None), state]), Wrong::Number);
}

/// They would be saved again, in a stream that nobody could read.
#[test]
fn numbers_of_no_domain_are_refused_wherever_they_are() {
    let nobody = DomId(0x7ff1);
    assert_eq!(refused(&[server(1, 1, nobody)]), Wrong::Domain);
    assert_eq!(refused(&[ring(nobody, None)]), Wrong::Domain);
    assert_eq!(refused(&[ring(DomId(1), Some(nobody))]), Wrong::Domain);
    let state = DomainState {
        domid: DomId(1),
        introduced: true,
        shutdown: false,
        quotas: false,
        target: Some(nobody),
        ring: None,
    };
    assert_eq!(refused(&[Record::Own(Own::Domain(state))]), Wrong::Domain);
}
