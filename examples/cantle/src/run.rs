//! Guests' runs in the foreground, from their start to the lines that say how they ended.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cantle_vmm_core::{Console, End, GuestConfig, Machine, Outcome};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;

use crate::cli::StatsFormat;
use crate::config::{Action, Guest, net};
use crate::output;
use crate::supervisor::{Reason, Supervisor};
use crate::switches::Switches;
use crate::terminal::{self, RawTerminal};

/// A guest that does not live this long is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

const SETUP_FAILED: u8 = 2;
const CRASHED: u8 = 3;
const REBOOTED: u8 = 4;
const SUSPENDED: u8 = 5;

/// A guest with what its lives have in common.
struct Run {
    /// Its place among the guests.
    place: usize,
    guest: Guest,
    config: GuestConfig,
    input: OwnedFd,
    output: OwnedFd,
    switches: Arc<Switches>,
}

/// Runs the guests until all have ended for good; the exit code, which is the worst of theirs.
pub(crate) fn run(guests: Vec<Guest>, stats: Option<StatsFormat>) -> Result<u8> {
    let supervisor = Supervisor::new().context("signals")?;
    let switches = Arc::new(Switches::new(&guests)?);
    // The first that writes to no file has the terminal.
    let at_terminal = guests.iter().position(|guest| guest.console.is_none());
    let mut keyboard = None;
    let mut printers = Vec::new();
    let mut runs = Vec::new();
    for (place, guest) in guests.into_iter().enumerate() {
        let name = guest.config.name.clone();
        // One pipe for all of a guest's lives: what is typed while it starts anew is not lost.
        let (input, typed) = pipe_with(PipeFlags::CLOEXEC).context("console")?;
        let output = if at_terminal == Some(place) {
            keyboard = Some(typed);
            let output = io::stdout().as_fd().try_clone_to_owned();
            output.context("standard output")?
        } else if let Some(path) = &guest.console {
            let file = File::create(path);
            file.with_context(|| format!("console: {}", path.display()))?
                .into()
        } else {
            let (output, printer) = output::prefixed(&name).context("console")?;
            printers.push(printer);
            output
        };
        let config = switches.resolve(&guest)?;
        runs.push(Run {
            place,
            config,
            guest,
            input,
            output,
            switches: switches.clone(),
        });
    }
    // Guests that cannot be set up leave the terminal alone, and none of them runs.
    let machines: Vec<Machine> = runs.iter().map(Run::machine).collect::<Result<_>>()?;
    let terminal = match keyboard {
        Some(keyboard) => connect(keyboard, &supervisor).context("console")?,
        None => None,
    };
    let threads: Vec<JoinHandle<Verdict>> = runs
        .into_iter()
        .zip(machines)
        .map(|(run, machine)| {
            let supervisor = supervisor.clone();
            let name = format!("guest-{}", run.place);
            let thread = std::thread::Builder::new().name(name);
            thread.spawn(move || run.live(machine, &supervisor))
        })
        .collect::<io::Result<_>>()
        .inspect_err(|_| supervisor.end(Reason::Escape))
        .context("a guest's thread")?;
    let verdicts: Vec<Verdict> = threads.into_iter().map(joined).collect();
    drop(terminal);
    for printer in printers {
        // It prints what is left.
        let _ = printer.join();
    }
    if let Some(StatsFormat::Json) = stats {
        print_all(&verdicts, &switches).context("statistics")?;
    }
    let codes: Vec<u8> = verdicts.iter().map(|verdict| verdict.code).collect();
    Ok(worst(&codes))
}

/// A line for each guest that ran, and for each switch that leads somewhere.
fn print_all(verdicts: &[Verdict], switches: &Switches) -> Result<()> {
    for verdict in verdicts {
        if let Some(Outcome { end, stats, .. }) = &verdict.outcome {
            print(&json!({ "guest": verdict.name, "end": end, "stats": stats }))?;
        }
    }
    for switch in switches.iter() {
        let uplinks = switch.uplink_counters();
        if !uplinks.is_empty() {
            print(&json!({ "switch": switch.name(), "uplinks": uplinks }))?;
        }
    }
    Ok(())
}

/// The worst of several exit codes: a signal, then a crash, then what could not be set up, then the others.
fn worst(codes: &[u8]) -> u8 {
    let badness = |code: &&u8| match **code {
        0 => 0,
        SUSPENDED => 1,
        REBOOTED => 2,
        SETUP_FAILED => 3,
        CRASHED => 4,
        _ => 5,
    };
    codes.iter().max_by_key(badness).copied().unwrap_or(0)
}

/// How a guest came to its end.
struct Verdict {
    name: String,
    code: u8,
    outcome: Option<Outcome>,
}

fn joined(thread: JoinHandle<Verdict>) -> Verdict {
    // One that panicked has said so.
    thread.join().unwrap_or_else(|_| Verdict {
        name: String::new(),
        code: CRASHED,
        outcome: None,
    })
}

impl Run {
    /// A machine for the guest, which does not run yet.
    fn machine(&self) -> Result<Machine> {
        let console = Console {
            input: self.input.try_clone().context("console")?,
            output: self.output.try_clone().context("console")?,
        };
        let machine = Machine::new(self.config.clone(), console)
            .with_context(|| format!("guest '{}'", self.config.name))?;
        let switches = self.switches.clone();
        machine.read_nets_with(Arc::new(move |text| switches.connect(net::option(text)?)));
        Ok(machine)
    }

    /// Runs the guest until it has ended for good, and says how.
    fn live(self, first: Machine, supervisor: &Supervisor) -> Verdict {
        let name = self.config.name.clone();
        match self.lives(first, supervisor) {
            Ok(outcome) => {
                let (text, code) = verdict(&outcome.end, supervisor.reason());
                say!("guest '{name}' {text}");
                Verdict {
                    name,
                    code,
                    outcome: Some(outcome),
                }
            }
            Err(error) => {
                say!("guest '{name}' is gone: {}", crate::one_line(&error));
                Verdict {
                    name,
                    code: SETUP_FAILED,
                    outcome: None,
                }
            }
        }
    }

    fn lives(&self, first: Machine, supervisor: &Supervisor) -> Result<Outcome> {
        let mut machine = first;
        loop {
            supervisor.watch(self.place, machine.control());
            let begun = Instant::now();
            let outcome = machine.run();
            supervisor.forget(self.place);
            let outcome = outcome?;
            let ends = |supervisor: &Supervisor| supervisor.reason().is_some();
            if ends(supervisor) || action(&self.guest, &outcome.end) == Action::Destroy {
                return Ok(outcome);
            }
            let (name, end) = (&self.config.name, describe(&outcome.end));
            say!("guest '{name}' {end}; starting it again");
            if begun.elapsed() < SHORT_LIFE {
                supervisor.wait(SHORT_LIFE);
            }
            if ends(supervisor) {
                return Ok(outcome);
            }
            machine = self.machine()?;
        }
    }
}

/// Makes the terminal raw, if there is one, and begins to pass on what is typed.
fn connect(keyboard: OwnedFd, supervisor: &Supervisor) -> io::Result<Option<RawTerminal>> {
    let terminal = RawTerminal::enter()?;
    if let Some(terminal) = &terminal {
        supervisor.on_exit(terminal.restorer());
        fcntl_setfl(&keyboard, OFlags::NONBLOCK)?;
    }
    let of_escape = supervisor.clone();
    terminal::pump(keyboard, terminal.is_some(), move || {
        of_escape.end(Reason::Escape)
    });
    Ok(terminal)
}

fn action(guest: &Guest, end: &End) -> Action {
    match end {
        End::PowerOff => guest.on_poweroff,
        End::Reboot => guest.on_reboot,
        End::Crash(_) => guest.on_crash,
        _ => Action::Destroy,
    }
}

fn describe(end: &End) -> String {
    match end {
        End::PowerOff => "powered off".to_owned(),
        End::Reboot => "rebooted".to_owned(),
        other => other.to_string(),
    }
}

/// A guest's last line, and its exit code.
fn verdict(end: &End, reason: Option<Reason>) -> (String, u8) {
    if let Some(reason) = reason {
        let text = match end {
            End::Destroyed => format!("destroyed by {}", reason.name()),
            end => describe(end),
        };
        return (text, reason.exit_code());
    }
    let code = match end {
        End::PowerOff => 0,
        End::Crash(_) => CRASHED,
        End::Reboot => REBOOTED,
        End::Suspend => SUSPENDED,
        // Nobody asked for it, so that something of the host has failed.
        _ => CRASHED,
    };
    (describe(end), code)
}

/// One line, on standard output.
fn print(line: &serde_json::Value) -> Result<()> {
    writeln!(io::stdout().lock(), "{line}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_words_and_its_code() {
        let verdict = |end, reason| verdict(&end, reason);
        assert_eq!(verdict(End::PowerOff, None), ("powered off".into(), 0));
        assert_eq!(verdict(End::Reboot, None), ("rebooted".into(), 4));
        assert_eq!(
            verdict(End::Crash("triple fault".into()), None),
            ("crashed: triple fault".into(), 3)
        );
        assert_eq!(
            verdict(End::Destroyed, Some(Reason::Escape)),
            ("destroyed by Ctrl-]".into(), 0)
        );
        let term = Some(Reason::Signal(15));
        assert_eq!(
            verdict(End::Destroyed, term),
            ("destroyed by SIGTERM".into(), 143)
        );
        assert_eq!(verdict(End::PowerOff, term), ("powered off".into(), 143));
    }

    #[test]
    fn the_worst_end_is_the_exit_code() {
        assert_eq!(worst(&[0, 0]), 0);
        assert_eq!(worst(&[0, 5, 0]), 5);
        assert_eq!(worst(&[4, 5, 0]), 4);
        assert_eq!(worst(&[4, 3, 2]), 3);
        assert_eq!(worst(&[2, 5]), 2);
        assert_eq!(worst(&[143, 143]), 143);
    }
}
