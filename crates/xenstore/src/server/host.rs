//! What an operator asks of the server that needs files or processes: the host's part of `XS_CONTROL`.

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{XENSTORE_PAYLOAD_MAX, XS_CONTROL, XS_ERROR};

use super::{Action, ConnId, Server};
use crate::wire;

/// How many commands of one connection may wait for the host. Only privileged connections have any.
const WAITING_MAX: u32 = 64;

/// A command that the server hands to its host, with the arguments as the client gave them: nobody has checked them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostCommand {
    /// `live-update`: one step of replacing the running program. The arguments are those of the protocol's document.
    LiveUpdate(Vec<String>),
    /// `logfile`: log to this file from now on.
    LogFile(String),
    /// `memreport`: append a report of the memory in use to this file, or to the log.
    MemReport(Option<String>),
    /// `print`: put this line into the log.
    Print(String),
}

/// Whom a [`HostCommand`]'s answer is for; to be given to [`Server::answer`], once.
///
/// It is plain data, so that a host that replaces itself can write it down and answer afterwards.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The connection that asked.
    pub conn: ConnId,
    /// Its number for the request.
    pub req_id: u32,
    /// The transaction that the request named; it has no meaning here but is sent back.
    pub tx_id: u32,
}

impl Server {
    /// Answers a command that the host has carried out: with text (a final NUL is the caller's to give, as in `OK\0`), or
    /// with an error. An answer longer than a message is `E2BIG`. Ignored where the connection is gone.
    pub fn answer(&mut self, ticket: Ticket, answer: Result<Vec<u8>, Errno>) {
        let Ticket {
            conn,
            req_id,
            tx_id,
        } = ticket;
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        connection.waiting = connection.waiting.saturating_sub(1);
        let answer = answer.and_then(|text| {
            if text.len() > XENSTORE_PAYLOAD_MAX {
                Err(Errno::E2BIG)
            } else {
                Ok(text)
            }
        });
        match answer {
            Ok(text) => connection.outbox.reply(XS_CONTROL, req_id, tx_id, &[&text]),
            Err(errno) => {
                connection.counters.errors += 1;
                let text = wire::error_text(errno).as_bytes();
                connection
                    .outbox
                    .reply(XS_ERROR, req_id, tx_id, &[text, b"\0"]);
            }
        }
        self.mark_ready(conn);
    }

    /// Leaves a command to the host; `EBUSY` where too many of this connection wait.
    pub(super) fn leave_to_host(
        &mut self,
        ticket: Ticket,
        command: HostCommand,
    ) -> Result<(), Errno> {
        let connection = self.connections.get_mut(&ticket.conn).ok_or(Errno::EIO)?;
        if connection.waiting >= WAITING_MAX {
            return Err(Errno::EBUSY);
        }
        connection.waiting += 1;
        self.actions.push_back(Action::Control { ticket, command });
        Ok(())
    }
}
