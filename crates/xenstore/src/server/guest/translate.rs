//! A guest's stream in the terms of the server that it comes to: with its number there, its paths, and nobody else's permissions.

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::XS_WATCH_EVENT;

use crate::server::load::{RestoreError, Wrong, node_path};
use crate::state::own::{ConnectionState, Own};
use crate::state::{
    Conn, ConnectionData, DomainData, NodeData, NodePerm, Reader, Record, WatchData, emit,
};
use crate::wire::{self, Message, string_and_rest};
use crate::xenbus::domain_path;

/// The stream's records, but for those that say nothing of a guest.
pub(super) struct Translated {
    /// A [fragment](Reader::fragment).
    pub(super) records: Vec<u8>,
    /// Where each record was in the stream.
    pub(super) offsets: Vec<usize>,
    pub(super) version: u32,
}

/// The guest's number in the stream and here, and its homes.
struct Names {
    from: DomId,
    to: DomId,
    old: String,
    new: String,
}

impl Translated {
    /// Reads a stream. The guest becomes the domain `to`; its connection gets the number `conn`.
    pub(super) fn read(stream: &[u8], to: DomId, conn: u64) -> Result<Self, RestoreError> {
        let Some(from) = guest_of(stream)? else {
            let wrong = Wrong::Unknown;
            return Err(RestoreError::Record { offset: 0, wrong });
        };
        let names = Names {
            from,
            to,
            old: domain_path(from),
            new: domain_path(to),
        };
        let mut reader = Reader::new(stream)?;
        let mut translated = Self {
            records: Vec::new(),
            offsets: Vec::new(),
            version: reader.version(),
        };
        loop {
            let offset = reader.offset();
            let Some(record) = reader.next() else { break };
            translated
                .record(&names, offset, record?, conn)
                .map_err(|wrong| RestoreError::Record { offset, wrong })?;
        }
        Ok(translated)
    }

    fn record(
        &mut self,
        names: &Names,
        offset: usize,
        record: Record<'_>,
        conn: u64,
    ) -> Result<(), Wrong> {
        match record {
            Record::End => Ok(()),
            Record::Connection(data) => {
                let state = ConnectionState {
                    conn_id: data.conn_id,
                    id: conn,
                    next_tx: 1,
                    privileged: false,
                    events: Vec::new(),
                    input: &[],
                };
                self.connection(names, offset, data)?;
                // What another implementation does not say.
                self.push(offset, &Record::Own(Own::Connection(state)))
            }
            Record::Own(Own::Connection(state)) => {
                let state = ConnectionState {
                    id: conn,
                    privileged: false,
                    ..state
                };
                self.push(offset, &Record::Own(Own::Connection(state)))
            }
            Record::Watch(data) => {
                let path = names.path(data.path);
                let path = path.as_deref().unwrap_or(data.path);
                self.push(offset, &Record::Watch(WatchData { path, ..data }))
            }
            Record::Transaction(data) => self.push(offset, &Record::Transaction(data)),
            Record::Node(data) => {
                let path = names.path(data.path).ok_or(Wrong::Path)?;
                node_path(&path)?;
                let perms = data.perms.iter().map(|perm| names.perm(*perm)).collect();
                let node = NodeData {
                    perms,
                    path: &path,
                    ..data
                };
                self.push(offset, &Record::Node(node))
            }
            Record::Domain(data) => {
                names.is_guest(data.domid)?;
                let domid = names.to;
                self.push(offset, &Record::Domain(DomainData { domid, ..data }))
            }
            // Who says something of others does not send a guest.
            Record::Global(_) | Record::GlobalQuota(_) | Record::Own(_) => Err(Wrong::Domain),
            Record::Other { kind, .. } => {
                tracing::warn!(kind, offset, "a record that nobody knows is skipped");
                Ok(())
            }
        }
    }

    fn connection(
        &mut self,
        names: &Names,
        offset: usize,
        data: ConnectionData<'_>,
    ) -> Result<(), Wrong> {
        let Conn::Ring { domid, port, .. } = data.conn else {
            return Err(Wrong::Domain);
        };
        names.is_guest(domid)?;
        let output = names.output(&data)?;
        let connection = ConnectionData {
            conn: Conn::Ring {
                domid: names.to,
                target: None,
                port,
            },
            output: &output,
            ..data
        };
        self.push(offset, &Record::Connection(connection))
    }

    fn push(&mut self, offset: usize, record: &Record<'_>) -> Result<(), Wrong> {
        // What becomes too long is a path.
        emit(&mut self.records, record).map_err(|_| Wrong::Path)?;
        self.offsets.push(offset);
        Ok(())
    }
}

/// Whose stream it is: whose connection, or quotas, it has.
fn guest_of(stream: &[u8]) -> Result<Option<DomId>, RestoreError> {
    for record in Reader::new(stream)? {
        match record? {
            Record::Connection(ConnectionData {
                conn: Conn::Ring { domid, .. },
                ..
            })
            | Record::Domain(DomainData { domid, .. }) => return Ok(Some(domid)),
            _ => {}
        }
    }
    Ok(None)
}

impl Names {
    fn is_guest(&self, domid: DomId) -> Result<(), Wrong> {
        if domid == self.from && domid.is_real() && domid != DomId::DOM0 {
            Ok(())
        } else {
            Err(Wrong::Domain)
        }
    }

    /// A path of the guest's home as it is here; `None` where it is no such path.
    fn path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let below = path.strip_prefix(self.old.as_bytes())?;
        (below.is_empty() || below.starts_with(b"/")).then(|| [self.new.as_bytes(), below].concat())
    }

    /// Domain 0 and the guest are somebody here.
    fn perm(&self, perm: NodePerm) -> NodePerm {
        match perm.domid {
            DomId::DOM0 => perm,
            domid if domid == self.from => NodePerm {
                domid: self.to,
                ..perm
            },
            _ => NodePerm {
                stale: true,
                ..perm
            },
        }
    }

    /// What waits to be sent, with events of the guest's home as it is here. What has begun to be sent goes on as it began.
    fn output(&self, data: &ConnectionData<'_>) -> Result<Vec<u8>, Wrong> {
        let (begun, mut rest) = data
            .output
            .split_at_checked(usize::from(data.begun))
            .ok_or(Wrong::Output)?;
        let mut output = begun.to_vec();
        while !rest.is_empty() {
            let parsed = Message::parse(rest).ok().flatten();
            let (message, after) = parsed.ok_or(Wrong::Output)?;
            let whole = rest.len() - after.len();
            let event = (message.header.kind == XS_WATCH_EVENT)
                .then(|| string_and_rest(message.payload).ok())
                .flatten();
            let moved = event.and_then(|(path, token)| Some((self.path(path)?, token)));
            match moved {
                Some((path, token)) => {
                    let parts = [&path[..], b"\0", token];
                    wire::emit(&mut output, XS_WATCH_EVENT, 0, 0, &parts)
                        .map_err(|_| Wrong::Output)?;
                }
                None => output.extend_from_slice(rest.get(..whole).unwrap_or_default()),
            }
            rest = after;
        }
        Ok(output)
    }
}
