//! A connection: what is on its way, and its watches.

use std::sync::Arc;

use super::HostConn;
use crate::server::connection::Connection;
use crate::server::watches::Watch;
use crate::state::own::{ConnectionState, Own};
use crate::state::{Conn, ConnectionData, EmitError, Record, WatchData, emit};

/// Writes a connection; the numbers of its watches in the order in which they are to be written.
pub(super) fn save_connection(
    out: &mut Vec<u8>,
    conn_id: u32,
    connection: &Connection,
    known: &HostConn<'_>,
) -> Result<Vec<Arc<Watch>>, EmitError> {
    let watches = connection.watches_in_order();
    let output = connection.outbox.save();
    let input = [&connection.partial, known.unfed].concat();
    let (input, more) = input.split_at(input.len().min(usize::from(u16::MAX)));
    let conn = match known.by {
        Conn::Ring { domid, port, .. } => Conn::Ring {
            domid,
            target: connection.actor.target,
            port,
        },
        socket @ Conn::Socket { .. } => socket,
    };
    emit(
        out,
        &Record::Connection(ConnectionData {
            conn_id,
            conn,
            input,
            output: &output.bytes,
            begun: u16::try_from(output.begun).map_err(|_| EmitError::TooLong("out-resp-len"))?,
            unique_id: known.unique_id,
        }),
    )?;
    let place = |(id, condensed): (u64, bool)| {
        let at = watches.binary_search_by_key(&id, |watch| watch.id).ok()?;
        let at = u32::try_from(at + 1).ok()?;
        Some(
            at | if condensed {
                crate::state::own::CONDENSED
            } else {
                0
            },
        )
    };
    let state = ConnectionState {
        conn_id,
        id: known.conn.0,
        next_tx: connection.next_tx,
        privileged: connection.actor.privileged,
        events: output
            .events
            .into_iter()
            .map(|event| event.and_then(place).unwrap_or(0))
            .collect(),
        input: more,
    };
    emit(out, &Record::Own(Own::Connection(state)))?;
    Ok(watches)
}

pub(super) fn save_watches(
    out: &mut Vec<u8>,
    conn_id: u32,
    watches: &[Arc<Watch>],
) -> Result<(), EmitError> {
    for watch in watches {
        let record = Record::Watch(WatchData {
            conn_id,
            path: watch.given().as_bytes(),
            token: &watch.token,
            depth: watch.stream_depth(),
        });
        emit(out, &record)?;
    }
    Ok(())
}
