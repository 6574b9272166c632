//! From bytes to records.

use cantle_abi::{DomId, Port};

use super::cursor::{Cursor, Fault, Order, ParseError};
use super::own::{self, Own};
use super::record::{
    Conn, ConnectionData, DomainData, GlobalData, GlobalQuotaData, NodeData, NodePerm, Pending,
    Quota, Record, TransactionData, WatchData,
};
use super::{ALIGN, ANY_DEPTH, BIG_ENDIAN, IDENT, VERSION, kind};
use crate::Access;

/// The records of a stream, one after the other.
///
/// After the first error, and after [`Record::End`], there are no more. A stream that ends without `END` is an error.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    cursor: Cursor<'a>,
    version: u32,
    /// The records end where the bytes end, without `END`.
    fragment: bool,
    done: bool,
}

impl<'a> Reader<'a> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`Fault::NoStream`], [`Fault::Version`], or flags that are not known.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut cursor = Cursor::new(bytes, 0, Order::Big);
        if !bytes.starts_with(IDENT) {
            return Err(cursor.error(Fault::NoStream));
        }
        cursor.take(IDENT.len(), "ident")?;
        let version = cursor.u32("version")?;
        if version == 0 || version > VERSION {
            return Err(cursor.error(Fault::Version(version)));
        }
        let flags = cursor.u32("flags")?;
        cursor.set_order(match flags {
            0 => Order::Little,
            BIG_ENDIAN => Order::Big,
            _ => return Err(cursor.bad("flags", flags)),
        });
        Ok(Self {
            cursor,
            version,
            fragment: false,
            done: false,
        })
    }

    /// Records as this crate writes them, without header and `END`; `at` is where the bytes are in their file.
    #[must_use]
    pub fn fragment(bytes: &'a [u8], at: usize) -> Self {
        Self {
            cursor: Cursor::new(bytes, at, Order::Little),
            version: VERSION,
            fragment: true,
            done: false,
        }
    }

    /// The stream's version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Where the next record begins, in bytes from the beginning of the stream.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.cursor.offset()
    }

    /// What has not been read; what follows the stream, once its `END` has been.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.cursor.rest()
    }

    fn record(&mut self) -> Result<Record<'a>, ParseError> {
        let kind = self.cursor.u32("type")?;
        let len = self.cursor.len("len")?;
        let at = self.cursor.offset();
        let bytes = self.cursor.take(len, "body")?;
        let mut body = Cursor::new(bytes, at, self.cursor.order());
        let record = self.body(kind, &mut body)?;
        body.finish()?;
        // Ignored, whatever it is. A record at the very end need not be padded.
        let padding = (len.next_multiple_of(ALIGN) - len).min(self.cursor.rest().len());
        self.cursor.take(padding, "padding")?;
        Ok(record)
    }

    fn body(&self, kind: u32, body: &mut Cursor<'a>) -> Result<Record<'a>, ParseError> {
        Ok(match kind {
            kind::END => Record::End,
            kind::GLOBAL => Record::Global(GlobalData {
                socket_fd: descriptor(body.i32("rw-socket-fd")?),
                evtchn_fd: descriptor(body.i32("evtchn-fd")?),
            }),
            kind::CONNECTION => Record::Connection(connection(body)?),
            kind::WATCH => Record::Watch(watch(body, false)?),
            kind::WATCH_EXTENDED if self.version >= 2 => Record::Watch(watch(body, true)?),
            kind::TRANSACTION => Record::Transaction(TransactionData {
                conn_id: conn_id(body)?,
                tx_id: not_zero(body, "tx-id")?,
            }),
            kind::NODE => Record::Node(node(body)?),
            kind::GLOBAL_QUOTA => Record::GlobalQuota(global_quota(body)?),
            kind::DOMAIN => Record::Domain(domain(body, self.version)?),
            _ if own::is_ours(kind) => Record::Own(Own::parse(kind, body)?),
            _ => {
                let all = body.rest();
                Record::Other {
                    kind,
                    body: body.take(all.len(), "body")?,
                }
            }
        })
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Record<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || (self.fragment && self.cursor.rest().is_empty()) {
            return None;
        }
        let record = self.record();
        self.done = matches!(record, Err(_) | Ok(Record::End));
        Some(record)
    }
}

fn descriptor(fd: i32) -> Option<i32> {
    (fd >= 0).then_some(fd)
}

fn not_zero(body: &mut Cursor<'_>, field: &'static str) -> Result<u32, ParseError> {
    match body.u32(field)? {
        0 => Err(body.bad(field, 0_u32)),
        number => Ok(number),
    }
}

pub(super) fn conn_id(body: &mut Cursor<'_>) -> Result<u32, ParseError> {
    not_zero(body, "conn-id")
}

fn connection<'a>(body: &mut Cursor<'a>) -> Result<ConnectionData<'a>, ParseError> {
    let begin = body.offset();
    let conn_id = conn_id(body)?;
    let conn_type = body.u16("conn-type")?;
    let fields = body.u16("fields")?;
    if fields > 1 {
        return Err(body.bad("fields", fields));
    }
    let conn = match conn_type {
        0 => Conn::Ring {
            domid: DomId(body.u16("domid")?),
            target: Some(DomId(body.u16("tdomid")?)).filter(|target| *target != DomId::INVALID),
            port: Port(body.u32("evtchn")?),
        },
        1 => {
            let fd = body.i32("socket-fd")?;
            body.u32("pad")?;
            Conn::Socket { fd }
        }
        _ => return Err(body.bad("conn-type", conn_type)),
    };
    let input = usize::from(body.u16("in-data-len")?);
    let begun = body.u16("out-resp-len")?;
    let output = body.len("out-data-len")?;
    if usize::from(begun) > output {
        return Err(body.bad("out-resp-len", begun));
    }
    let input = body.take(input, "data")?;
    let output = body.take(output, "data")?;
    let unique_id = if fields == 1 {
        let used = body.offset().saturating_sub(begin);
        body.take(used.next_multiple_of(ALIGN) - used, "padding")?;
        Some(body.u64("unique-id")?)
    } else {
        None
    };
    Ok(ConnectionData {
        conn_id,
        conn,
        input,
        output,
        begun,
        unique_id,
    })
}

fn watch<'a>(body: &mut Cursor<'a>, extended: bool) -> Result<WatchData<'a>, ParseError> {
    let conn_id = conn_id(body)?;
    let path = usize::from(body.u16("wpath-len")?);
    let token = usize::from(body.u16("token-len")?);
    let depth = if extended {
        let depth = body.u16("depth")?;
        body.u16("pad")?;
        Some(depth).filter(|depth| *depth != ANY_DEPTH)
    } else {
        None
    };
    Ok(WatchData {
        conn_id,
        path: body.string(path, "wpath")?,
        token: body.string(token, "token")?,
        depth,
    })
}

pub(super) fn node<'a>(body: &mut Cursor<'a>) -> Result<NodeData<'a>, ParseError> {
    let conn_id = body.u32("conn-id")?;
    let tx_id = body.u32("tx-id")?;
    let path = usize::from(body.u16("path-len")?);
    let value = usize::from(body.u16("value-len")?);
    let access = body.u16("access")?;
    let pending = if conn_id == 0 {
        None
    } else if access > 3 {
        return Err(body.bad("access", access));
    } else {
        Some(Pending {
            conn_id,
            tx_id,
            read: access & 1 != 0,
            written: access & 2 != 0,
        })
    };
    let count = usize::from(body.u16("perm-count")?);
    // As many as there are bytes for: the count alone makes nobody allocate.
    let mut perms = Vec::with_capacity(count.min(body.rest().len() / 4));
    for _ in 0..count {
        perms.push(perm(body)?);
    }
    Ok(NodeData {
        pending,
        perms,
        path: body.string(path, "path")?,
        value: body.take(value, "value")?,
    })
}

pub(super) fn perm(body: &mut Cursor<'_>) -> Result<NodePerm, ParseError> {
    let letter = body.u8("perm")?;
    let access = Access::from_letter(letter).ok_or_else(|| body.bad("perm", letter))?;
    let flags = body.u8("flags")?;
    if flags > 1 {
        return Err(body.bad("flags", flags));
    }
    Ok(NodePerm {
        access,
        stale: flags == 1,
        domid: DomId(body.u16("domid")?),
    })
}

fn global_quota<'a>(body: &mut Cursor<'a>) -> Result<GlobalQuotaData<'a>, ParseError> {
    let domain = usize::from(body.u16("n-dom-quota")?);
    let global = usize::from(body.u16("n-glob-quota")?);
    let mut quotas = quotas(body, domain + global)?;
    let global = quotas.split_off(domain.min(quotas.len()));
    Ok(GlobalQuotaData {
        domain: quotas,
        global,
    })
}

fn domain<'a>(body: &mut Cursor<'a>, version: u32) -> Result<DomainData<'a>, ParseError> {
    let domid = DomId(body.u16("domain-id")?);
    let count = usize::from(body.u16("n-quota")?);
    let features = body.u32("features")?;
    Ok(DomainData {
        domid,
        features: if version >= 2 { features } else { 0 },
        quotas: quotas(body, count)?,
    })
}

fn quotas<'a>(body: &mut Cursor<'a>, count: usize) -> Result<Vec<Quota<'a>>, ParseError> {
    let values = body.take(count.saturating_mul(4), "quota-val")?;
    let mut values = Cursor::new(values, body.offset(), body.order());
    (0..count)
        .map(|_| {
            let value = values.u32("quota-val")?;
            Ok((body.string_to_nul("quota-names")?, value))
        })
        .collect()
}
