//! The old program's part: the state is saved, and the new program is executed.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use cantle_abi::Port;
use cantle_xenstore::Service;
use cantle_xenstore::server::{ConnId, Host, HostConn, Ticket};
use cantle_xenstore::state::Conn;
use cantle_xenstore::transport::service::Served;

use super::table::{Asked, By, Ring, Socket, Table, Vmm, sealed};
use crate::exec::exec;
use crate::guests::{GuestRing, Guests};

/// What is handed over.
#[derive(Debug)]
pub(crate) struct Leaving<'a> {
    pub(crate) service: &'a Service,
    pub(crate) guests: Option<&'a Guests>,
    pub(crate) files: &'a [PathBuf],
    pub(crate) journal: Option<PathBuf>,
    pub(crate) log_file: Option<PathBuf>,
    /// How this program was called.
    pub(crate) args: &'a [String],
}

impl Leaving<'_> {
    /// The state as a stream in a memory file. The connections in it go on in whoever loads it.
    pub(crate) fn state(&self) -> Result<File> {
        let connections = self.connections();
        let host = Host {
            global: None,
            connections,
        };
        let mut stream = Vec::new();
        let saved = self
            .service
            .store()
            .with(|server| server.save(&mut stream, &host));
        saved.context("the state cannot be saved")?;
        sealed("cantle-xenstored state", &stream)
    }

    /// Executes the new program. It returns only where that fails.
    pub(crate) fn leave(
        &self,
        program: &std::path::Path,
        args: &[String],
        ticket: &Ticket,
    ) -> Result<Infallible> {
        let stream = self.state()?;
        let previous = File::open("/proc/self/exe").context("our own program cannot be opened")?;
        let mut kept = vec![stream.as_fd(), previous.as_fd()];
        let table = self.table(&mut kept, ticket)?.write()?;
        kept.push(table.as_fd());
        let mut args = args.to_vec();
        args.extend(["--take-over".to_owned(), table.as_raw_fd().to_string()]);
        Err(exec(program, &args, &kept))
            .with_context(|| format!("{} cannot be executed", program.display()))
    }

    /// `kept` begins with the stream and our own program, and gets what the table speaks of.
    fn table<'k>(&'k self, kept: &mut Vec<BorrowedFd<'k>>, ticket: &Ticket) -> Result<Table> {
        let [stream, previous] = kept
            .first_chunk()
            .copied()
            .context("two files")?
            .map(|fd| fd.as_raw_fd());
        let mut keep = |fd: BorrowedFd<'k>| {
            kept.push(fd);
            fd.as_raw_fd()
        };
        let listener = self
            .service
            .listeners()
            .next()
            .context("no listening socket")?;
        let asked = Asked {
            by: self.by(ticket.conn).context("who asked is gone")?,
            req_id: ticket.req_id,
            tx_id: ticket.tx_id,
        };
        let mut table = Table::new(stream, previous, keep(listener), asked);
        table.previous_args = self.args.to_vec();
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        table.files = self.files.iter().map(text).collect();
        table.journal = self.journal.as_ref().map(text);
        table.log_file = self.log_file.as_ref().map(text);
        for served in self.service.connections() {
            if let Served::Socket { fd, unsent, .. } = served {
                table.sockets.push(Socket {
                    fd: keep(fd),
                    unsent: unsent.to_vec(),
                });
            }
        }
        if let Some(guests) = self.guests {
            table.domains = Some(keep(guests.listener()));
            for (token, socket) in guests.vmms() {
                let theirs = guests.rings().filter(|(_, ring)| ring.vmm == token);
                table.vmms.push(Vmm {
                    fd: keep(socket.as_fd()),
                    rings: theirs.map(|(_, ring)| self.ring(ring, &mut keep)).collect(),
                });
            }
        }
        Ok(table)
    }

    fn ring<'k>(
        &'k self,
        ring: &'k GuestRing,
        keep: &mut impl FnMut(BorrowedFd<'k>) -> i32,
    ) -> Ring {
        let domid = ring.about.domid;
        let served = self.service.connections().find_map(|served| match served {
            Served::Ring {
                conn,
                domid: of,
                unsent,
                ..
            } if of == domid => Some((conn, unsent.to_vec())),
            _ => None,
        });
        let alive = served
            .as_ref()
            .is_some_and(|(conn, _)| self.is_connected(*conn));
        Ring {
            domid: domid.0,
            port: ring.about.port.0,
            features: ring.about.features,
            offset: ring.about.offset,
            memory: keep(ring.fds.memory.as_fd()),
            wake: keep(ring.fds.wake.as_fd()),
            notify: keep(ring.fds.notify.as_fd()),
            broken: !alive,
            unsent: served.map(|(_, unsent)| unsent).unwrap_or_default(),
        }
    }

    /// The connections that go on, with what was received and not handled. A ring that is broken has none.
    fn connections(&self) -> Vec<HostConn<'_>> {
        let connections = self
            .service
            .connections()
            .filter_map(|served| match served {
                Served::Socket { conn, fd, held, .. } => {
                    let by = Conn::Socket { fd: fd.as_raw_fd() };
                    Some((conn, by, held))
                }
                Served::Ring {
                    conn, domid, held, ..
                } => {
                    let ring = |guests: &Guests| {
                        guests
                            .rings()
                            .find(|(of, _)| *of == domid)
                            .map(|(_, ring)| ring.about.port)
                    };
                    let by = Conn::Ring {
                        domid,
                        target: None,
                        port: self.guests.and_then(ring).unwrap_or(Port(0)),
                    };
                    Some((conn, by, held))
                }
                _ => None,
            });
        connections
            .filter(|(conn, ..)| self.is_connected(*conn))
            .map(|(conn, by, unfed)| HostConn {
                conn,
                by,
                unfed,
                unique_id: None,
            })
            .collect()
    }

    fn by(&self, wanted: ConnId) -> Option<By> {
        self.service.connections().find_map(|served| match served {
            Served::Socket { conn, fd, .. } if conn == wanted => Some(By::Socket(fd.as_raw_fd())),
            Served::Ring { conn, domid, .. } if conn == wanted => Some(By::Ring(domid.0)),
            _ => None,
        })
    }

    fn is_connected(&self, conn: ConnId) -> bool {
        self.service
            .store()
            .with(|server| server.is_connected(conn))
    }
}
