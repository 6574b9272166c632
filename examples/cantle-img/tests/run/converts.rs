//! `convert` and `compare`.

use crate::tool::{Bench, FORMATS, qemus, text};

#[test]
fn every_format_to_every_format_and_qemu_sees_the_same() {
    let bench = Bench::new();
    let bytes = bench.raw("source.raw", 12, 1);
    for from in FORMATS {
        let made = format!("qemu.{from}");
        let mut args = vec!["qemu-img", "convert", "-f", "raw", "-O", qemus(from)];
        if from == "vhd" {
            // Else the size is one that cylinders, heads and sectors can say.
            args.extend(["-o", "force_size=on"]);
        }
        args.extend(["source.raw", &made]);
        if !bench.qemu_ok(&args) {
            // At least our own.
            bench.ok(&["convert", "source.raw", &made]);
        }
        for to in FORMATS {
            let ours = format!("{from}-to.{to}");
            bench.ok(&["-q", "convert", &made, &ours]);
            assert_eq!(bench.contents(&ours), bytes, "{ours}");
            let said = bench.ok(&["-q", "compare", &made, &ours]);
            assert_eq!(said, "Images are identical.\n");
            let compare = [
                "qemu-img",
                "compare",
                "-f",
                "raw",
                "-F",
                qemus(to),
                "source.raw",
                &ours,
            ];
            bench.qemu_ok(&compare);
            let back = format!("{from}-{to}.back");
            if bench.qemu_ok(&[
                "qemu-img",
                "convert",
                "-f",
                qemus(to),
                "-O",
                "raw",
                &ours,
                &back,
            ]) {
                assert_eq!(std::fs::read(bench.path(&back)).unwrap(), bytes, "{back}");
            }
        }
    }
    assert!(bench.names().iter().all(|name| !name.starts_with('.')));
}

#[test]
fn options_are_heeded() {
    let bench = Bench::new();
    let bytes = bench.raw("source.raw", 4, 2);
    for (name, options) in [
        ("fixed.vhd", "preallocate"),
        ("flat.vmdk", "preallocate"),
        ("small.qcow2", "unit=4K"),
        ("meta.qcow2", "preallocate,unit=128K"),
        ("full.raw", "preallocate"),
        ("small.vhd", "unit=512K"),
        ("small.vmdk", "unit=4K"),
    ] {
        bench.ok(&["-q", "convert", "-o", options, "source.raw", name]);
        assert_eq!(bench.contents(name), bytes, "{name}");
        let format = name.rsplit('.').next().unwrap();
        let compare = [
            "qemu-img",
            "compare",
            "-f",
            "raw",
            "-F",
            qemus(format),
            "source.raw",
            name,
        ];
        bench.qemu_ok(&compare);
    }
    let info = bench.ok(&["info", "--json", "small.qcow2"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["cluster-size"], 4096);
    let info = bench.ok(&["info", "fixed.vhd"]);
    assert!(info.contains("fixed"), "{info}");
    bench.ok(&["-q", "convert", "-S", "0", "source.raw", "dense.raw"]);
    use std::os::unix::fs::MetadataExt as _;
    let blocks = |name: &str| bench.path(name).metadata().unwrap().blocks() * 512;
    assert_eq!(blocks("dense.raw"), 4 << 20);
    assert!(bench.contents("dense.raw") == bytes);
    bench.ok(&["-q", "convert", "dense.raw", "sparse.raw"]);
    assert!(blocks("sparse.raw") < 3 << 20, "zeroes become holes again");
}

#[test]
fn what_is_there_is_written_over_where_that_is_wanted_only() {
    let bench = Bench::new();
    let bytes = bench.raw("source.raw", 4, 3);
    for to in FORMATS {
        let name = format!("there.{to}");
        let old = bench.raw("old.raw", 6, 4);
        bench.ok(&["-q", "convert", "old.raw", &name]);
        let said = bench.fails(&["convert", "source.raw", &name]);
        assert!(said.contains("--overwrite"), "{said}");
        bench.ok(&["-q", "convert", "-n", "source.raw", &name]);
        let now = bench.contents(&name);
        assert_eq!(now[..4 << 20], bytes, "zeroes too: {name}");
        assert_eq!(now[4 << 20..], old[4 << 20..], "what is behind stays");
        bench.ok(&["-q", "convert", "--overwrite", "source.raw", &name]);
        assert_eq!(bench.contents(&name), bytes);
    }
    bench.ok(&["create", "small.qcow2", "1M"]);
    let said = bench.fails(&["convert", "-n", "source.raw", "small.qcow2"]);
    assert!(said.contains("1048576"), "{said}");
}

#[test]
fn over_a_parent_only_what_differs_is_written() {
    let bench = Bench::new();
    let mut bytes = bench.raw("base.raw", 4, 5);
    for format in ["vhd", "qcow2"] {
        let (base, child) = (format!("base.{format}"), format!("child.{format}"));
        bench.ok(&["-q", "convert", "base.raw", &base]);
        bytes[1 << 20..(1 << 20) + 4096].fill(9);
        bytes[2 << 20..3 << 20].fill(0);
        std::fs::write(bench.path("changed.raw"), &bytes).unwrap();
        bench.ok(&["-q", "convert", "-b", &base, "changed.raw", &child]);
        assert_eq!(bench.contents(&child), bytes);
        let info = bench.ok(&["info", "--json", &child]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert!(info["actual-size"].as_u64().unwrap() < 2 << 20, "{info}");
    }
    let compare = [
        "qemu-img",
        "compare",
        "-F",
        "qcow2",
        "changed.raw",
        "child.qcow2",
    ];
    bench.qemu_ok(&compare);
}

#[test]
fn a_difference_is_found_where_qemu_finds_it() {
    let bench = Bench::new();
    bench.raw("a.raw", 4, 6);
    for format in FORMATS {
        let name = format!("b.{format}");
        bench.ok(&["-q", "convert", "a.raw", &name]);
        let at = 3_000_000 / 512 * 512_u64;
        bench.write(&name, at, &[0xa5; 512]);
        let (code, said, _) = bench.run(&["-q", "compare", "a.raw", &name]);
        assert_eq!(
            (code, said.as_str()),
            (1, &*format!("Content mismatch at offset {at}!\n"))
        );
        let compare = [
            "qemu-img",
            "compare",
            "-f",
            "raw",
            "-F",
            qemus(format),
            "a.raw",
            &name,
        ];
        if let Some(output) = bench.qemu(&compare) {
            assert_eq!(output.status.code(), Some(1));
            // Where its piece begins.
            assert!(text(&output.stdout).contains("mismatch"));
        }
        std::fs::remove_file(bench.path(&name)).unwrap();
    }
    bench.ok(&["-q", "convert", "a.raw", "larger.raw"]);
    bench.ok(&["-q", "resize", "larger.raw", "+1M"]);
    let said = bench.ok(&["-q", "compare", "a.raw", "larger.raw"]);
    assert!(said.ends_with("Images are identical.\n"), "{said}");
    assert_eq!(
        bench.run(&["compare", "--strict", "a.raw", "larger.raw"]).0,
        1
    );
    bench.write("larger.raw", 4 << 20, &[1; 512]);
    assert_eq!(bench.run(&["compare", "a.raw", "larger.raw"]).0, 1);
    assert_eq!(bench.run(&["compare", "a.raw", "missing"]).0, 2);
    assert_eq!(
        bench.run(&["compare", "a.raw"]).0,
        2,
        "wrong usage is no difference"
    );
}
