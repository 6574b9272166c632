//! The program as its users see it: exit codes, last lines, the terminal. The guests are a few instructions long and
//! run on any `/dev/kvm`, emulated ones too.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it expects"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use tempfile::TempDir;

/// `cli; hlt; jmp .`: waits for ever.
const WAIT: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];
/// `mov $0x34, %al; mov $0x404, %dx; out %al, %dx; hlt; jmp .-1`: S5 to ACPI's sleep control register.
const POWER_OFF: &[u8] = &[0xb0, 0x34, 0x66, 0xba, 0x04, 0x04, 0xee, 0xf4, 0xeb, 0xfd];
/// `ud2`: without a table of handlers, any exception is a triple fault.
const CRASH: &[u8] = &[0x0f, 0x0b];

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An ELF file with `code` at 1 MiB, where its PVH entry is.
fn elf(code: &[u8]) -> Vec<u8> {
    const NOTE: [u32; 5] = [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x10_0000];
    let code_at = 64 + 2 * 56 + 20;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0, 64, 0u64] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let size = code.len() as u64;
    for (kind, flags, offset, size) in [(4u32, 4u32, 64 + 2 * 56, 20), (1, 5, code_at, size)] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [offset, 0x10_0000, 0x10_0000, size, size, 4u64] {
            file.extend(word.to_le_bytes());
        }
    }
    file.extend(NOTE.iter().flat_map(|word| word.to_le_bytes()));
    file.extend(code);
    file
}

/// A folder with a kernel in it.
struct Guest {
    folder: TempDir,
}

impl Guest {
    /// `None`, with a word about it, where there is no KVM.
    fn new(code: &[u8]) -> Option<Self> {
        if File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            eprintln!("SKIPPED: /dev/kvm cannot be opened");
            return None;
        }
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("kernel"), elf(code)).unwrap();
        Some(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = cantle();
        command
            .args(["run", "--memory", "16M", "--name", "t", "--kernel"])
            .arg(self.path("kernel"));
        command
    }
}

fn cantle() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cantle"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits for the end; a program that does not end is a failure, not a hanging test.
fn finish(mut child: Child) -> Output {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("no end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = finish(command.spawn().unwrap());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn kvm_a_guest_that_powers_off_exits_with_0_and_its_statistics() {
    let Some(guest) = Guest::new(POWER_OFF) else {
        return;
    };
    let (code, out, err) = run(guest.command().args(["--stats", "json"]));
    assert_eq!((code, err.as_str()), (Some(0), "guest 't' powered off\n"));
    let stats: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&stats["guest"], &stats["end"]),
        (&"t".into(), &"power_off".into())
    );
    assert!(
        stats["stats"]["exits"]["io_out"].as_u64() >= Some(1),
        "{out}"
    );
}

/// A guest's file for one that runs `code`; its path.
fn file(folder: &Path, name: &str, code: &[u8], more: &str) -> PathBuf {
    let kernel = folder.join(format!("{name}.elf"));
    fs::write(&kernel, elf(code)).unwrap();
    let path = folder.join(format!("{name}.cfg"));
    let text = format!(
        "name='{name}'\nmemory=16\nkernel='{}'\non_reboot='destroy'\n{more}\n",
        kernel.display()
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn kvm_several_guests_run_in_one_process() {
    let Some(guest) = Guest::new(WAIT) else {
        return;
    };
    let folder = guest.folder.path();
    let lan = "vif=['switch=lan,vlan=2', 'none']";
    let log = format!("{lan}\nconsole='{}'", folder.join("three.log").display());
    let one = file(folder, "one", POWER_OFF, lan);
    let two = file(folder, "two", CRASH, lan);
    let three = file(folder, "three", POWER_OFF, &log);
    let (code, out, err) = run(cantle()
        .args(["run", "--stats", "json", "--switch", "lan,aging=20"])
        .args([&one, &two, &three]));
    assert_eq!(code, Some(3), "the worst of them: {err}");
    for said in [
        "guest 'one' powered off",
        "guest 'two' crashed",
        "guest 'three' powered off",
    ] {
        assert_eq!(err.matches(said).count(), 1, "{said}: {err}");
    }
    assert_eq!(err.lines().count(), 3, "{err}");
    let stats: Vec<serde_json::Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(stats.len(), 3, "{out}");
    for (stats, name) in stats.iter().zip(["one", "two", "three"]) {
        assert_eq!(stats["guest"], name);
        let nets = stats["stats"]["nets"].as_object().unwrap();
        assert_eq!(nets.keys().collect::<Vec<_>>(), ["0", "1"]);
        assert_eq!(nets["0"]["port_rx_packets"], 0);
    }
    assert!(folder.join("three.log").exists());
}

#[test]
fn kvm_a_signal_ends_all_guests() {
    let Some(guest) = Guest::new(WAIT) else {
        return;
    };
    let folder = guest.folder.path();
    let one = file(folder, "one", WAIT, "");
    let two = file(folder, "two", WAIT, "");
    let child = cantle().arg("run").args([&one, &two]).spawn().unwrap();
    let threads = PathBuf::from(format!("/proc/{}/task", child.id()));
    wait_until("the vCPUs' threads", || {
        count_threads(&threads, "vcpu0") == 2
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(143));
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    for name in ["one", "two"] {
        assert!(
            err.contains(&format!("guest '{name}' destroyed by SIGTERM")),
            "{err}"
        );
    }
}

#[test]
fn kvm_where_one_guest_cannot_be_none_runs() {
    let Some(guest) = Guest::new(WAIT) else {
        return;
    };
    let folder = guest.folder.path();
    let one = file(folder, "one", WAIT, "");
    let two = file(folder, "two", WAIT, "vif=['stream=/nowhere/at/all']");
    refused(
        cantle().arg("run").args([&one, &two]),
        "guest 'two': network interface socket /nowhere/at/all",
    );
    let twice = file(folder, "three", WAIT, "switch=['lan,aging=1']");
    refused(
        cantle()
            .args(["run", "--switch", "lan,aging=2"])
            .arg(&twice),
        "switch lan: described twice",
    );
}

#[test]
fn kvm_a_guest_that_crashes_exits_with_3() {
    let Some(guest) = Guest::new(CRASH) else {
        return;
    };
    let (code, _, err) = run(&mut guest.command());
    assert_eq!(code, Some(3), "{err}");
    assert!(err.starts_with("guest 't' crashed"), "{err}");
}

#[test]
fn kvm_signals_destroy_the_guest() {
    let Some(guest) = Guest::new(WAIT) else {
        return;
    };
    for (signal, number, name) in [
        (Signal::TERM, 15, "SIGTERM"),
        (Signal::INT, 2, "SIGINT"),
        (Signal::HUP, 1, "SIGHUP"),
    ] {
        let child = guest.command().spawn().unwrap();
        let pid = Pid::from_child(&child);
        // Its handlers are there when its vCPU is.
        let threads = PathBuf::from(format!("/proc/{}/task", child.id()));
        wait_until("the vCPU's thread", || {
            count_threads(&threads, "vcpu0") == 1
        });
        kill_process(pid, signal).unwrap();
        let output = finish(child);
        assert_eq!(output.status.code(), Some(128 + number));
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(err, format!("guest 't' destroyed by {name}\n"));
    }
}

fn count_threads(threads: &Path, name: &str) -> usize {
    let Ok(list) = fs::read_dir(threads) else {
        return 0;
    };
    list.flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok())
        .filter(|comm| comm.trim() == name)
        .count()
}

/// A new terminal: our end, and the program's.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    (ours.into(), theirs)
}

fn is_raw(modes: &Termios) -> bool {
    !modes
        .local_modes
        .intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

/// Runs a waiting guest on a terminal, ends it by `end`, and returns the exit code and what was printed.
fn on_terminal(end: impl FnOnce(&mut File, &Child)) -> Option<(Option<i32>, String)> {
    let guest = Guest::new(WAIT)?;
    let (mut ours, theirs) = terminal();
    let before = tcgetattr(&theirs).unwrap();
    assert!(!is_raw(&before));
    let mut command = guest.command();
    command
        .stdin(theirs.try_clone().unwrap())
        .stderr(theirs.try_clone().unwrap());
    let child = command.spawn().unwrap();
    drop(command);
    wait_until("raw mode", || is_raw(&tcgetattr(&theirs).unwrap()));
    end(&mut ours, &child);
    let code = finish(child).status.code();
    let after = tcgetattr(&theirs).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(
        (after.input_modes, after.output_modes),
        (before.input_modes, before.output_modes)
    );
    let mut printed = [0; 4096];
    let length = ours.read(&mut printed).unwrap();
    Some((
        code,
        String::from_utf8_lossy(&printed[..length]).into_owned(),
    ))
}

#[test]
fn kvm_ctrl_bracket_leaves_and_gives_the_terminal_back() {
    let Some((code, printed)) =
        on_terminal(|keyboard, _| keyboard.write_all(b"abc\x03\x1d").unwrap())
    else {
        return;
    };
    assert_eq!(code, Some(0));
    assert_eq!(printed, "guest 't' destroyed by Ctrl-]\r\n");
}

#[test]
fn kvm_a_signal_gives_the_terminal_back() {
    let Some((code, printed)) =
        on_terminal(|_, child| kill_process(Pid::from_child(child), Signal::TERM).unwrap())
    else {
        return;
    };
    assert_eq!(code, Some(143));
    assert_eq!(printed, "guest 't' destroyed by SIGTERM\r\n");
}

#[test]
fn kvm_input_beyond_what_the_guest_reads_does_not_hide_ctrl_bracket() {
    let Some((code, _)) = on_terminal(|keyboard, _| {
        for _ in 0..100 {
            keyboard.write_all(&[b'x'; 1000]).unwrap();
        }
        keyboard.write_all(b"\x1d").unwrap();
    }) else {
        return;
    };
    assert_eq!(code, Some(0));
}

#[test]
fn kvm_what_cannot_be_set_up_is_one_line_and_code_2() {
    let Some(guest) = Guest::new(WAIT) else {
        return;
    };
    fs::write(guest.path("short"), [0; 700]).unwrap();
    fs::write(guest.path("text"), "no kernel").unwrap();
    let mut plain = elf(WAIT);
    // Another type of note: no PVH entry any more.
    plain[64 + 2 * 56 + 8] = 17;
    fs::write(guest.path("plain"), plain).unwrap();
    let path = |name: &str| guest.path(name).display().to_string();
    for (arguments, word) in [
        (
            vec!["--disk".to_owned(), format!("path={}", path("nowhere"))],
            "nowhere",
        ),
        (
            vec!["--disk".to_owned(), format!("path={}", path("short"))],
            "short",
        ),
        (vec!["--memory".to_owned(), "1M".to_owned()], "memory"),
        (vec!["--vcpus".to_owned(), "17".to_owned()], "vCPUs"),
        (vec!["--initrd".to_owned(), path("nowhere")], "nowhere"),
        (
            vec!["--transport".to_owned(), "rewrite".to_owned()],
            "rewrite",
        ),
    ] {
        let mut command = cantle();
        command
            .arg("run")
            .arg("--kernel")
            .arg(guest.path("kernel"))
            .args(&arguments);
        refused(&mut command, word);
    }
    for (kernel, word) in [
        ("text", "kernel"),
        ("plain", "not a PVH kernel"),
        ("nowhere", "nowhere"),
    ] {
        refused(
            cantle().arg("run").arg("--kernel").arg(guest.path(kernel)),
            word,
        );
    }
    fs::write(guest.path("guest.cfg"), "name='a'\nvnc=1\nkernel='k'").unwrap();
    refused(
        cantle().arg("run").arg(guest.path("guest.cfg")),
        "guest.cfg:2: unknown key \"vnc\"",
    );
}

fn refused(command: &mut Command, word: &str) {
    let (code, out, err) = run(command);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{word}: {err}");
    assert!(
        err.starts_with("cantle: ") && err.contains(word),
        "{word}: {err}"
    );
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        &["run"][..],
        &["run", "--kernel", "k", "--memory", "lots"],
        &["fly"],
    ] {
        let (code, _, err) = run(cantle().args(arguments));
        assert_eq!(code, Some(2), "{err}");
    }
    let (code, out, _) = run(cantle().arg("--version"));
    assert_eq!(
        (code, out.trim()),
        (Some(0), concat!("cantle ", env!("CARGO_PKG_VERSION")))
    );
}
