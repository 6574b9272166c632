//! Ends in the middle: kills, signals, full disks.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use crate::tool::{Bench, text};

/// Starts a command and sends it a signal when it is so many tenths through; its exit code, if it had one, and whether that was in time.
fn stop_at(bench: &Bench, args: &[&str], percent: u32, signal: &str) -> (Option<i32>, bool) {
    let mut child = bench
        .command(args)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(&format!("{percent} %")) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it has ended");
    }
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    let status = child.wait().unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    (status.code(), !rest.contains("100 %"))
}

#[test]
fn a_convert_that_is_killed_leaves_nothing_that_looks_like_an_image() {
    let bench = Bench::new();
    bench.raw("source.raw", 96, 18);
    let mut in_time = 0;
    for format in ["raw", "vhd", "qcow2", "vmdk"] {
        let name = format!("out.{format}");
        for percent in [10, 50, 80] {
            let (code, early) =
                stop_at(&bench, &["convert", "source.raw", &name], percent, "-KILL");
            if code.is_some() {
                // It was quicker.
                bench.ok(&["-q", "compare", "source.raw", &name]);
                std::fs::remove_file(bench.path(&name)).unwrap();
                continue;
            }
            in_time += u32::from(early);
            if bench.path(&name).exists() {
                bench.ok(&["-q", "compare", "source.raw", &name]);
                std::fs::remove_file(bench.path(&name)).unwrap();
            }
        }
        // What was left is in nobody's way.
        bench.ok(&["-q", "convert", "source.raw", &name]);
        bench.ok(&["-q", "compare", "source.raw", &name]);
        assert!(bench.names().iter().all(|name| !name.starts_with('.')));
        std::fs::remove_file(bench.path(&name)).unwrap();
    }
    assert!(in_time >= 6, "only {in_time} of 12 were in the middle");
}

#[test]
fn ctrl_c_removes_what_is_half_made() {
    let bench = Bench::new();
    bench.raw("source.raw", 96, 19);
    for (signal, expected) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let args = ["convert", "source.raw", "out.qcow2"];
        let (code, early) = stop_at(&bench, &args, 10, signal);
        assert!(early, "it should have stopped");
        assert_eq!(code, Some(expected));
        assert_eq!(bench.names(), ["source.raw"]);
    }
}

#[test]
fn a_commit_that_is_killed_can_be_done_again() {
    for format in ["vhd", "qcow2"] {
        let bench = Bench::new();
        let [base, top] = ["base", "top"].map(|name| format!("{name}.{format}"));
        bench.raw("base.raw", 64, 20);
        let bytes = bench.raw("top.raw", 64, 21);
        bench.ok(&["-q", "convert", "base.raw", &base]);
        bench.ok(&["-q", "convert", "-b", &base, "top.raw", &top]);
        let child = std::fs::read(bench.path(&top)).unwrap();
        for percent in [10, 40, 70] {
            let (_, early) = stop_at(&bench, &["commit", &top], percent, "-KILL");
            eprintln!("{format}: stopped at {percent} %, in time: {early}");
            assert!(bench.contents(&top) == bytes, "{format} at {percent} %");
            assert!(std::fs::read(bench.path(&top)).unwrap() == child);
            let (code, said, _) = bench.run(&["check", &base]);
            assert!(matches!(code, 0 | 3), "{said}");
            bench.contents(&base);
        }
        bench.ok(&["-q", "commit", &top]);
        assert!(bench.contents(&base) == bytes);
        assert!(matches!(bench.run(&["check", &base]).0, 0 | 3));
    }
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_nothing_is_left() {
    let bench = Bench::new();
    bench.raw("source.raw", 16, 22);
    for name in ["out.raw", "out.vhd", "out.qcow2", "out.vmdk"] {
        let output = Command::new("bash")
            .args([
                "-c",
                "ulimit -f 4096; exec \"$0\" -q convert source.raw \"$1\"",
            ])
            .args([env!("CARGO_BIN_EXE_cantle-img"), name])
            .current_dir(bench.path(""))
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("File too large"), "{said}");
        assert_eq!(bench.names(), ["source.raw"]);
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_left() {
    let bench = Bench::new();
    bench.raw("source.raw", 16, 23);
    std::fs::create_dir(bench.path("small")).unwrap();
    let script = "mount -t tmpfs -o size=3m none small || exit 77
        for f in raw vhd qcow2 vmdk; do
            \"$0\" -q convert source.raw small/out.$f 2>>said; echo $? $(ls -A small)
        done
        \"$0\" -q create -o preallocate small/out.raw 16M 2>>said; echo $? $(ls -A small)";
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_cantle-img")])
        .current_dir(bench.path(""))
        .output();
    let Ok(output) = output else {
        return eprintln!("NOT TESTED: unshare is missing");
    };
    if output.status.code() == Some(77) || text(&output.stderr).contains("unshare") {
        return eprintln!("NOT TESTED: {}", text(&output.stderr));
    }
    assert_eq!(text(&output.stdout), "1\n1\n1\n1\n1\n", "{output:?}");
    let said = std::fs::read_to_string(bench.path("said")).unwrap();
    let failed = said
        .lines()
        .filter(|line| line.starts_with("cantle-img: cannot"));
    let full = failed.filter(|line| line.contains("No space left on device"));
    assert_eq!(full.count(), 5, "{said}");
    assert!(!said.contains(".cantle-img"), "{said}");
}
