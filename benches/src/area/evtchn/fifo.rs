//! The FIFO interface, and what does not depend on it: many channels, several senders.

use std::os::fd::OwnedFd;
use std::sync::Barrier;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use cantle_abi::{DomId, Port, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{Channel, Hub, SystemDomain};

use super::{BATCH, GUEST, HOST, connect, eventfds, signal, take};
use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::{per_op, timed};

/// All ports that a guest can have.
const ALL: u32 = 1 << 17;
/// Ports that are in use while so many are open.
const ACTIVE: u32 = 10;
const V0: VcpuId = VcpuId(0);

pub(super) fn run(report: &mut Report) -> Result<()> {
    send_masked(report)?;
    for open in [10, 10_000, ALL - 1] {
        deliver(report, open)?;
    }
    against_two_level(report)?;
    two_threads(report, "evtchn/send_2threads", BATCH)?;
    two_threads(report, "evtchn/send_2threads_same", 1)
}

/// A host, a guest by the FIFO interface, and `n` channels between them.
struct World {
    hub: Hub,
    guest: HeapGuest,
    _host: std::sync::Arc<SystemDomain>,
    ends: Vec<(Port, Box<dyn Channel>)>,
}

fn world(fifo: bool, n: u32) -> Result<World> {
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, GUEST, 1, ALL)?;
    let host = hub.add_system(HOST)?;
    if fifo {
        guest.start_fifo()?;
    }
    let ends = connect(&guest.domain, &host, n)?;
    guest.take(V0);
    Ok(World {
        hub,
        guest,
        _host: host,
        ends,
    })
}

/// A signal to a guest that has masked the port, against writing an eventfd.
fn send_masked(report: &mut Report) -> Result<()> {
    let slice = report.plan().slice;
    let world = world(true, BATCH)?;
    for (port, _) in &world.ends {
        world.guest.mask(*port);
    }
    let bare = eventfds(BATCH)?;
    report.contest(
        "evtchn/send_masked",
        Unit::Nanoseconds,
        &mut || {
            per_op(slice, BATCH, || {
                let took = timed(|| world.ends.iter().try_for_each(|(_, end)| Ok(end.notify()?)))?;
                for (port, _) in &world.ends {
                    ensure!(world.guest.domain.is_pending(*port), "a signal is lost");
                    world.guest.clear_pending(*port);
                }
                Ok(took)
            })
        },
        Some(&mut || bare_writes(&bare, slice)),
    );
    Ok(())
}

fn bare_writes(bare: &[OwnedFd], slice: std::time::Duration) -> Result<f64> {
    per_op(slice, u32::try_from(bare.len())?, || {
        let took = timed(|| bare.iter().try_for_each(signal))?;
        bare.iter().try_for_each(take)?;
        Ok(took)
    })
}

/// A guest that has `open` channels, of which it uses ten; the ten are spread over all.
struct Crowd {
    guest: HeapGuest,
    active: Vec<Port>,
}

impl Crowd {
    fn new(open: u32) -> Result<Self> {
        let hub = Hub::new();
        let guest = HeapGuest::new(&hub, DomId(1), 1, ALL)?;
        guest.start_fifo()?;
        for n in 1..=open {
            if n.is_multiple_of(1024) {
                guest.expand_array(false)?;
            }
            guest.domain.bind_ipi(V0)?;
        }
        let active = (0..ACTIVE).map(|n| Port(1 + n * (open / ACTIVE))).collect();
        Ok(Self { guest, active })
    }

    /// Sends to the ten, and has the guest take them.
    fn round(&self, slice: std::time::Duration) -> Result<f64> {
        per_op(slice, ACTIVE, || {
            let took = timed(|| {
                self.active
                    .iter()
                    .try_for_each(|port| Ok(self.guest.domain.send(*port)?))
            })?;
            ensure!(self.guest.take(V0) == self.active, "an event is lost");
            Ok(took)
        })
    }
}

/// Delivery with many channels open, against delivery with ten.
fn deliver(report: &mut Report, open: u32) -> Result<()> {
    let slice = report.plan().slice;
    let (many, ten) = (Crowd::new(open)?, Crowd::new(ACTIVE)?);
    report.contest(
        &format!("evtchn/deliver_{open}"),
        Unit::Nanoseconds,
        &mut || many.round(slice),
        Some(&mut || ten.round(slice)),
    );
    Ok(())
}

/// Signals to a guest by the FIFO interface, against the same by the 2-level interface.
fn against_two_level(report: &mut Report) -> Result<()> {
    let slice = report.plan().slice;
    let (fifo, two_level) = (world(true, BATCH)?, world(false, BATCH)?);
    let round = |world: &World| {
        per_op(slice, BATCH, || {
            let took = timed(|| world.ends.iter().try_for_each(|(_, end)| Ok(end.notify()?)))?;
            ensure!(
                world.guest.take(V0).len() == world.ends.len(),
                "an event is lost"
            );
            Ok(took)
        })
    };
    report.contest(
        "evtchn/fifo_vs_2l",
        Unit::Nanoseconds,
        &mut || round(&fifo),
        Some(&mut || round(&two_level)),
    );
    drop((fifo.hub, two_level.hub));
    Ok(())
}

/// A guest's two vCPUs that send at once, each to `n` ports of its own or both to the same one; against two threads that write
/// as many eventfds.
fn two_threads(report: &mut Report, row: &str, n: u32) -> Result<()> {
    let slice = report.plan().slice;
    let same = n == 1;
    let ours = world(true, 2 * n)?;
    let bare = eventfds(2 * n)?;
    let half = |thread: u32| {
        let first = if same { 0 } else { thread * n };
        first as usize..(first + n) as usize
    };
    // Where both use the same end nobody takes the signal between: what is measured is the contention.
    let repeat = if same { BATCH } else { 1 };
    report.contest(
        row,
        Unit::Nanoseconds,
        &mut || {
            at_once(|thread| {
                let ends = ours.ends.get(half(thread)).unwrap_or_default();
                per_op(slice, n * repeat, || {
                    let took = timed(|| {
                        for _ in 0..repeat {
                            for (port, _) in ends {
                                ours.guest.domain.send(*port)?;
                            }
                        }
                        Ok(())
                    })?;
                    if !same {
                        ensure!(ends.iter().all(|(_, end)| end.take()), "a signal is lost");
                    }
                    Ok(took)
                })
            })
        },
        Some(&mut || {
            at_once(|thread| {
                let fds = bare.get(half(thread)).unwrap_or_default();
                per_op(slice, n * repeat, || {
                    let took =
                        timed(|| (0..repeat).try_for_each(|_| fds.iter().try_for_each(signal)))?;
                    if !same {
                        fds.iter().try_for_each(take)?;
                    }
                    Ok(took)
                })
            })
        }),
    );
    Ok(())
}

/// Has two threads measure at the same time; the mean of their figures.
fn at_once(round: impl Fn(u32) -> Result<f64> + Sync) -> Result<f64> {
    let start = Barrier::new(2);
    let run = |thread| {
        start.wait();
        round(thread)
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| run(1));
        let mine = run(0);
        let other = other.join().map_err(|_| anyhow!("a sender panicked"))?;
        Ok(f64::midpoint(mine?, other?))
    })
}
