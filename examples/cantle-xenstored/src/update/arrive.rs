//! The new program's part: it loads the state and takes the descriptors.
//!
//! Until it has loaded the state it touches no descriptor, so that it can give all of them back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cantle_abi::{DomId, Port};
use cantle_xenstore::Service;
use cantle_xenstore::server::{ConnId, Restored, RestoredConn, Server, Ticket};
use cantle_xenstore::state::Conn;
use cantle_xenstore::transport::Ring;
use cantle_xenstore::transport::attach::{Descriptors, Introduction, RingPage, VmmSocket};

use super::table::{By, Table, content, now};
use crate::exec::exec;
use crate::guests::{Guests, channel, descriptor_path};
use crate::inherited::take;
use crate::store::Handed;

/// A hand-over that is not accepted yet.
#[derive(Debug)]
pub(crate) struct Arrival {
    table: Table,
    connections: Vec<RestoredConn>,
}

impl Arrival {
    /// Reads the table in descriptor `fd`.
    pub(crate) fn read(fd: i32) -> Result<Self> {
        Ok(Self {
            table: Table::read(fd)?,
            connections: Vec::new(),
        })
    }

    /// Where the one before us logged, if an operator told it so.
    pub(crate) fn log_file(&self) -> Option<&Path> {
        self.table.log_file.as_deref().map(Path::new)
    }

    /// Loads the state. With it comes the folder of the journal that has the same, if one does.
    pub(crate) fn load(&mut self) -> Result<Handed> {
        let stream = content(self.table.stream)?;
        let Restored {
            server,
            connections,
            ..
        } = Server::restore(&stream).context("the state cannot be loaded")?;
        self.connections = connections;
        Ok(Handed {
            server,
            journal: self.table.journal.as_ref().map(PathBuf::from),
        })
    }

    /// Gives everything back to the program that was here before us. It returns only where that fails, too, or where that
    /// program has been called back already.
    pub(crate) fn go_back(mut self, why: &anyhow::Error) -> anyhow::Error {
        if let Some(failure) = self.table.failure {
            return anyhow::anyhow!("{why:#}; and before that, {failure}");
        }
        self.table.failure = Some(format!("the new program could not take over: {why:#}"));
        let table = match self.table.write() {
            Ok(table) => table,
            Err(error) => return error,
        };
        let mut args = core::mem::take(&mut self.table.previous_args);
        let number = std::os::fd::AsRawFd::as_raw_fd(&table);
        args.extend(["--take-over".to_owned(), number.to_string()]);
        let program = PathBuf::from(descriptor_path(self.table.previous));
        let error = exec(&program, &args, &[table.as_fd()]);
        anyhow::anyhow!("{why:#}; and the program before cannot be called: {error}")
    }

    /// The listening sockets: for clients, and for VMMs.
    pub(crate) fn listeners(&self) -> io::Result<(UnixListener, Option<OwnedFd>)> {
        let listener = take(self.table.listener)?;
        let domains = self.table.domains.map(take).transpose()?;
        Ok((listener.into(), domains))
    }

    /// The paths that are to be removed at the end.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.table.files.iter().map(PathBuf::from).collect()
    }

    /// Takes the connections and answers who asked for this; how long nobody was served, in seconds.
    ///
    /// A connection whose descriptor is of no use is lost alone.
    pub(crate) fn settle(
        mut self,
        service: &mut Service,
        guests: Option<&mut Guests>,
    ) -> Result<f64> {
        for fd in [self.table.stream, self.table.previous] {
            drop(take(fd)?);
        }
        let asked = self.table.asked;
        let ticket = self.connection(asked.by).map(|found| Ticket {
            conn: found.conn,
            req_id: asked.req_id,
            tx_id: asked.tx_id,
        });
        for socket in core::mem::take(&mut self.table.sockets) {
            let stream = UnixStream::from(take(socket.fd)?);
            if let Some(RestoredConn { conn, unfed, .. }) = self.connection(By::Socket(socket.fd)) {
                let adopted = service.adopt(stream, conn, unfed, socket.unsent);
                lost(service, conn, adopted.map_err(Into::into));
            }
        }
        if let Some(guests) = guests {
            self.take_vmms(service, guests)?;
        }
        let answer = self.table.failure.unwrap_or_else(|| "OK".to_owned());
        if let Some(ticket) = ticket {
            let text = format!("{answer}\0").into_bytes();
            service
                .store()
                .with(|server| server.answer(ticket, Ok(text)));
        }
        let pause = now().saturating_sub(self.table.paused_at);
        Ok(std::time::Duration::from_nanos(pause).as_secs_f64())
    }

    fn take_vmms(&mut self, service: &mut Service, guests: &mut Guests) -> Result<()> {
        for vmm in core::mem::take(&mut self.table.vmms) {
            let token = guests.admit(service, VmmSocket::new(take(vmm.fd)?))?;
            for ring in vmm.rings {
                let about = Introduction {
                    domid: DomId(ring.domid),
                    port: Port(ring.port),
                    offset: ring.offset,
                    features: ring.features,
                    interrupted: ring.broken,
                };
                let fds = Descriptors {
                    memory: take(ring.memory)?,
                    wake: take(ring.wake)?,
                    notify: take(ring.notify)?,
                };
                let found = self.connection(By::Ring(ring.domid));
                let conn = found.as_ref().map(|found| found.conn);
                let placed = place(service, guests, token, about, fds, found, ring.unsent);
                if let (Err(error), None) = (&placed, conn) {
                    tracing::error!(domid = %about.domid, "its ring is lost: {error:#}");
                } else if let Some(conn) = conn {
                    lost(service, conn, placed);
                }
            }
        }
        Ok(())
    }

    fn connection(&self, by: By) -> Option<RestoredConn> {
        let is = |found: &&RestoredConn| match found.by {
            Conn::Socket { fd } => by == By::Socket(fd),
            Conn::Ring { domid, .. } => by == By::Ring(domid.0),
        };
        self.connections.iter().find(is).cloned()
    }
}

fn place(
    service: &mut Service,
    guests: &mut Guests,
    vmm: u32,
    about: Introduction,
    fds: Descriptors,
    found: Option<RestoredConn>,
    unsent: Vec<u8>,
) -> Result<()> {
    let page = RingPage::map(&fds.memory, about.offset)?;
    let channel = channel(&fds)?;
    let store = service.store().clone();
    let ring = match found {
        Some(RestoredConn { conn, unfed, .. }) => {
            Ring::adopt(&store, conn, about.domid, page).with_held(unfed)
        }
        None => Ring::connect(&store, about.domid, page, std::sync::Arc::new(|| ())),
    };
    guests.place(service, vmm, about, fds, ring, channel, unsent)
}

/// Ends a connection that could not be taken.
fn lost(service: &Service, conn: ConnId, result: Result<()>) {
    if let Err(error) = result {
        tracing::error!(?conn, "a connection is lost: {error:#}");
        service.store().disconnect(conn);
    }
}

/// Says whether a state could be gone on from: `--check-state`.
pub(crate) fn check_state(mut input: impl io::Read) -> Result<String> {
    let mut stream = Vec::new();
    input
        .read_to_end(&mut stream)
        .context("no state on the standard input")?;
    let restored = Server::restore(&stream).context("the state cannot be loaded")?;
    let nodes: u64 = restored
        .server
        .stats()
        .iter()
        .map(|domain| domain.nodes)
        .sum();
    Ok(format!(
        "{}: {nodes} nodes, {} connections",
        super::WHOLE,
        restored.connections.len()
    ))
}
