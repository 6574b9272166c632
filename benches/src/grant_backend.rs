//! A back end in a process of its own, that maps, unmaps and copies as it is told, and says how long it took.

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cantle_abi::{DomId, Gfn, GrantRef, PAGE_SIZE};
use cantle_grant::process::test_utils::FileGuest;
use cantle_grant::process::{Broker, BrokerConfig, Confinement, Setup, socket_pair};
use cantle_grant::{Access, CopyPiece, GrantMapper, Local};

/// The argument by which this program is that back end.
pub(crate) const ROLE: &str = "--grant-backend";

/// Pages that are mapped in turn, no two of them neighbours.
pub(crate) const PAGES: u32 = 64;
const GUEST: DomId = DomId(1);
const BACKEND: DomId = DomId(7);
const COPY: u8 = 0;

/// The back end: its standard input is the broker's socket, its standard output the one that it is told by.
pub(crate) fn main() -> Result<()> {
    let told = std::io::stdout().as_fd().try_clone_to_owned()?;
    let mut told = UnixStream::from(told);
    let setup = Setup::receive(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let mapper = setup.confine(&Confinement::new())?;
    let wanted: Vec<(GrantRef, Access)> = (0..PAGES)
        .map(|n| (GrantRef(8 + n), Access::ReadWrite))
        .collect();
    let mut own = vec![0; PAGES as usize * PAGE_SIZE];
    let mut batch = [0];
    while told.read_exact(&mut batch).is_ok() {
        let [batch] = batch;
        let took = if batch == COPY {
            copied(&mapper, &mut own)?
        } else {
            mapped(&mapper, &wanted, usize::from(batch))?
        };
        let [first, second] = took.map(|took| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        told.write_all(&first.to_ne_bytes())?;
        told.write_all(&second.to_ne_bytes())?;
    }
    Ok(())
}

fn mapped(
    mapper: &dyn GrantMapper,
    wanted: &[(GrantRef, Access)],
    batch: usize,
) -> Result<[Duration; 2]> {
    let mut took = [Duration::ZERO; 2];
    for wanted in wanted.chunks(batch) {
        let begun = Instant::now();
        if let [(gref, access)] = wanted {
            let mapping = mapper.map(GUEST, *gref, *access)?;
            took[0] += begun.elapsed();
            let begun = Instant::now();
            drop(black_box(mapping));
            took[1] += begun.elapsed();
        } else {
            let mappings = mapper.map_all(GUEST, wanted);
            took[0] += begun.elapsed();
            ensure!(mappings.iter().all(|page| page.is_ok()), "a map is refused");
            let begun = Instant::now();
            drop(black_box(mappings));
            took[1] += begun.elapsed();
        }
    }
    Ok(took)
}

fn copied(mapper: &dyn GrantMapper, own: &mut [u8]) -> Result<[Duration; 2]> {
    let mut pieces: Vec<CopyPiece<'_>> = own
        .chunks_exact_mut(PAGE_SIZE)
        .zip(8..)
        .map(|(page, gref)| CopyPiece {
            granter: GUEST,
            gref: GrantRef(gref),
            offset: 0,
            local: Local::Into(page),
            status: Ok(()),
        })
        .collect();
    let begun = Instant::now();
    for batch in pieces.chunks_mut(32) {
        mapper.copy(black_box(batch));
    }
    let took = begun.elapsed();
    let good = pieces.iter().all(|piece| piece.status.is_ok());
    ensure!(good, "a copy is refused");
    Ok([took, Duration::ZERO])
}

/// Such a back end, with its guest and its broker.
pub(crate) struct Backend {
    _guest: FileGuest,
    tell: UnixStream,
    child: Child,
    broker: Option<JoinHandle<()>>,
}

impl Backend {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// Where this process has not the rights for it, for example.
    pub(crate) fn start() -> Result<Self> {
        let guest = FileGuest::new(GUEST, 2 * PAGES as usize);
        for n in 0..PAGES {
            let gfn = Gfn(2 * u64::from(n));
            guest.fill(gfn, 1);
            guest.grant(GrantRef(8 + n), BACKEND, gfn, false);
        }
        let (ours, theirs) = socket_pair()?;
        let (tell, told) = UnixStream::pair()?;
        let child = Command::new(std::env::current_exe()?)
            .arg(ROLE)
            .stdin(theirs)
            .stdout(std::os::fd::OwnedFd::from(told))
            .stderr(Stdio::inherit())
            .spawn()?;
        let config = BrokerConfig::new(BACKEND);
        let mut broker =
            Broker::start(ours, child.id(), config, vec![guest.granter()]).context("no broker")?;
        let serve = move || {
            // The back end's end is what stops it.
            if let Ok((never, _open)) = socket_pair() {
                broker.serve(never.as_fd());
            }
        };
        let mut backend = Self {
            _guest: guest,
            tell,
            child,
            broker: Some(std::thread::spawn(serve)),
        };
        backend.map(1).context("the back end does not map")?;
        Ok(backend)
    }

    /// Maps and unmaps all pages, so many to a call: how long both took.
    ///
    /// # Errors
    ///
    /// Where it has ended.
    pub(crate) fn map(&mut self, batch: u8) -> Result<[Duration; 2]> {
        self.tell.write_all(&[batch])?;
        let mut took = [[0; 8]; 2];
        for took in &mut took {
            self.tell.read_exact(took)?;
        }
        Ok(took.map(|took| Duration::from_nanos(u64::from_ne_bytes(took))))
    }

    /// Copies all pages out, 32 to a call.
    ///
    /// # Errors
    ///
    /// Where it has ended.
    pub(crate) fn copy(&mut self) -> Result<Duration> {
        self.map(COPY).map(|[took, _]| took)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // It ends when nobody tells it anything any more.
        let _ = self.tell.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
        if let Some(broker) = self.broker.take() {
            let _ = broker.join();
        }
    }
}
