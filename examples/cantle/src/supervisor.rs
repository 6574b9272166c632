//! What ends a guest from outside: signals and Ctrl-].

use std::io;
use std::process;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Ends whatever machine runs when it is asked to.
#[derive(Clone)]
pub(crate) struct Supervisor(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    asked: Sender<()>,
}

#[derive(Default)]
struct State {
    reason: Option<Reason>,
    machine: Option<MachineControl>,
    /// Gives the terminal back.
    restore: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Supervisor {
    /// From here on, signals that would end this process end its guest instead. The receiver gets a message when there is
    /// a reason to end.
    pub(crate) fn new() -> io::Result<(Self, Receiver<()>)> {
        let (asked, receiver) = mpsc::channel();
        let supervisor = Self(Arc::new(Shared {
            state: Mutex::default(),
            asked,
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
        Ok((supervisor, receiver))
    }

    /// Names how the terminal is given back, should the process have to end at once.
    pub(crate) fn on_exit(&self, restore: impl Fn() + Send + Sync + 'static) {
        self.lock().restore = Some(Box::new(restore));
    }

    /// Destroys the machine. Who asks a second time does not want to wait any more: the process ends.
    pub(crate) fn end(&self, reason: Reason) {
        let mut state = self.lock();
        if state.reason.is_some() {
            if let Some(restore) = &state.restore {
                restore();
            }
            process::exit(reason.exit_code().into());
        }
        state.reason = Some(reason);
        if let Some(machine) = &state.machine {
            machine.destroy();
        }
        // Nobody listens while a machine runs.
        let _ = self.0.asked.send(());
    }

    /// The machine that is to be ended from now on; at once, if the wish came before it.
    pub(crate) fn watch(&self, machine: MachineControl) {
        let mut state = self.lock();
        if state.reason.is_some() {
            machine.destroy();
        }
        state.machine = Some(machine);
    }

    /// The machine has ended: there is none to end any more, nor to keep in memory.
    pub(crate) fn forget(&self) {
        self.lock().machine = None;
    }

    /// Why the guest was to end, if it was.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.lock().reason
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for `time`, or until there is a reason to end.
pub(crate) fn wait(asked: &Receiver<()>, time: Duration) {
    let _ = asked.recv_timeout(time);
}
