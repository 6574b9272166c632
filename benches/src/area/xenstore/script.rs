//! What a connection says, and what it makes of the answers.

use anyhow::{Context, Result, ensure};
use cantle_abi::io::xs_wire::{
    XS_DIRECTORY, XS_ERROR, XS_READ, XS_TRANSACTION_END, XS_TRANSACTION_START, XS_WRITE, XsType,
};
use cantle_xenstore::wire::{self, Message};

/// A request as it is sent.
pub(super) fn request(kind: XsType, tx: u32, parts: &[&[u8]]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    wire::emit(&mut bytes, kind, 0, tx, parts)
        .map_err(|errno| anyhow::anyhow!("no such message: {errno}"))?;
    Ok(bytes)
}

/// A read of a node.
pub(super) fn read(path: &str) -> Result<Vec<u8>> {
    request(XS_READ, 0, &[path.as_bytes(), b"\0"])
}

/// A write of 16 bytes.
pub(super) fn write(path: &str) -> Result<Vec<u8>> {
    request(XS_WRITE, 0, &[path.as_bytes(), b"\0", b"0123456789abcdef"])
}

/// A listing of a node's children.
pub(super) fn directory(path: &str) -> Result<Vec<u8>> {
    request(XS_DIRECTORY, 0, &[path.as_bytes(), b"\0"])
}

/// One connection's talk.
#[derive(Debug)]
pub(super) enum Script {
    /// These requests, one after the other and again, so many outstanding; each answer is an operation.
    Requests {
        requests: Vec<Vec<u8>>,
        next: usize,
        depth: usize,
        outstanding: usize,
    },
    /// Transactions of these requests; each commit is an operation.
    Transactions(Transactions),
    /// Nothing; each event that comes is an operation.
    Listen,
}

/// Transactions, one after the other.
#[derive(Debug)]
pub(super) struct Transactions {
    requests: Vec<Vec<u8>>,
    /// All requests of a transaction are sent at once, as soon as its number is known.
    together: bool,
    tx: u32,
    /// What is answered next; 0 is the start.
    awaited: usize,
    /// What is sent next.
    next: usize,
}

/// What came of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Operations that are done.
    pub(super) done: u64,
    /// Commits that were refused by `EAGAIN`.
    pub(super) refused: u64,
}

impl Script {
    /// Requests, `depth` of them outstanding.
    pub(super) fn requests(requests: Vec<Vec<u8>>, depth: usize) -> Self {
        Self::Requests {
            requests,
            next: 0,
            depth,
            outstanding: 0,
        }
    }

    /// Transactions of these requests, each with a start before and a commit after.
    pub(super) fn transactions(mut requests: Vec<Vec<u8>>, together: bool) -> Result<Self> {
        requests.insert(0, request(XS_TRANSACTION_START, 0, &[b"\0"])?);
        requests.push(request(XS_TRANSACTION_END, 0, &[b"T\0"])?);
        Ok(Self::Transactions(Transactions {
            requests,
            together,
            tx: 0,
            awaited: 0,
            next: 0,
        }))
    }

    /// Whether an answer is awaited.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Requests { outstanding, .. } => *outstanding > 0,
            Self::Transactions(tx) => tx.next > 0,
            Self::Listen => false,
        }
    }

    /// Adds to `out` what may be sent now. `begin`: new operations may be begun.
    pub(super) fn fill(&mut self, begin: bool, out: &mut Vec<u8>) {
        match self {
            Self::Requests {
                requests,
                next,
                depth,
                outstanding,
            } => {
                while begin && *outstanding < *depth {
                    out.extend_from_slice(&requests[*next]);
                    *next = (*next + 1) % requests.len();
                    *outstanding += 1;
                }
            }
            Self::Transactions(tx) => tx.fill(begin, out),
            Self::Listen => {}
        }
    }

    /// Takes an answer.
    pub(super) fn take(&mut self, message: &Message<'_>, counts: &mut Counts) -> Result<()> {
        match self {
            Self::Requests { outstanding, .. } => {
                ensure!(
                    message.header.kind != XS_ERROR,
                    "refused: {}",
                    String::from_utf8_lossy(message.payload)
                );
                *outstanding = outstanding.checked_sub(1).context("an answer too many")?;
                counts.done += 1;
                Ok(())
            }
            Self::Transactions(tx) => tx.take(message, counts),
            Self::Listen => {
                counts.done += 1;
                Ok(())
            }
        }
    }
}

impl Transactions {
    fn fill(&mut self, begin: bool, out: &mut Vec<u8>) {
        let allowed = match (self.next, self.awaited) {
            (0, _) if !begin => 0,
            (0, _) => 1,
            // Its number is not known yet.
            (_, 0) => 0,
            _ if self.together => self.requests.len(),
            (_, awaited) => awaited + 1,
        };
        while self.next < allowed.min(self.requests.len()) {
            let from = out.len();
            out.extend_from_slice(&self.requests[self.next]);
            if self.next > 0 {
                out[from + 8..from + 12].copy_from_slice(&self.tx.to_le_bytes());
            }
            self.next += 1;
        }
    }

    fn take(&mut self, message: &Message<'_>, counts: &mut Counts) -> Result<()> {
        let failed = message.header.kind == XS_ERROR;
        let text = message.payload.strip_suffix(b"\0").unwrap_or_default();
        let last = self.awaited + 1 == self.requests.len();
        ensure!(
            !failed || (last && text == b"EAGAIN"),
            "refused: {}",
            String::from_utf8_lossy(text)
        );
        if self.awaited == 0 {
            // An echo says no number.
            self.tx = std::str::from_utf8(text)?.parse().unwrap_or(1);
        }
        self.awaited += 1;
        if last {
            (self.awaited, self.next) = (0, 0);
            if failed {
                counts.refused += 1;
            } else {
                counts.done += 1;
            }
        }
        Ok(())
    }
}
