//! The daemon: everything that is served, in one thread and one loop.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cantle_abi::DomId;
use cantle_abi::io::xs_wire::XS_SET_QUOTA;
use cantle_xenstore::server::{Action, HostCommand, Server, Ticket};
use cantle_xenstore::transport::{listen, socket_path};
use cantle_xenstore::{Service, Shared, TxId};
use rustix::process::Signal;

use crate::cli::Cli;
use crate::log::Log;
use crate::signals::Signals;
use crate::{control, notify};

/// What a descriptor is that the service waits for beside its own.
const SIGNALS: u32 = 0;

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    service: Service,
    log: Log,
    signals: Signals,
    /// Removed when this is dropped.
    #[expect(dead_code, reason = "it is there to be dropped")]
    files: Files,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    On,
    Home,
}

impl Daemon {
    /// Makes everything ready to be served. Nobody is let in before.
    pub(crate) fn set_up(cli: Cli) -> Result<Self> {
        let signals = Signals::catch().context("cannot catch signals")?;
        let log = Log::start(cli.log_file.as_deref(), cli.log_level.as_deref())?;
        let mut files = Files::default();
        let listener = listener(&cli, &mut files)?;
        let mut server = Server::new();
        set_quotas(&mut server, &cli.quota)?;
        if let Some(domid) = cli.priv_domid {
            server.set_privileged(domid);
        }
        let mut service = Service::new(Shared::new(server)).context("cannot wait for clients")?;
        service
            .watch(&signals, SIGNALS)
            .context("cannot wait for signals")?;
        service.listen(listener, None).context("cannot listen")?;
        if let Some(path) = cli.pid_file {
            fs::write(&path, format!("{}\n", std::process::id()))
                .with_context(|| format!("cannot write {}", path.display()))?;
            files.0.push(path);
        }
        Ok(Self {
            service,
            log,
            signals,
            files,
        })
    }

    /// Serves until a signal ends it.
    pub(crate) fn run(&mut self) -> Result<()> {
        tracing::info!(
            "xenstore is ready, with an empty store: what an earlier daemon had is not known"
        );
        notify::tell("READY=1");
        loop {
            self.service
                .run_once(None)
                .context("cannot go on serving")?;
            for token in self.service.take_watched() {
                if token == SIGNALS && self.signalled() == Go::Home {
                    notify::tell("STOPPING=1");
                    return Ok(());
                }
            }
            while let Some(action) = self.service.take_action() {
                self.act(action);
            }
        }
    }

    fn signalled(&mut self) -> Go {
        while let Some(signal) = self.signals.take() {
            match signal {
                Signal::HUP => match self.log.reopen() {
                    Ok(()) => tracing::info!("the log was opened anew"),
                    Err(error) => tracing::error!("{error:#}"),
                },
                other => {
                    tracing::info!("ended by {other:?}");
                    return Go::Home;
                }
            }
        }
        Go::On
    }

    /// Does what the server cannot do itself.
    fn act(&mut self, action: Action) {
        match action {
            Action::Introduced { domid, gfn, port } => {
                tracing::info!(%domid, ?gfn, ?port, "introduced by a client: known, and without a ring");
            }
            Action::Released { domid } => tracing::info!(%domid, "released"),
            Action::Control { ticket, command } => self.control(ticket, command),
            other => tracing::warn!(?other, "not understood"),
        }
    }

    fn control(&mut self, ticket: Ticket, command: HostCommand) {
        let done = match command {
            HostCommand::LogFile(path) => self.log.switch(Path::new(&path)),
            HostCommand::MemReport(path) => {
                control::report_memory(self.service.store(), path.as_deref())
            }
            HostCommand::Print(text) => {
                tracing::info!("control: {text}");
                Ok(())
            }
            other => Err(anyhow::anyhow!("{other:?} is not understood")),
        };
        let text = done.map_or_else(|error| format!("{error:#}\0"), |()| "OK\0".to_owned());
        self.answer(ticket, text);
    }

    fn answer(&mut self, ticket: Ticket, text: String) {
        self.service
            .store()
            .with(|server| server.answer(ticket, Ok(text.into_bytes())));
    }
}

/// The files that are gone when the daemon has ended orderly.
#[derive(Debug, Default)]
struct Files(Vec<PathBuf>);

impl Drop for Files {
    fn drop(&mut self) {
        for file in &self.0 {
            if let Err(error) = fs::remove_file(file) {
                tracing::warn!(%error, "cannot remove {}", file.display());
            }
        }
    }
}

/// The socket of a service manager, or one of our own.
fn listener(cli: &Cli, files: &mut Files) -> Result<UnixListener> {
    if let Some(listener) = notify::listener().context("the socket in LISTEN_FDS is of no use")? {
        return Ok(listener);
    }
    let path = cli.socket.clone().unwrap_or_else(socket_path);
    match listen::bind(&path) {
        Ok(listener) => {
            tracing::info!("listening at {}", path.display());
            files.0.push(path);
            Ok(listener)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
            "{} is served by another daemon, or is no socket",
            path.display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot listen at {}", path.display())),
    }
}

/// Sets quotas as an operator would, so that names and values are checked where they are known.
fn set_quotas(server: &mut Server, quotas: &[(String, u64)]) -> Result<()> {
    let conn = server.connect(DomId::DOM0, true);
    for (name, value) in quotas {
        let payload = format!("{name}\0{value}\0");
        server
            .request(conn, XS_SET_QUOTA, TxId::NONE, payload.as_bytes())
            .map_err(|errno| anyhow::anyhow!("--quota {name}={value} is refused: {errno}"))?;
    }
    server.disconnect(conn);
    Ok(())
}
