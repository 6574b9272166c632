//! How a daemon begins: by itself, or in the place of another program.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use anyhow::{Context, Result, bail};
use cantle_xenstore::transport::{listen, socket_path};
use cantle_xenstore::{Service, Shared};

use crate::cli::Cli;
use crate::daemon::{self, Daemon, Files};
use crate::guests::{self, Guests};
use crate::log::Log;
use crate::notify;
use crate::signals::Signals;
use crate::store::{self, Begun};
use crate::update::{Arrival, Updates};

/// What can be had without taking anything from the program before.
struct Prepared {
    log: Log,
    signals: Signals,
    begun: Begun,
}

impl Daemon {
    /// Makes everything ready to be served. Nobody is let in before.
    pub(crate) fn set_up(cli: &Cli) -> Result<Self> {
        let Some(table) = cli.take_over else {
            return Self::begin(cli, prepare(cli, None)?);
        };
        let mut arrival = Arrival::read(table)?;
        match prepare(cli, Some(&mut arrival)) {
            Ok(prepared) => Self::take_over(cli, prepared, arrival),
            Err(error) => Err(arrival.go_back(&error)),
        }
    }

    fn begin(cli: &Cli, prepared: Prepared) -> Result<Self> {
        let mut files = Files::default();
        let listener = listener(cli, &mut files)?;
        let domains = match &cli.domains {
            None => None,
            Some(path) => {
                let socket = guests::listen(path)?;
                files.0.push(path.clone());
                Some(socket)
            }
        };
        if let Some(path) = &cli.pid_file {
            fs::write(path, format!("{}\n", std::process::id()))
                .with_context(|| format!("cannot write {}", path.display()))?;
            files.0.push(path.clone());
        }
        let daemon = Self::assemble(cli, prepared, listener, domains, files)?;
        tracing::info!("xenstore is ready");
        notify::tell("READY=1");
        Ok(daemon)
    }

    fn take_over(cli: &Cli, prepared: Prepared, arrival: Arrival) -> Result<Self> {
        let (listener, domains) = arrival.listeners().context("the listening sockets")?;
        let files = Files(arrival.files());
        let mut daemon = Self::assemble(cli, prepared, listener, domains, files)?;
        let pause = arrival.settle(&mut daemon.service, daemon.guests.as_mut())?;
        tracing::info!(
            "live update: this program goes on; nobody was served for {:.1} ms",
            pause * 1e3
        );
        Ok(daemon)
    }

    fn assemble(
        cli: &Cli,
        prepared: Prepared,
        listener: UnixListener,
        domains: Option<OwnedFd>,
        files: Files,
    ) -> Result<Self> {
        let Prepared {
            log,
            signals,
            begun,
        } = prepared;
        let Begun {
            server,
            keeper,
            left,
        } = begun;
        let mut service = Service::new(Shared::new(server)).context("cannot wait for clients")?;
        keeper.keep(&mut service)?;
        let checked = daemon::alarm()?;
        service.watch(&signals, daemon::SIGNALS)?;
        service.watch(&checked, daemon::CHECKED)?;
        let mut guests = domains.map(|socket| Guests::new(socket, cli.priv_domid));
        if let Some(guests) = &mut guests {
            guests.expect(left);
            service.watch(guests.listener(), daemon::DOMAINS)?;
        }
        service.listen(listener, None).context("cannot listen")?;
        Ok(Self {
            service,
            keeper,
            guests,
            updates: Updates::default(),
            checked,
            log,
            signals,
            files,
            args: own_args(),
        })
    }
}

fn prepare(cli: &Cli, arrival: Option<&mut Arrival>) -> Result<Prepared> {
    let signals = Signals::catch().context("cannot catch signals")?;
    let kept = arrival.as_ref().and_then(|arrival| arrival.log_file());
    let log_file = kept.or(cli.log_file.as_deref());
    let log = Log::start(log_file, cli.log_level.as_deref())?;
    let handed = arrival.map(Arrival::load).transpose()?;
    let begun = store::begin(cli, handed)?;
    Ok(Prepared {
        log,
        signals,
        begun,
    })
}

/// The command line, without what only a live update adds.
fn own_args() -> Vec<String> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = args.iter().position(|arg| arg == "--take-over") {
        args.drain(at..(at + 2).min(args.len()));
    }
    args
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
