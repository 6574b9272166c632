//! `create`, `info`, `map`, `resize`, `changes`, locks.

use std::sync::Arc;

use cantle_disk::{ImageFormat, ImageLock, Parents, open_format};
use cantle_image::Format as _;
use cantle_layers::{ChangedBlocks, Granularity};
use serde_json::Value;

use crate::tool::{Bench, FORMATS, qemus};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_is_made_is_what_qemu_sees() {
    let bench = Bench::new();
    for format in FORMATS {
        let name = format!("disk.{format}");
        bench.ok(&["create", &name, "70M"]);
        let info = json(&bench.ok(&["info", "--json", &name]));
        assert_eq!(info["virtual-size"], 70 << 20);
        assert_eq!(info["format"], format);
        let args = [
            "qemu-img",
            "info",
            "--output=json",
            "-f",
            qemus(format),
            &name,
        ];
        if let Some(output) = bench.qemu(&args) {
            let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
            for key in ["virtual-size", "actual-size"] {
                assert_eq!(info[key], theirs[key], "{key} of {name}");
            }
        }
        assert!(
            bench
                .fails(&["create", &name, "1M"])
                .contains("it is there")
        );
        let shown = bench.ok(&["info", &name]);
        assert!(shown.contains("no guest's disk is opened for that reason"));
        assert!(shown.contains("70 MiB (73400320 bytes)"), "{shown}");
    }
    for name in ["disk.qcow2", "disk.vmdk"] {
        bench.qemu_ok(&["qemu-img", "check", name]);
    }
    bench.ok(&["create", "-f", "qcow2", "-b", "disk.qcow2", "child.img"]);
    let chain = json(&bench.ok(&["info", "--chain", "--json", "child.img"]));
    assert_eq!(chain[0]["backing-filename"], "disk.qcow2");
    assert_eq!(chain[1]["virtual-size"], 70 << 20);
    assert_eq!(chain.as_array().unwrap().len(), 2);
    bench.ok(&["create", "-b", "disk.vhd", "larger.vhd", "80M"]);
    let info = json(&bench.ok(&["info", "--json", "larger.vhd"]));
    assert_eq!(info["virtual-size"], 80 << 20);
}

#[test]
fn a_map_is_qemus() {
    let bench = Bench::new();
    bench.ok(&["create", "disk.qcow2", "8M"]);
    for at in [0, 1 << 20, (1 << 20) + (64 << 10), 5 << 20] {
        bench.write("disk.qcow2", at, &[1; 64 << 10]);
    }
    let data = |map: &Value| {
        let parts = map.as_array().unwrap().iter();
        let parts = parts.filter(|part| part["data"] == true && part["zero"] == false);
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for part in parts {
            let (start, len) = (
                part["start"].as_u64().unwrap(),
                part["length"].as_u64().unwrap(),
            );
            match ranges.last_mut() {
                Some((from, so_far)) if *from + *so_far == start => *so_far += len,
                _ => ranges.push((start, len)),
            }
        }
        ranges
    };
    let ours = json(&bench.ok(&["map", "--json", "disk.qcow2"]));
    assert_eq!(
        data(&ours),
        [(0, 65536), (1 << 20, 131_072), (5 << 20, 65536)]
    );
    if let Some(output) = bench.qemu(&["qemu-img", "map", "--output=json", "disk.qcow2"]) {
        let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(data(&ours), data(&theirs));
    }
    let lines = bench.ok(&["map", "disk.qcow2"]);
    assert!(lines.contains("0x100000"), "{lines}");
}

#[test]
fn disks_become_larger_and_never_smaller() {
    let bench = Bench::new();
    for format in ["raw", "vhd", "qcow2"] {
        let name = format!("disk.{format}");
        bench.ok(&["create", &name, "4M"]);
        bench.write(&name, 0, &[1; 512]);
        bench.ok(&["-q", "resize", &name, "+4M"]);
        bench.ok(&["-q", "resize", &name, "10M"]);
        let info = json(&bench.ok(&["info", "--json", &name]));
        assert_eq!(info["virtual-size"], 10 << 20);
        let args = [
            "qemu-img",
            "info",
            "--output=json",
            "-f",
            qemus(format),
            &name,
        ];
        if let Some(output) = bench.qemu(&args) {
            let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(theirs["virtual-size"], 10 << 20);
        }
        assert!(bench.fails(&["resize", &name, "9M"]).contains("smaller"));
        assert!(bench.fails(&["resize", &name, "+1"]).contains("512"));
        assert!(
            bench
                .fails(&["resize", &name, "+16383P"])
                .contains("cannot make")
        );
        assert_eq!(bench.contents(&name)[..512], [1; 512]);
    }
    bench.ok(&["create", "disk.vmdk", "4M"]);
    bench.fails(&["resize", "disk.vmdk", "+4M"]);
}

#[test]
fn what_has_changed_is_listed_and_the_list_not_touched() {
    let bench = Bench::new();
    bench.raw("disk.raw", 4, 12);
    let path = bench.path("disk.raw");
    let disk = open_format(&path, ImageFormat::Raw, false, &Parents::Refuse).unwrap();
    let list = bench.path("disk.changes");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&list)
        .unwrap();
    let changes = ChangedBlocks::create(
        disk,
        Box::new(Arc::new(file)),
        Granularity::new(65536).unwrap(),
    )
    .unwrap();
    let id = changes.generations()[0].id.to_string();
    changes.write(65536, &[1; 512]).unwrap();
    changes.write(3 << 20, &[1; 512]).unwrap();
    // While the disk is used, or after a crash, nobody knows.
    let before = std::fs::read(&list).unwrap();
    let all = json(&bench.ok(&["changes", "--json", "--since", &id, "disk.changes"]));
    assert_eq!(
        (&all["all"], &all["bytes"]),
        (&true.into(), &(4 << 20).into())
    );
    assert_eq!(std::fs::read(&list).unwrap(), before);
    drop(changes);
    let before = std::fs::read(&list).unwrap();
    let some = json(&bench.ok(&["changes", "--json", "--since", &id, "disk.changes"]));
    assert_eq!(some["all"], false);
    let expected = r#"[{"start": 65536, "length": 65536}, {"start": 3145728, "length": 65536}]"#;
    assert_eq!(some["extents"], json(expected));
    let lines = bench.ok(&["changes", "--since", &id, "disk.changes"]);
    assert!(lines.contains("0x300000           0x10000\n"), "{lines}");
    assert!(
        bench
            .ok(&["changes", "disk.changes"])
            .contains("131072 bytes")
    );
    assert_eq!(std::fs::read(&list).unwrap(), before);
    let unknown = id.replace(|c: char| c.is_ascii_digit(), "0");
    bench.fails(&["changes", "--since", &unknown, "disk.changes"]);
    assert!(bench.fails(&["changes", "disk.raw"]).contains("header"));
}

#[test]
fn images_in_use_are_left_alone() {
    let bench = Bench::new();
    for format in FORMATS {
        let name = format!("disk.{format}");
        bench.ok(&["create", &name, "1M"]);
        let lock = ImageLock::take(&bench.path(&name), false).unwrap().unwrap();
        let out = format!("{format}.raw");
        for args in [
            &["info", &name][..],
            &["convert", &name, &out],
            &["convert", "--overwrite", "disk.raw", &name],
            &["check", &name],
            &["map", &name],
            &["resize", &name, "2M"],
            &["snapshot", &name, "new.qcow2"],
        ] {
            if args[0] == "check" && format == "raw" {
                continue;
            }
            let said = bench.fails(args);
            assert!(said.contains("somebody else"), "{args:?}: {said}");
        }
        assert_eq!(bench.run(&["compare", &name, &name]).0, 2);
        for args in [
            &["info", "-U", &name][..],
            &["map", "-U", &name],
            &["-q", "compare", "-U", &name, &name],
        ] {
            bench.ok(args);
        }
        drop(lock);
        // Readers do not mind each other, and keep writers away.
        let lock = ImageLock::take(&bench.path(&name), true).unwrap().unwrap();
        bench.ok(&["-q", "convert", &name, &out]);
        bench.fails(&["resize", &name, "2M"]);
        drop(lock);
        std::fs::remove_file(bench.path(&out)).unwrap_or_default();
    }
    bench.ok(&["create", "base.qcow2", "1M"]);
    bench.ok(&["-q", "snapshot", "base.qcow2", "top.qcow2"]);
    let lock = ImageLock::take(&bench.path("base.qcow2"), true)
        .unwrap()
        .unwrap();
    assert!(
        bench
            .fails(&["commit", "top.qcow2"])
            .contains("somebody else")
    );
    drop(lock);
    bench.ok(&["-q", "commit", "top.qcow2"]);
}
