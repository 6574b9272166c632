//! What ends a guest from outside: signals and Ctrl-].

use std::collections::BTreeMap;
use std::io;
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cantle_vmm_core::MachineControl;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

/// Why a guest was destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Ctrl-].
    Escape,
    /// A signal.
    Signal(i32),
}

impl Reason {
    /// The exit code that says so.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Escape => 0,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    /// For "destroyed by …".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Escape => "Ctrl-]",
            Self::Signal(signal) => {
                signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
            }
        }
    }
}

/// Ends whatever machines run when it is asked to.
#[derive(Clone)]
pub(crate) struct Supervisor(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is a reason to end.
    asked: Condvar,
}

#[derive(Default)]
struct State {
    reason: Option<Reason>,
    /// By their guests' places.
    machines: BTreeMap<usize, MachineControl>,
    /// Gives the terminal back.
    restore: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Supervisor {
    /// From here on, signals that would end this process end its guests instead.
    pub(crate) fn new() -> io::Result<Self> {
        let supervisor = Self(Arc::new(Shared {
            state: Mutex::default(),
            asked: Condvar::new(),
        }));
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
        let of_thread = supervisor.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in signals.forever() {
                    of_thread.end(Reason::Signal(signal));
                }
            })?;
        Ok(supervisor)
    }

    /// Names how the terminal is given back, should the process have to end at once.
    pub(crate) fn on_exit(&self, restore: impl Fn() + Send + Sync + 'static) {
        self.lock().restore = Some(Box::new(restore));
    }

    /// Destroys the machines. Who asks a second time does not want to wait any more: the process ends.
    pub(crate) fn end(&self, reason: Reason) {
        let mut state = self.lock();
        if state.reason.is_some() {
            if let Some(restore) = &state.restore {
                restore();
            }
            process::exit(reason.exit_code().into());
        }
        state.reason = Some(reason);
        state.machines.values().for_each(MachineControl::destroy);
        self.0.asked.notify_all();
    }

    /// A guest's machine that is to be ended from now on; at once, if the wish came before it.
    pub(crate) fn watch(&self, guest: usize, machine: MachineControl) {
        let mut state = self.lock();
        if state.reason.is_some() {
            machine.destroy();
        }
        state.machines.insert(guest, machine);
    }

    /// The guest's machine has ended: there is none to end any more, nor to keep in memory.
    pub(crate) fn forget(&self, guest: usize) {
        self.lock().machines.remove(&guest);
    }

    /// Waits for `time`, or until there is a reason to end.
    pub(crate) fn wait(&self, time: Duration) {
        let nobody_asks = |state: &mut State| state.reason.is_none();
        // What it returns is of no interest: who waits looks for a reason.
        let _ = self
            .0
            .asked
            .wait_timeout_while(self.lock(), time, nobody_asks);
    }

    /// Why the guests were to end, if they were.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.lock().reason
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
