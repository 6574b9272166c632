//! Where the store comes from, and what keeps it: nothing, a journal, or the program before.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use cantle_abi::DomId;
use cantle_abi::io::xs_wire::XS_SET_QUOTA;
use cantle_xenstore::journal::{Journal, Options};
use cantle_xenstore::server::{ConnId, Restored, Server};
use cantle_xenstore::{Service, TxId};

use crate::cli::Cli;

/// What writes changes down before they are acknowledged, if anything does.
#[derive(Clone, Debug)]
pub(crate) struct Keeper(Option<(PathBuf, Arc<Mutex<Journal>>)>);

/// A store, and who is to come back to it.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) server: Server,
    pub(crate) keeper: Keeper,
    /// Connections of rings that the journal has kept.
    pub(crate) left: Vec<(DomId, ConnId)>,
}

/// What the program before has handed over.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) server: Server,
    /// The folder in which it is, too.
    pub(crate) journal: Option<PathBuf>,
}

/// Begins with what the program before has left, with what the journal has, or with nothing.
pub(crate) fn begin(cli: &Cli, handed: Option<Handed>) -> Result<Begun> {
    let (keeper, kept) = match &cli.journal {
        None => (Keeper(None), None),
        Some(path) => open(path)?,
    };
    if let Some(Handed {
        mut server,
        journal,
    }) = handed
    {
        let other = kept.is_some() && journal.as_ref() != keeper.folder().as_ref();
        ensure!(!other, "the journal is of another store");
        // What it has is the same, and goes on from here.
        server.record(kept.is_some());
        let left = Vec::new();
        return Ok(Begun {
            server,
            keeper,
            left,
        });
    }
    let mut server = match kept {
        Some(restored) => {
            tracing::info!(
                "the store is as the journal has it; sockets' watches and open transactions are gone"
            );
            restored.server
        }
        None => {
            tracing::info!("the store is empty: what an earlier daemon had is not known");
            Server::new()
        }
    };
    set_quotas(&mut server, &cli.quota)?;
    if let Some(domid) = cli.priv_domid {
        server.set_privileged(domid);
    }
    Ok(Begun {
        left: server.rings(),
        server,
        keeper,
    })
}

fn open(path: &Path) -> Result<(Keeper, Option<Restored>)> {
    let (journal, kept) = Journal::open(path, Options::default())
        .with_context(|| format!("the journal in {}", path.display()))?;
    let folder = path.canonicalize().context("the journal's folder")?;
    Ok((Keeper(Some((folder, Arc::new(Mutex::new(journal))))), kept))
}

impl Keeper {
    /// Where it is.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        self.0.as_ref().map(|(folder, _)| folder.clone())
    }

    /// Has the service write down what it does before it says that it is done.
    pub(crate) fn keep(&self, service: &mut Service) -> Result<()> {
        let Some((_, journal)) = self.0.clone() else {
            return Ok(());
        };
        // The first time writes all that there is, which can fail.
        self.commit(service)?;
        service.set_before_output(Box::new(move |server| {
            let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.append(server).map_err(std::io::Error::other)
        }));
        Ok(())
    }

    /// Writes down what was done besides.
    pub(crate) fn commit(&self, service: &Service) -> Result<()> {
        let Some((_, journal)) = &self.0 else {
            return Ok(());
        };
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        let written = service.store().with(|server| journal.append(server));
        written.context("the journal")
    }

    /// Brings the journal to a state in which another program can go on with it.
    pub(crate) fn settle(&self, service: &Service) -> Result<()> {
        self.commit(service)?;
        if let Some((_, journal)) = &self.0 {
            journal
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .settle();
        }
        Ok(())
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
