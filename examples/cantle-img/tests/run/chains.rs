//! `snapshot`, `commit` and whose parents are opened.

use crate::tool::{Bench, qemus};

/// A chain of three, and what the top reads as.
fn chain(bench: &Bench, format: &str) -> Vec<u8> {
    let mut bytes = bench.raw("base.raw", 4, 7);
    let names = ["base", "middle", "top"].map(|name| format!("{name}.{format}"));
    let [base, middle, top] = &names;
    bench.ok(&["-q", "convert", "base.raw", base]);
    bench.ok(&["-q", "snapshot", base, middle]);
    for (name, at, value) in [(middle, 1_usize << 20, 1), (top, 3 << 20, 2), (top, 512, 0)] {
        if !bench.path(top).exists() && name == top {
            bench.ok(&["-q", "snapshot", middle, top]);
        }
        let data = vec![value; 66_048];
        bench.write(name, at as u64, &data);
        bytes[at..at + data.len()].copy_from_slice(&data);
    }
    assert_eq!(bench.contents(top), bytes);
    bytes
}

#[test]
fn a_chain_is_listed_read_and_committed() {
    for format in ["vhd", "qcow2"] {
        let bench = Bench::new();
        let mut bytes = chain(&bench, format);
        let [base, middle, top] = ["base", "middle", "top"].map(|name| format!("{name}.{format}"));
        let listed = bench.ok(&["snapshot", "--list", &top]);
        let listed: Vec<_> = listed.lines().collect();
        assert_eq!(listed.len(), 3);
        assert!(listed[2].ends_with(&base), "{listed:?}");
        let qemu_reads = |name: &str, expected: &[u8]| {
            // QEMU knows no differencing VHDs.
            let args = [
                "qemu-img", "convert", "-f", "qcow2", "-O", "raw", name, "out.raw",
            ];
            if format == "qcow2" && bench.qemu_ok(&args) {
                assert_eq!(std::fs::read(bench.path("out.raw")).unwrap(), expected);
            }
        };
        qemu_reads(&top, &bytes);
        if format == "qcow2" {
            // Zeroes of its own, which nothing else says.
            let args = ["qemu-io", "-f", "qcow2", "-c", "write -z 2M 256K", &top];
            if bench.qemu_ok(&args) {
                bytes[2 << 20..(2 << 20) + (256 << 10)].fill(0);
            }
        }
        let before = std::fs::read(bench.path(&base)).unwrap();
        let said = bench.run(&["--no-progress", "commit", &top]);
        assert_eq!(said.0, 0, "{said:?}");
        assert!(said.2.contains("has it all now"), "{said:?}");
        for name in [&top, &middle] {
            assert_eq!(bench.contents(name), bytes, "{name}");
            qemu_reads(name, &bytes);
        }
        assert_eq!(
            std::fs::read(bench.path(&base)).unwrap(),
            before,
            "only the parent"
        );
        std::fs::remove_file(bench.path(&top)).unwrap();
        bench.ok(&["-q", "resize", &middle, "6M"]);
        bench.write(&middle, 5 << 20, &[7; 512]);
        bytes.resize(6 << 20, 0);
        bytes[5 << 20..(5 << 20) + 512].fill(7);
        bench.ok(&["-q", "commit", &middle]);
        std::fs::remove_file(bench.path(&middle)).unwrap();
        assert_eq!(bench.contents(&base), bytes, "larger, too");
        assert_eq!(bench.run(&["check", &base]).0, 0);
        std::fs::write(bench.path("expected.raw"), &bytes).unwrap();
        let compare = [
            "qemu-img",
            "compare",
            "-F",
            qemus(format),
            "expected.raw",
            &base,
        ];
        bench.qemu_ok(&compare);
        let said = bench.fails(&["commit", &base]);
        assert!(said.contains("no parent"), "{said}");
    }
}

#[test]
fn raw_parents_are_snapshot_and_committed_to() {
    for format in ["vhd", "qcow2"] {
        let bench = Bench::new();
        let mut bytes = bench.raw("base.raw", 4, 8);
        let top = format!("top.{format}");
        bench.ok(&["-q", "snapshot", "base.raw", &top]);
        bench.write(&top, 0, &[0; 1 << 20]);
        bench.write(&top, 2 << 20, &[3; 512]);
        bytes[..1 << 20].fill(0);
        bytes[2 << 20..(2 << 20) + 512].fill(3);
        bench.ok(&["-q", "commit", &top]);
        assert_eq!(bench.contents("base.raw"), bytes);
        assert_eq!(bench.contents(&top), bytes);
    }
}

#[test]
fn commit_reads_what_qemu_made_and_as_qemu_does() {
    let bench = Bench::new();
    bench.raw("base.raw", 4, 9);
    bench.ok(&["-q", "convert", "base.raw", "base.qcow2"]);
    let create = [
        "qemu-img",
        "create",
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        "top.qcow2",
    ];
    let write = [
        "qemu-io",
        "-c",
        "write -P 5 100K 300K",
        "-c",
        "write -z 1M 200K",
        "top.qcow2",
    ];
    if !bench.qemu_ok(&create) || !bench.qemu_ok(&write) {
        return;
    }
    bench.qemu_ok(&[
        "qemu-img",
        "convert",
        "-O",
        "raw",
        "top.qcow2",
        "expected.raw",
    ]);
    bench.ok(&["-q", "commit", "top.qcow2"]);
    bench.qemu_ok(&["qemu-img", "compare", "expected.raw", "base.qcow2"]);
    bench.qemu_ok(&["qemu-img", "check", "base.qcow2"]);
}

#[test]
fn parents_elsewhere_are_opened_only_where_that_is_said() {
    for format in ["vhd", "qcow2"] {
        let bench = Bench::new();
        std::fs::create_dir(bench.path("tenant")).unwrap();
        let bytes = bench.raw("secret.raw", 1, 10);
        let child = format!("tenant/child.{format}");
        let make = ["create", "-b", "secret.raw", &child];
        bench.ok(&make);
        let out = "tenant/out.raw";
        let said = bench.fails(&["convert", &child, out]);
        assert!(said.contains("outside"), "{said}");
        assert!(bench.fails(&["commit", &child]).contains("outside"));
        assert!(
            bench
                .fails(&["--parents", "refuse", "map", &child])
                .contains("no parents")
        );
        assert!(!bench.path(out).exists());
        // What an image says of itself needs no parent.
        assert!(bench.ok(&["info", &child]).contains("secret.raw"));
        bench.ok(&["--parents", "any", "-q", "convert", &child, out]);
        assert_eq!(bench.contents(out), bytes);
    }
}

#[test]
fn a_raw_disk_stays_raw_whatever_its_guest_has_written() {
    let bench = Bench::new();
    bench.raw("secret.raw", 1, 11);
    bench.ok(&["create", "-b", "secret.raw", "evil.qcow2"]);
    let mut guest = std::fs::read(bench.path("evil.qcow2")).unwrap();
    guest.resize(1 << 20, 0);
    std::fs::write(bench.path("guest.raw"), &guest).unwrap();
    let (code, _, said) = bench.run(&["convert", "guest.raw", "copy.vhd"]);
    assert_eq!(code, 0);
    assert!(
        said.contains("looks like qcow2, and is used as raw"),
        "{said}"
    );
    assert_eq!(bench.contents("copy.vhd"), guest);
}

#[test]
fn an_image_below_itself_ends() {
    let bench = Bench::new();
    bench.ok(&["create", "a.qcow2", "1M"]);
    bench.ok(&["-q", "snapshot", "a.qcow2", "b.qcow2"]);
    std::fs::remove_file(bench.path("a.qcow2")).unwrap();
    std::fs::rename(bench.path("b.qcow2"), bench.path("a.qcow2")).unwrap();
    let said = bench.fails(&["commit", "a.qcow2"]);
    assert!(said.contains("itself"), "{said}");
    assert!(
        bench
            .fails(&["info", "--chain", "a.qcow2"])
            .contains("itself")
    );
}
