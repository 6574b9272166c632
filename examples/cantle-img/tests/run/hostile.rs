//! Images that were made to do harm.

use std::time::{Duration, Instant};

use crate::tool::{Bench, Random, poke};

/// What any one command may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn damaged_images_are_refused_or_used_and_never_end_in_a_crash() {
    let bench = Bench::new();
    bench.raw("source.raw", 1, 24);
    let mut random = Random(25);
    for format in ["vhd", "qcow2", "vmdk"] {
        let (base, whole) = (format!("base.{format}"), format!("whole.{format}"));
        bench.ok(&["-q", "convert", "source.raw", &base]);
        match format {
            "vmdk" => drop(std::fs::copy(bench.path(&base), bench.path(&whole)).unwrap()),
            _ => drop(bench.ok(&["-q", "snapshot", &base, &whole])),
        }
        let bytes = std::fs::read(bench.path(&whole)).unwrap();
        let hostile = format!("hostile.{format}");
        for _ in 0..40 {
            std::fs::write(bench.path(&hostile), &bytes).unwrap();
            for _ in 0..1 + random.next() % 4 {
                // Headers are at the start, and hold what matters.
                let most = if random.next().is_multiple_of(2) {
                    1024
                } else {
                    bytes.len() as u64
                };
                let value = match random.next() % 3 {
                    0 => [0xff; 4],
                    1 => [0; 4],
                    _ => u32::try_from(random.next() >> 32).unwrap().to_be_bytes(),
                };
                poke(&bench.path(&hostile), random.next() % most, &value);
            }
            for args in [
                &["info", "-f", format, "--chain", &hostile][..],
                &["check", &hostile],
                &["map", &hostile],
                &["-q", "compare", &hostile, "source.raw"],
                &["check", "--repair=all", &hostile],
            ] {
                let begin = Instant::now();
                let (code, _, said) = bench.run(args);
                assert!((0..=3).contains(&code), "{args:?}: {code} {said}");
                assert!(begin.elapsed() < PATIENCE, "{args:?}");
            }
        }
    }
}

#[test]
fn a_huge_disk_in_a_small_file_costs_little() {
    let bench = Bench::new();
    bench.ok(&["create", "-o", "unit=2M", "huge.qcow2", "4096T"]);
    bench.ok(&["create", "other.qcow2", "512T"]);
    let begin = Instant::now();
    for args in [
        &["info", "huge.qcow2"][..],
        &["map", "huge.qcow2"],
        &["check", "huge.qcow2"],
        &["-q", "compare", "huge.qcow2", "other.qcow2"],
        &["-q", "convert", "-o", "unit=2M", "huge.qcow2", "copy.qcow2"],
    ] {
        bench.ok(args);
    }
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    // Here nothing of it has room, or the file system has no such files: an error.
    bench.fails(&["convert", "huge.qcow2", "copy.vhd"]);
    assert!(!bench.path("copy.vhd").exists());
}

#[test]
fn names_of_parents_that_mean_something_else_are_refused() {
    let bench = Bench::new();
    bench.ok(&["create", "base.qcow2", "1M"]);
    bench.ok(&["-q", "snapshot", "base.qcow2", "top.qcow2"]);
    let bytes = std::fs::read(bench.path("top.qcow2")).unwrap();
    let at = bytes
        .windows(10)
        .position(|part| part == b"base.qcow2")
        .unwrap();
    for name in [b"nbd:1.2.3.", b"/etc/passw", b"../../../a", b"json:{}   "] {
        poke(&bench.path("top.qcow2"), at as u64, name);
        for args in [
            &["map", "top.qcow2"][..],
            &["commit", "top.qcow2"],
            &["snapshot", "-l", "top.qcow2"],
        ] {
            let (code, _, said) = bench.run(args);
            assert_eq!(code, 1, "{said}");
        }
    }
}
