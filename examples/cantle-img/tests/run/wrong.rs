//! Wrong usage, and files that are no images.

use crate::tool::Bench;

#[test]
fn wrong_words_are_exit_code_1_and_help_is_0() {
    let bench = Bench::new();
    for args in [
        &["nonsense"][..],
        &["create"],
        &["create", "a.raw", "1X"],
        &["create", "-f", "vhdx", "a.raw", "1M"],
        &["convert", "a"],
        &["convert", "-n", "-b", "x", "a", "b"],
        &["check", "--repair=some", "a"],
        &["snapshot", "a"],
        &["changes", "--since", "x", "a"],
        &["resize", "a"],
        &["--parents", "some", "map", "a"],
    ] {
        let (code, out, err) = bench.run(args);
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}");
        assert!(err.contains("error:") || err.contains("Usage"), "{err}");
    }
    let help = bench.ok(&["--help"]);
    for wanted in ["Examples:", "Exit codes:", "63", "130"] {
        assert!(help.contains(wanted), "{wanted}");
    }
    for command in [
        "create", "info", "convert", "check", "commit", "snapshot", "compare", "map",
    ] {
        bench.ok(&[command, "--help"]);
    }
}

#[test]
fn what_is_no_image_is_said() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("folder")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(bench.path("pipe"))
        .status();
    assert!(made.unwrap().success());
    std::fs::write(bench.path("empty.raw"), "").unwrap();
    std::fs::write(bench.path("odd.raw"), [1; 700]).unwrap();
    bench.ok(&["create", "good.raw", "1M"]);
    for (name, why) in [
        ("missing", "No such file"),
        ("folder", "directory"),
        ("pipe", "neither a file nor a block device"),
        ("/dev/null", "neither a file nor a block device"),
        ("empty.raw", ""),
        ("odd.raw", ""),
    ] {
        for args in [
            &["info", name][..],
            &["convert", name, "out.raw"],
            &["convert", "-n", "good.raw", name],
            &["map", name],
            &["resize", name, "2M"],
            &["snapshot", name, "out.qcow2"],
            &["commit", "-f", "qcow2", name],
            &["check", "-f", "qcow2", name],
            &["create", "-b", name, "out.qcow2"],
            &["changes", name],
        ] {
            let said = bench.fails(args);
            assert!(said.contains(why), "{args:?}: {said}");
        }
    }
    for (target, why) in [
        ("folder", "directory"),
        ("missing/out.raw", "missing"),
        ("/dev/null", "-n"),
        ("pipe", "-n"),
        ("..", "no file's name"),
    ] {
        let said = bench.fails(&["convert", "good.raw", target]);
        assert!(said.contains(why), "{target}: {said}");
    }
    assert_eq!(
        bench.names(),
        ["empty.raw", "folder", "good.raw", "odd.raw", "pipe"]
    );
}

#[test]
fn combinations_that_cannot_be_are_said() {
    let bench = Bench::new();
    bench.ok(&["create", "a.raw", "1M"]);
    bench.ok(&["create", "a.vhd", "1M"]);
    bench.ok(&["create", "a.vmdk", "1M"]);
    bench.ok(&["create", "a.qcow2", "1M"]);
    for args in [
        &["create", "b.raw"][..],
        &["create", "b.raw", "0"],
        &["create", "b.raw", "1000"],
        &["create", "-b", "a.raw", "b.raw"],
        &["create", "-b", "a.raw", "b.vmdk"],
        &["create", "-b", "a.vhd", "b.qcow2"],
        &["create", "-b", "a.vmdk", "b.vhd"],
        &["create", "-b", "a.qcow2", "--overwrite", "a.qcow2"],
        &["create", "-o", "unit=1000", "b.qcow2", "1M"],
        &["create", "-o", "nonsense", "b.qcow2", "1M"],
        &["create", "-o", "unit=4K", "b.raw", "1M"],
        &["snapshot", "a.vmdk", "b.vmdk"],
        &["snapshot", "a.raw", "b.raw"],
        &["snapshot", "a.qcow2", "a.qcow2"],
        &["commit", "a.raw"],
        &["commit", "a.vmdk"],
        &["convert", "-S", "1000", "a.raw", "b.raw"],
        &["convert", "--overwrite", "a.raw", "a.raw"],
        &["convert", "-n", "a.raw", "a.raw"],
    ] {
        bench.fails(args);
    }
    let names = bench.names();
    assert_eq!(names, ["a.qcow2", "a.raw", "a.vhd", "a.vmdk"]);
}
