//! The host's small threads: each an event loop over a few subscribers, until the domain ends.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use cantle_abi::xen::VIRQ_TIMER;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::domain::Domain;
use crate::error::SetupError;
use crate::outcome::End;
use crate::timers::TimerKind;

/// A part of an event loop that may move to its thread.
pub(crate) type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// A thread to be: its name, and what it serves.
pub(crate) type Service = (&'static str, Vec<Subscriber>);

/// An event descriptor, which nothing has written to.
pub(crate) fn event() -> Result<EventFd, SetupError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(SetupError::host("an event descriptor"))
}

/// Starts a thread that serves `subscribers` until `stop` is readable.
pub(crate) fn spawn(
    name: &'static str,
    subscribers: Vec<Subscriber>,
    stop: &EventFd,
) -> Result<JoinHandle<()>, SetupError> {
    let mut manager = EventManager::<Subscriber>::new().map_err(SetupError::host(name))?;
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = stop.try_clone().map_err(SetupError::host(name))?;
    for subscriber in subscribers {
        manager.add_subscriber(subscriber);
    }
    manager.add_subscriber(Box::new(Stop {
        fd: stop,
        stopped: stopped.clone(),
    }));
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = manager.run() {
                    tracing::error!(thread = name, %error, "an event loop failed");
                    return;
                }
            }
        })
        .map_err(SetupError::host(name))
}

/// Ends an event loop.
struct Stop {
    fd: EventFd,
    stopped: Arc<AtomicBool>,
}

impl MutEventSubscriber for Stop {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.fd.as_raw_fd(), 0);
    }
}

/// Waits for a descriptor to become readable; `data` says which one it is.
pub(crate) fn add(ops: &mut EventOps<'_>, fd: RawFd, data: u32) {
    if let Err(error) = ops.add(Events::with_data_raw(fd, data, EventSet::IN)) {
        tracing::error!(fd, ?error, "a descriptor cannot be waited for");
    }
}

/// The event of messages that may not have arrived.
const AWAITED_UPCALLS: u32 = u32::MAX;

/// The event of requests to KVM that wait for vCPUs.
const NUDGE: u32 = u32::MAX - 1;

/// Turns expired timers into the guest's events.
pub(crate) struct TimerEvents {
    domain: Arc<Domain>,
}

impl TimerEvents {
    pub(crate) fn new(domain: Arc<Domain>) -> Self {
        Self { domain }
    }
}

impl MutEventSubscriber for TimerEvents {
    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        if events.data() == AWAITED_UPCALLS {
            let mut expirations = [0; 8];
            if rustix::io::read(self.domain.upcall.awaiting(), &mut expirations).is_ok() {
                self.domain
                    .upcall
                    .repeat(|vcpu| self.domain.ports.upcall_pending(vcpu));
            }
            return;
        }
        if events.data() == NUDGE {
            if rustix::io::read(self.domain.grace.nudge(), &mut [0; 8]).is_ok() {
                self.domain.kick_all();
            }
            return;
        }
        let index = usize::try_from(events.data()).unwrap_or(usize::MAX);
        let Some((fd, kind)) = self.domain.timers.descriptors().nth(index) else {
            return;
        };
        let mut expirations = [0; 8];
        // Set again meanwhile: nothing to read, and nothing has expired.
        if rustix::io::read(fd, &mut expirations).is_err() {
            return;
        }
        match kind {
            TimerKind::Vcpu(vcpu) => {
                self.domain.ports.raise_virq(VIRQ_TIMER, vcpu);
            }
            TimerKind::Watchdog => self
                .domain
                .end(End::Crash("the guest's watchdog expired".into())),
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        for (index, (fd, _)) in (0_u32..).zip(self.domain.timers.descriptors()) {
            add(ops, fd.as_raw_fd(), index);
        }
        add(
            ops,
            self.domain.upcall.awaiting().as_raw_fd(),
            AWAITED_UPCALLS,
        );
        add(ops, self.domain.grace.nudge().as_raw_fd(), NUDGE);
    }
}
