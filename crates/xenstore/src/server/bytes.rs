//! A connection's bytes: how they become requests, one after the other.

use super::{Closed, ConnId, Server};
use crate::wire::{Message, TooLong};

/// What [`Server::feed_within`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// How many of the bytes were taken.
    pub taken: usize,
    /// How much work that was: one unit for each request, and more for one that does much at once.
    pub work: u32,
}

impl Server {
    /// Takes bytes from a connection and handles the messages that they complete. Returns how many bytes were taken:
    /// fewer than all only where the client leaves too much unread ([`Quota::Outstanding`](crate::Quota::Outstanding)); the
    /// rest is to be fed again when it has read some; or, for a bounded while, where another's transaction failed again and
    /// again by what this client wrote: it is to be fed again at the next opportunity, or at the latest when
    /// [`take_ready`](Self::take_ready) names it.
    ///
    /// # Errors
    ///
    /// [`Closed`]: a message too long to be one ends the connection, and only this one.
    pub fn feed(&mut self, conn: ConnId, bytes: &[u8]) -> Result<usize, Closed> {
        self.feed_within(conn, bytes, u32::MAX).map(|fed| fed.taken)
    }

    /// As [`feed`](Self::feed), and no further message is begun once `budget` units of work are done, so that others have
    /// their turn. One message alone may do more than that; it is for the caller to make up for it.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn feed_within(&mut self, conn: ConnId, bytes: &[u8], budget: u32) -> Result<Fed, Closed> {
        let begun = self.work;
        let end = begun.saturating_add(budget.into());
        let mut rest = bytes;
        loop {
            if self.work >= end || self.must_wait(conn) || self.is_held(conn) {
                break;
            }
            let connection = self.connections.get_mut(&conn).ok_or(Closed::Unknown)?;
            if connection.partial.is_empty() {
                match Message::parse(rest) {
                    Ok(Some((message, after))) => {
                        self.handle(conn, &message);
                        rest = after;
                        continue;
                    }
                    Ok(None) => {
                        connection.partial.extend_from_slice(rest);
                        rest = &[];
                        break;
                    }
                    Err(error) => return Err(self.close_for(conn, error)),
                }
            }
            rest = match connection.complete(rest) {
                Ok(rest) => rest,
                Err(error) => return Err(self.close_for(conn, error)),
            };
            if !self.handle_partial(conn)? {
                break;
            }
        }
        Ok(Fed {
            taken: bytes.len() - rest.len(),
            work: u32::try_from(self.work.saturating_sub(begun)).unwrap_or(u32::MAX),
        })
    }

    /// Handles the first of the messages that were begun earlier, if it is whole; there are more than one only after a live
    /// update. Whether it was.
    fn handle_partial(&mut self, conn: ConnId) -> Result<bool, Closed> {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return Err(Closed::Unknown);
        };
        // Taken out for as long as it is handled, then put back for its memory.
        let mut partial = core::mem::take(&mut connection.partial);
        let whole = match Message::parse(&partial) {
            Ok(Some((message, after))) => {
                let len = partial.len() - after.len();
                self.handle(conn, &message);
                partial.drain(..len);
                true
            }
            Ok(None) => false,
            Err(error) => return Err(self.close_for(conn, error)),
        };
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.partial = partial;
        }
        Ok(whole)
    }

    fn close_for(&mut self, conn: ConnId, error: TooLong) -> Closed {
        if let Some(connection) = self.connections.get(&conn) {
            tracing::warn!(domid = %connection.actor.domid, %error, "connection closed");
        }
        self.disconnect(conn);
        Closed::Protocol(error)
    }
}
