//! The daemon: everything that is served, in one thread and one loop.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use cantle_abi::DomId;
use cantle_xenstore::Service;
use cantle_xenstore::server::{Action, HostCommand, Ticket};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Signal;

use crate::guests::{FIRST_VMM, Guests};
use crate::log::Log;
use crate::signals::Signals;
use crate::store::Keeper;
use crate::update::{self, Leaving, Next, Step, Updates};
use crate::{control, notify};

/// What a descriptor is that the service waits for beside its own: signals,
pub(crate) const SIGNALS: u32 = 0;
/// a new program that has looked at our state,
pub(crate) const CHECKED: u32 = 1;
/// VMMs that want to be let in; those that are have tokens of their own.
pub(crate) const DOMAINS: u32 = 2;

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) service: Service,
    pub(crate) keeper: Keeper,
    pub(crate) guests: Option<Guests>,
    pub(crate) updates: Updates,
    /// Written when a check of another program has ended.
    pub(crate) checked: Arc<OwnedFd>,
    pub(crate) log: Log,
    pub(crate) signals: Signals,
    pub(crate) files: Files,
    /// How it was called.
    pub(crate) args: Vec<String>,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    On,
    Home,
}

impl Daemon {
    /// Serves until a signal ends it.
    pub(crate) fn run(&mut self) -> Result<()> {
        loop {
            let timeout = self.updates.is_under_way().then_some(update::TICK);
            self.service
                .run_once(timeout)
                .context("cannot go on serving")?;
            for token in self.service.take_watched() {
                if self.watched(token)? == Go::Home {
                    notify::tell("STOPPING=1");
                    return Ok(());
                }
            }
            while let Some(action) = self.service.take_action() {
                self.act(action);
            }
            if self.updates.is_under_way() {
                self.go_on_with_update();
            }
        }
    }

    fn watched(&mut self, token: u32) -> Result<Go> {
        let Self {
            service,
            guests,
            keeper,
            ..
        } = self;
        match (token, guests) {
            (SIGNALS, _) => return Ok(self.signalled()),
            // What it says is looked for at each turn.
            (CHECKED, _) => drop(rustix::io::read(&self.checked, &mut [0; 8])),
            (DOMAINS, Some(guests)) => guests.accept(service),
            (FIRST_VMM.., Some(guests)) => {
                guests.serve(service, token, &|service| keeper.commit(service))?;
            }
            _ => {}
        }
        Ok(Go::On)
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
            Action::Released { domid } => {
                tracing::info!(%domid, "released by a client");
                if let Some(guests) = &mut self.guests {
                    guests.forget(&mut self.service, domid);
                }
            }
            Action::Control { ticket, command } => self.control(ticket, command),
            other => tracing::warn!(?other, "not understood"),
        }
    }

    fn control(&mut self, ticket: Ticket, command: HostCommand) {
        let done = match command {
            HostCommand::LiveUpdate(args) => return self.update(ticket, &args),
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
        self.answer(
            ticket,
            &done.map_or_else(|error| format!("{error:#}"), |()| "OK".to_owned()),
        );
    }

    fn answer(&mut self, ticket: Ticket, text: &str) {
        let text = format!("{text}\0").into_bytes();
        self.service
            .store()
            .with(|server| server.answer(ticket, Ok(text)));
    }

    /// A step of a live update.
    fn update(&mut self, ticket: Ticket, args: &[String]) {
        let step = match Step::parse(args) {
            Ok(step) => step,
            Err(errno) => {
                let store = self.service.store();
                return store.with(|server| server.answer(ticket, Err(errno)));
            }
        };
        let store = self.service.store().clone();
        self.updates
            .forget_ended(|conn| store.with(|server| server.is_connected(conn)));
        let mut updates = core::mem::take(&mut self.updates);
        let next = updates.request(ticket, step, self);
        self.updates = updates;
        next.into_iter().for_each(|next| self.next(next));
    }

    fn go_on_with_update(&mut self) {
        let store = self.service.store().clone();
        self.updates
            .forget_ended(|conn| store.with(|server| server.is_connected(conn)));
        let mut updates = core::mem::take(&mut self.updates);
        let next = updates.poll(self);
        self.updates = updates;
        next.into_iter().for_each(|next| self.next(next));
    }

    fn next(&mut self, next: Next) {
        match next {
            Next::Answer(ticket, text) => self.answer(ticket, &text),
            Next::Go(go) => {
                let args = go.args.as_ref().unwrap_or(&self.args);
                let left = self
                    .keeper
                    .settle(&self.service)
                    .and_then(|()| self.leaving().leave(&go.program, args, &go.ticket));
                // Only a failure comes back.
                let Err(error) = left;
                tracing::error!("live update: {error:#}");
                self.answer(go.ticket, &format!("{error:#}"));
            }
        }
    }

    fn leaving(&self) -> Leaving<'_> {
        Leaving {
            service: &self.service,
            guests: self.guests.as_ref(),
            files: &self.files.0,
            journal: self.keeper.folder(),
            log_file: self.log.path(),
            args: &self.args,
        }
    }
}

impl update::Host for Daemon {
    fn open_transactions(&self) -> Vec<(DomId, u64)> {
        let domains = self.service.store().with(|server| server.stats());
        let open = domains
            .into_iter()
            .map(|domain| (domain.domid, domain.transactions));
        open.filter(|(_, count)| *count > 0).collect()
    }

    fn state(&self) -> Result<fs::File> {
        self.leaving().state()
    }

    fn alarm(&self) -> Box<dyn FnOnce() + Send> {
        let checked = Arc::clone(&self.checked);
        Box::new(move || {
            // It fails where it was written often enough.
            let _ = rustix::io::write(checked.as_fd(), &1u64.to_ne_bytes());
        })
    }

    fn args(&self) -> &[String] {
        &self.args
    }
}

/// A signal to the loop from other threads.
pub(crate) fn alarm() -> Result<Arc<OwnedFd>> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    Ok(Arc::new(eventfd(0, flags).context("no eventfd")?))
}

/// The files that are gone when the daemon has ended orderly.
#[derive(Debug, Default)]
pub(crate) struct Files(pub(crate) Vec<PathBuf>);

impl Drop for Files {
    fn drop(&mut self) {
        for file in &self.0 {
            if let Err(error) = fs::remove_file(file) {
                tracing::warn!(%error, "cannot remove {}", file.display());
            }
        }
    }
}
