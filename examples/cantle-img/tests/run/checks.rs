//! `check` on images that are damaged.

use crate::tool::{Bench, peek, poke};

/// Where the counts of a small qcow2 image are: in the one block that there is.
fn counts(bench: &Bench, name: &str) -> u64 {
    let table = u64::from_be_bytes(peek(&bench.path(name), 48));
    u64::from_be_bytes(peek(&bench.path(name), table))
}

fn agrees_with_qemu(bench: &Bench, name: &str, code: i32) {
    let (ours, said, _) = bench.run(&["check", name]);
    assert_eq!(ours, code, "{said}");
    if let Some(output) = bench.qemu(&["qemu-img", "check", name]) {
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

#[test]
fn lost_clusters_are_seen_and_given_back() {
    let bench = Bench::new();
    bench.raw("source.raw", 4, 13);
    bench.ok(&["-q", "convert", "source.raw", "a.qcow2"]);
    agrees_with_qemu(&bench, "a.qcow2", 0);
    let len = bench.path("a.qcow2").metadata().unwrap().len();
    let file = std::fs::File::options()
        .write(true)
        .open(bench.path("a.qcow2"));
    file.unwrap().set_len(len + 65536).unwrap();
    poke(
        &bench.path("a.qcow2"),
        counts(&bench, "a.qcow2") + len / 65536 * 2,
        &[0, 1],
    );
    agrees_with_qemu(&bench, "a.qcow2", 3);
    let (code, said, _) = bench.run(&["check", "--repair=leaks", "a.qcow2"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 clusters of lost space"), "{said}");
    agrees_with_qemu(&bench, "a.qcow2", 0);
    bench.ok(&["-q", "compare", "source.raw", "a.qcow2"]);
}

#[test]
fn wrong_counts_are_seen_and_repaired_where_all_is_to_be() {
    let bench = Bench::new();
    bench.raw("source.raw", 4, 14);
    bench.ok(&["-q", "convert", "source.raw", "a.qcow2"]);
    let l1 = u64::from_be_bytes(peek(&bench.path("a.qcow2"), 40));
    let l2 = u64::from_be_bytes(peek(&bench.path("a.qcow2"), l1)) & 0x00ff_ffff_ffff_fe00;
    poke(
        &bench.path("a.qcow2"),
        counts(&bench, "a.qcow2") + l2 / 65536 * 2,
        &[0, 0],
    );
    agrees_with_qemu(&bench, "a.qcow2", 2);
    let (code, said, _) = bench.run(&["check", "--repair=leaks", "a.qcow2"]);
    assert_eq!(code, 2);
    assert!(said.contains("Nothing was repaired"), "{said}");
    let (code, said, _) = bench.run(&["check", "--json", "--repair=all", "a.qcow2"]);
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&report["corruptions"], &report["corruptions-fixed"]),
        (&0.into(), &1.into())
    );
    agrees_with_qemu(&bench, "a.qcow2", 0);
    bench.ok(&["-q", "compare", "source.raw", "a.qcow2"]);
}

#[test]
fn a_vmdk_that_is_cut_off_is_seen_by_both() {
    let bench = Bench::new();
    bench.raw("source.raw", 4, 15);
    bench.ok(&["-q", "convert", "source.raw", "a.vmdk"]);
    agrees_with_qemu(&bench, "a.vmdk", 0);
    let file = std::fs::File::options()
        .write(true)
        .open(bench.path("a.vmdk"));
    let file = file.unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len - (512 << 10)).unwrap();
    drop(file);
    assert_eq!(bench.run(&["check", "a.vmdk"]).0, 2);
    if let Some(output) = bench.qemu(&["qemu-img", "check", "a.vmdk"]) {
        // It ends at the first one, as with an error of its own.
        assert!(!output.status.success(), "{output:?}");
    }
    assert_eq!(bench.run(&["check", "--repair", "a.vmdk"]).0, 0);
    agrees_with_qemu(&bench, "a.vmdk", 0);
}

#[test]
fn a_vhd_gets_its_footer_back_and_loses_blocks_that_are_nowhere() {
    let bench = Bench::new();
    bench.raw("source.raw", 8, 16);
    bench.ok(&["-q", "convert", "source.raw", "a.vhd"]);
    assert_eq!(bench.run(&["check", "a.vhd"]).0, 0);
    let len = bench.path("a.vhd").metadata().unwrap().len();
    poke(&bench.path("a.vhd"), len - 512, &[0; 512]);
    let (code, said, _) = bench.run(&["check", "a.vhd"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("footer"), "{said}");
    assert_eq!(bench.run(&["check", "--repair=all", "a.vhd"]).0, 0);
    bench.ok(&["-q", "compare", "source.raw", "a.vhd"]);
    bench.qemu_ok(&[
        "qemu-img",
        "compare",
        "-f",
        "raw",
        "-F",
        "vpc",
        "source.raw",
        "a.vhd",
    ]);
    // The table is behind footer and header.
    poke(&bench.path("a.vhd"), 1536, &[0x7f, 0, 0, 0]);
    let (code, said, _) = bench.run(&["check", "a.vhd"]);
    assert_eq!(code, 2);
    assert!(said.contains("block 0 is beyond"), "{said}");
    let (code, said, _) = bench.run(&["check", "--repair=all", "a.vhd"]);
    // Its place is lost space then, in the middle of the file.
    assert!(matches!(code, 0 | 3), "{said}");
}

#[test]
fn what_cannot_be_checked_is_told_apart() {
    let bench = Bench::new();
    bench.raw("a.raw", 1, 17);
    assert_eq!(bench.run(&["check", "a.raw"]).0, 63);
    assert_eq!(bench.run(&["check", "missing.qcow2"]).0, 1);
    assert_eq!(bench.run(&["check", "--nonsense"]).0, 1);
    std::fs::write(bench.path("nonsense.qcow2"), [7; 70_000]).unwrap();
    bench.fails(&["check", "nonsense.qcow2"]);
}
