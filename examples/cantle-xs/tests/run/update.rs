//! `live-update`: the steps that the daemon hears, and what is made of its answers. That a daemon then goes on as another
//! program is `cantle-xenstored`'s to test.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use cantle_xenstore::server::{Action, HostCommand};
use cantle_xenstore::transport::{Service, listen};
use cantle_xenstore::{Server, Shared};

/// Runs the command at a daemon that answers so, one step after the other; its output, and the steps.
fn run(args: &[&str], answers: &[&str]) -> (Output, Vec<Vec<String>>) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let mut service = Service::new(Shared::default()).unwrap();
    service
        .listen(listen::bind(&socket).unwrap(), None)
        .unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cantle-xs"))
        .arg("--socket")
        .arg(&socket)
        .arg("live-update")
        .args(args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = answers.iter();
    let mut steps = Vec::new();
    while child.try_wait().unwrap().is_none() {
        service.run_once(Some(Duration::from_millis(5))).unwrap();
        while let Some(action) = service.take_action() {
            let Action::Control { ticket, command } = action else {
                continue;
            };
            let HostCommand::LiveUpdate(words) = command else {
                panic!("not asked for: {command:?}");
            };
            steps.push(words);
            let answer = format!("{}\0", answers.next().unwrap_or(&"OK"));
            let answer = |server: &mut Server| server.answer(ticket, Ok(answer.into_bytes()));
            service.store().with(answer);
        }
    }
    (child.wait_with_output().unwrap(), steps)
}

fn words(step: &[&str]) -> Vec<String> {
    step.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn a_daemon_is_told_the_program_the_options_and_to_start() {
    let (output, steps) = run(&["-F", "-t", "7", "-c", "--socket /x", "/bin/new"], &[]);
    assert!(output.status.success(), "{output:?}");
    let wanted = [
        words(&["-f", "/bin/new"]),
        words(&["-c", "--socket /x"]),
        words(&["-s", "-t", "7", "-F"]),
    ];
    assert_eq!(steps, wanted);
}

#[test]
fn a_relative_path_is_meant_from_here() {
    let (_, steps) = run(&["new"], &[]);
    let here = std::env::current_dir().unwrap();
    let program = Path::new(&steps[0][1]);
    assert_eq!(program, here.join("new"));
    assert_eq!(steps[1], words(&["-s", "-t", "60"]));
}

#[test]
fn a_refusal_is_told_and_leaves_nothing_begun() {
    let (output, steps) = run(&["/bin/new"], &["OK", "transactions are open"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("not replaced: transactions are open"),
        "{said}"
    );
    assert_eq!(steps.last(), Some(&words(&["-a"])));
}
