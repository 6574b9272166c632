//! A guest's run in the foreground, from its start to the line that says how it ended.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cantle_vmm_core::{Console, End, Machine, Outcome};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;

use crate::cli::StatsFormat;
use crate::config::{Action, Guest};
use crate::supervisor::{self, Reason, Supervisor};
use crate::terminal::{self, RawTerminal};

/// A guest that does not live this long is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

const CRASHED: u8 = 3;
const REBOOTED: u8 = 4;
const SUSPENDED: u8 = 5;

/// Runs the guest until it has ended for good; the exit code.
pub(crate) fn run(guest: &Guest, stats: Option<StatsFormat>) -> Result<u8> {
    let name = &guest.config.name;
    let (supervisor, asked) = Supervisor::new().context("signals")?;
    // One pipe for all of the guest's lives: what is typed while it starts anew is not lost.
    let (input, keyboard) = pipe_with(PipeFlags::CLOEXEC).context("console")?;
    // A guest that cannot be set up leaves the terminal alone.
    let mut machine = Machine::new(guest.config.clone(), console(&input)?)?;
    let terminal = connect(keyboard, &supervisor).context("console")?;
    let outcome = loop {
        supervisor.watch(machine.control());
        let begun = Instant::now();
        let outcome = machine.run();
        supervisor.forget();
        let outcome = outcome?;
        if supervisor.reason().is_some() || action(guest, &outcome.end) == Action::Destroy {
            break outcome;
        }
        eprintln!(
            "guest '{name}' {}; starting it again",
            describe(&outcome.end)
        );
        if begun.elapsed() < SHORT_LIFE {
            supervisor::wait(&asked, SHORT_LIFE);
        }
        if supervisor.reason().is_some() {
            break outcome;
        }
        machine = Machine::new(guest.config.clone(), console(&input)?)?;
    };
    drop(terminal);
    let (text, code) = verdict(&outcome.end, supervisor.reason());
    eprintln!("guest '{name}' {text}");
    if let Some(StatsFormat::Json) = stats {
        print(name, &outcome).context("statistics")?;
    }
    Ok(code)
}

/// A console for one machine: what is typed, and standard output.
fn console(input: &OwnedFd) -> Result<Console> {
    let output = io::stdout().as_fd().try_clone_to_owned();
    Ok(Console {
        input: input.try_clone()?,
        output: output.context("standard output")?,
    })
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

/// The last line, and the exit code.
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
fn print(name: &str, outcome: &Outcome) -> Result<()> {
    let line = json!({ "guest": name, "end": outcome.end, "stats": outcome.stats });
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
}
