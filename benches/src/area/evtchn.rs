//! Event channels: what a signal costs, either way.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Result, ensure};
use cantle_abi::{DomId, Port, VcpuId};
use cantle_evtchn::test_utils::HeapGuest;
use cantle_evtchn::{Channel, EventChannels, GuestConfig, GuestDomain, Hub, SystemDomain, Upcall};
use rustix::event::{EventfdFlags, eventfd};

use crate::guest_page::GuestPage;
use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::{per_op, timed};

mod fifo;

const HOST: DomId = DomId(0);
const GUEST: DomId = DomId(1);

/// Signals that are sent before any is taken, so that the clock runs over sends alone.
const BATCH: u32 = 256;

pub(super) fn run(report: &mut Report) -> Result<()> {
    send(report)?;
    send_pending(report)?;
    notify_guest(report)?;
    fifo::run(report)
}

/// A guest's `EVTCHNOP_send` to a system domain's eventfd, against writing an eventfd.
fn send(report: &mut Report) -> Result<()> {
    let slice = report.plan().slice;
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, GUEST, 1, 4096)?;
    let host = hub.add_system(HOST)?;
    let ends = connect(&guest.domain, &host, BATCH)?;
    let bare = eventfds(BATCH)?;
    report.contest(
        "evtchn/send",
        Unit::Nanoseconds,
        &mut || {
            per_op(slice, BATCH, || {
                let took = timed(|| {
                    ends.iter()
                        .try_for_each(|(port, _)| Ok(guest.domain.send(*port)?))
                })?;
                ensure!(ends.iter().all(|(_, end)| end.take()), "a signal is lost");
                Ok(took)
            })
        },
        Some(&mut || {
            per_op(slice, BATCH, || {
                let took = timed(|| bare.iter().try_for_each(signal))?;
                bare.iter().try_for_each(take)?;
                Ok(took)
            })
        }),
    );
    Ok(())
}

/// A send that finds its channel signalled already: what a busy guest does most.
fn send_pending(report: &mut Report) -> Result<()> {
    let slice = report.plan().slice;
    let hub = Hub::new();
    let guest = HeapGuest::new(&hub, GUEST, 1, 4096)?;
    let host = hub.add_system(HOST)?;
    let ends = connect(&guest.domain, &host, 1)?;
    let bare = eventfds(1)?;
    report.contest(
        "evtchn/send_pending",
        Unit::Nanoseconds,
        &mut || {
            per_op(slice, BATCH, || {
                timed(|| {
                    for (port, _) in ends.iter().cycle().take(BATCH as usize) {
                        guest.domain.send(*port)?;
                    }
                    Ok(())
                })
            })
        },
        Some(&mut || {
            per_op(slice, BATCH, || {
                timed(|| {
                    bare.iter()
                        .cycle()
                        .take(BATCH as usize)
                        .try_for_each(signal)
                })
            })
        }),
    );
    Ok(())
}

/// A system domain's signal to a guest whose vCPU is told by an eventfd (as KVM's irqfd is), against writing that eventfd.
fn notify_guest(report: &mut Report) -> Result<()> {
    const VCPUS: u32 = 32;
    let slice = report.plan().slice;
    let hub = Hub::new();
    let host = hub.add_system(HOST)?;
    // One port on each vCPU, so that each signal is the first that its vCPU hears of.
    let mut guests = Vec::new();
    for n in 0..u16::try_from(BATCH / VCPUS)? {
        let page = GuestPage::new();
        let irqs = Arc::new(Irqfds(eventfds(VCPUS)?));
        let config = GuestConfig {
            vcpus: VCPUS,
            max_ports: 4096,
        };
        let domain = hub.add_guest(DomId(1 + n), config, page.memory(), irqs.clone())?;
        let ends = connect(&domain, &host, VCPUS)?;
        for (vcpu, (port, _)) in (0..).zip(&ends) {
            domain.bind_vcpu(*port, VcpuId(vcpu))?;
        }
        page.clear();
        guests.push((domain, page, irqs, ends));
    }
    let bare = eventfds(BATCH)?;
    report.contest(
        "evtchn/notify_guest",
        Unit::Nanoseconds,
        &mut || {
            per_op(slice, BATCH, || {
                let took = timed(|| {
                    for (_, _, _, ends) in &guests {
                        ends.iter().try_for_each(|(_, end)| end.notify())?;
                    }
                    Ok(())
                })?;
                for (domain, page, irqs, ends) in &guests {
                    ensure!(
                        ends.iter().all(|(port, _)| domain.is_pending(*port)),
                        "a signal is lost"
                    );
                    irqs.0.iter().try_for_each(take)?;
                    page.clear();
                }
                Ok(took)
            })
        },
        Some(&mut || {
            per_op(slice, BATCH, || {
                let took = timed(|| bare.iter().try_for_each(signal))?;
                bare.iter().try_for_each(take)?;
                Ok(took)
            })
        }),
    );
    Ok(())
}

/// One eventfd for each vCPU.
struct Irqfds(Vec<OwnedFd>);

impl Upcall for Irqfds {
    fn raise(&self, vcpu: VcpuId) {
        if let Some(irqfd) = self.0.get(vcpu.0 as usize) {
            // A full counter means that it is signalled.
            let _ = signal(irqfd);
        }
    }
}

/// `n` channels: the guest's port and the host's end, neither of them signalled.
fn connect(
    guest: &GuestDomain,
    host: &SystemDomain,
    n: u32,
) -> Result<Vec<(Port, Box<dyn Channel>)>> {
    let mut ends = Vec::new();
    for _ in 0..n {
        let port = guest.alloc_unbound(DomId::SELF, host.id())?;
        let end = host.bind_interdomain(guest.id(), port)?;
        end.take();
        ends.push((port, end));
    }
    Ok(ends)
}

fn eventfds(n: u32) -> Result<Vec<OwnedFd>> {
    (0..n)
        .map(|_| Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        .collect()
}

pub(super) fn signal(fd: &OwnedFd) -> Result<()> {
    rustix::io::write(fd, &1_u64.to_ne_bytes())?;
    Ok(())
}

pub(super) fn take(fd: &OwnedFd) -> Result<()> {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count)?;
    Ok(())
}
