//! From records to bytes: version 2, little-endian.

use cantle_abi::DomId;

use super::record::{
    Conn, ConnectionData, DomainData, GlobalQuotaData, NodeData, NodePerm, Quota, Record, WatchData,
};
use super::{ALIGN, IDENT, VERSION, kind};

/// A record that the format has no room for. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// Something is longer than its length's field can say.
    #[error("`{0}` is too long")]
    TooLong(&'static str),
    /// A string has a NUL in it.
    #[error("`{0}` has a NUL in it")]
    Nul(&'static str),
    /// A number is 0 that may not be.
    #[error("`{0}` may not be 0")]
    Zero(&'static str),
}

/// Appends a stream's header.
pub fn emit_header(out: &mut Vec<u8>) {
    out.extend_from_slice(IDENT);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&0_u32.to_be_bytes());
}

/// Appends a record. Its length is a multiple of 8, and so must be that of the body of a [`Record::Other`] which is to be
/// read as it was written.
///
/// # Errors
///
/// [`EmitError`]; `out` is as it was.
pub fn emit(out: &mut Vec<u8>, record: &Record<'_>) -> Result<(), EmitError> {
    let begin = out.len();
    let result = append(out, record);
    if result.is_err() {
        out.truncate(begin);
    }
    result
}

fn append(out: &mut Vec<u8>, record: &Record<'_>) -> Result<(), EmitError> {
    let begin = out.len();
    let kind = match record {
        Record::End => kind::END,
        Record::Global(_) => kind::GLOBAL,
        Record::Connection(_) => kind::CONNECTION,
        Record::Watch(WatchData { depth: None, .. }) => kind::WATCH,
        Record::Watch(_) => kind::WATCH_EXTENDED,
        Record::Transaction(_) => kind::TRANSACTION,
        Record::Node(_) => kind::NODE,
        Record::GlobalQuota(_) => kind::GLOBAL_QUOTA,
        Record::Domain(_) => kind::DOMAIN,
        Record::Own(own) => own.kind(),
        Record::Other { kind, .. } => *kind,
    };
    put32(out, kind);
    put32(out, 0);
    let body = out.len();
    match record {
        Record::End => {}
        Record::Global(global) => {
            for fd in [global.socket_fd, global.evtchn_fd] {
                put32(out, fd.unwrap_or(-1).cast_unsigned());
            }
        }
        Record::Connection(data) => connection(out, data)?,
        Record::Watch(data) => watch(out, data)?,
        Record::Transaction(data) => {
            put32(out, not_zero(data.conn_id, "conn-id")?);
            put32(out, not_zero(data.tx_id, "tx-id")?);
        }
        Record::Node(data) => node(out, data)?,
        Record::GlobalQuota(data) => global_quota(out, data)?,
        Record::Domain(data) => domain(out, data)?,
        Record::Own(own) => own.emit(out)?,
        Record::Other { body, .. } => out.extend_from_slice(body),
    }
    out.resize(body + (out.len() - body).next_multiple_of(ALIGN), 0);
    let len = u32::try_from(out.len() - body).map_err(|_| EmitError::TooLong("body"))?;
    if let Some(field) = out.get_mut(begin + 4..begin + 8) {
        field.copy_from_slice(&len.to_le_bytes());
    }
    Ok(())
}

pub(super) fn put16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(super) fn put32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// A length that has 16 bits.
pub(super) fn put_len(out: &mut Vec<u8>, len: usize, field: &'static str) -> Result<(), EmitError> {
    put16(
        out,
        u16::try_from(len).map_err(|_| EmitError::TooLong(field))?,
    );
    Ok(())
}

fn not_zero(number: u32, field: &'static str) -> Result<u32, EmitError> {
    if number == 0 {
        return Err(EmitError::Zero(field));
    }
    Ok(number)
}

pub(super) fn put_string(
    out: &mut Vec<u8>,
    string: &[u8],
    field: &'static str,
) -> Result<(), EmitError> {
    if string.contains(&0) {
        return Err(EmitError::Nul(field));
    }
    out.extend_from_slice(string);
    out.push(0);
    Ok(())
}

fn connection(out: &mut Vec<u8>, data: &ConnectionData<'_>) -> Result<(), EmitError> {
    put32(out, not_zero(data.conn_id, "conn-id")?);
    let conn_type = match data.conn {
        Conn::Ring { .. } => 0,
        Conn::Socket { .. } => 1,
    };
    put16(out, conn_type);
    put16(out, u16::from(data.unique_id.is_some()));
    match data.conn {
        Conn::Ring {
            domid,
            target,
            port,
        } => {
            put16(out, domid.0);
            put16(out, target.unwrap_or(DomId::INVALID).0);
            put32(out, port.0);
        }
        Conn::Socket { fd } => {
            put32(out, fd.cast_unsigned());
            put32(out, 0);
        }
    }
    put_len(out, data.input.len(), "in-data-len")?;
    if usize::from(data.begun) > data.output.len() {
        return Err(EmitError::TooLong("out-resp-len"));
    }
    put16(out, data.begun);
    let output = u32::try_from(data.output.len());
    put32(out, output.map_err(|_| EmitError::TooLong("out-data-len"))?);
    out.extend_from_slice(data.input);
    out.extend_from_slice(data.output);
    if let Some(unique_id) = data.unique_id {
        // What is before the data is a multiple of 8.
        let used = data.input.len() + data.output.len();
        out.resize(out.len() + used.next_multiple_of(ALIGN) - used, 0);
        out.extend_from_slice(&unique_id.to_le_bytes());
    }
    Ok(())
}

fn watch(out: &mut Vec<u8>, data: &WatchData<'_>) -> Result<(), EmitError> {
    put32(out, not_zero(data.conn_id, "conn-id")?);
    put_len(out, data.path.len() + 1, "wpath-len")?;
    put_len(out, data.token.len() + 1, "token-len")?;
    if let Some(depth) = data.depth {
        put16(out, depth);
        put16(out, 0);
    }
    put_string(out, data.path, "wpath")?;
    put_string(out, data.token, "token")
}

pub(super) fn node(out: &mut Vec<u8>, data: &NodeData<'_>) -> Result<(), EmitError> {
    let (conn_id, tx_id, access) = match data.pending {
        None => (0, 0, 0),
        Some(pending) => (
            not_zero(pending.conn_id, "conn-id")?,
            pending.tx_id,
            u16::from(pending.read) | u16::from(pending.written) << 1,
        ),
    };
    put32(out, conn_id);
    put32(out, tx_id);
    put_len(out, data.path.len() + 1, "path-len")?;
    put_len(out, data.value.len(), "value-len")?;
    put16(out, access);
    put_len(out, data.perms.len(), "perm-count")?;
    perms(out, &data.perms);
    put_string(out, data.path, "path")?;
    out.extend_from_slice(data.value);
    Ok(())
}

pub(super) fn perms(out: &mut Vec<u8>, perms: &[NodePerm]) {
    for perm in perms {
        out.push(u8::try_from(perm.access.letter()).unwrap_or(b'n'));
        out.push(u8::from(perm.stale));
        put16(out, perm.domid.0);
    }
}

fn global_quota(out: &mut Vec<u8>, data: &GlobalQuotaData<'_>) -> Result<(), EmitError> {
    put_len(out, data.domain.len(), "n-dom-quota")?;
    put_len(out, data.global.len(), "n-glob-quota")?;
    quotas(out, data.domain.iter().chain(&data.global))
}

fn domain(out: &mut Vec<u8>, data: &DomainData<'_>) -> Result<(), EmitError> {
    put16(out, data.domid.0);
    put_len(out, data.quotas.len(), "n-quota")?;
    put32(out, data.features);
    quotas(out, data.quotas.iter())
}

fn quotas<'q, 'a: 'q>(
    out: &mut Vec<u8>,
    quotas: impl Iterator<Item = &'q Quota<'a>> + Clone,
) -> Result<(), EmitError> {
    for (_, value) in quotas.clone() {
        put32(out, *value);
    }
    for (name, _) in quotas {
        put_string(out, name, "quota-names")?;
    }
    Ok(())
}
