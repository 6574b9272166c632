//! The same guest reads the same disk on the same host twice: from us, and from QEMU's xen-block. A report, which fails nobody.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::format::Format;
use super::said::{End, Said};
use super::stage::{self, DISK, IMAGES, LAB_MEMORY};
use super::volume::Volume;
use crate::demo::{DemoArgs, Host, say};
use crate::images::{self, Debian, Guest, Tools};
use crate::interrupt::Scratch;
use crate::lab::{self, Lab, Setup};
use crate::{guests, machine, programs, workspace};

/// How often each is measured, by turns; the better counts, since what disturbs only slows down.
const ROUNDS: u32 = 2;

/// What is measured: the guest's name for it, which of its two numbers counts, and what ours is divided by.
const ROWS: [(&str, usize, f64, &str); 2] = [
    // Operations a second.
    ("randread_4k_qd32", 1, 1000.0, "kIOPS"),
    // KiB a second.
    ("read_1m", 0, 1_000_000.0 / 1024.0, "MBps"),
];

/// Who serves the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum With {
    Cantle,
    Qemu,
}

impl With {
    fn name(self) -> &'static str {
        match self {
            Self::Cantle => "cantle",
            Self::Qemu => "qemu",
        }
    }
}

/// A line for each format.
pub(in crate::demo) fn on(
    host: Option<Host>,
    guest: Guest,
    args: &DemoArgs,
    formats: &[Format],
) -> Result<Vec<Result<String>>> {
    ensure!(
        host.is_none_or(|host| host == Host::Debian13),
        "QEMU's Xen guests need a kernel with KVM's Xen support: --host debian13"
    );
    machine::for_storage()?;
    if !args.no_build {
        guests::build()?;
        programs::build()?;
    }
    for tools in [Tools::Storage, Tools::Emulator] {
        images::tools(guest, tools)?;
    }
    let scratch = Scratch::new("peer")?;
    let volume = volume(scratch.path(), formats)?;
    let mut lab = Some(booted(&volume)?);
    let mut lines = Vec::new();
    for format in formats {
        let mut best = [[0.0_f64; 2]; 2];
        for _ in 0..ROUNDS {
            for (with, best) in [With::Cantle, With::Qemu].into_iter().zip(&mut best) {
                // One that is not free is ended before another begins: they share the disk.
                let running = match lab.take().filter(Lab::is_free) {
                    Some(lab) => lab,
                    None => booted(&volume)?,
                };
                match measured(lab.insert(running), guest, args, *format, with) {
                    Ok(rates) => {
                        for (best, rate) in best.iter_mut().zip(rates) {
                            *best = best.max(rate);
                        }
                    }
                    Err(error) => say(&format!(
                        "{} by {}: no figure: {error:#}",
                        format.name(),
                        with.name()
                    )),
                }
            }
        }
        lines.push(Ok(line(guest, *format, best)));
    }
    lab.map_or(Ok(()), Lab::off)?;
    Ok(lines)
}

/// An image of each format, with the same random bytes in each.
fn volume(folder: &Path, formats: &[Format]) -> Result<Volume> {
    let content = folder.join("content");
    workspace::make(&content)?;
    let random = folder.join("random");
    let mut source = File::open("/dev/urandom")?.take(DISK);
    io::copy(&mut source, &mut File::create(&random)?).context("cannot make random bytes")?;
    for format in formats {
        format.fill(&content.join(file(*format)), &random)?;
    }
    let size = DISK * (formats.len() as u64 * 2 + 2);
    let volume = Volume::make(folder.join("volume"), size, &content)?;
    fs::remove_dir_all(&content)?;
    Ok(volume)
}

fn file(format: Format) -> String {
    format!("bench.{}", format.name())
}

fn booted(volume: &Volume) -> Result<Lab> {
    let mut found = programs::built();
    found.extend(stage::programs_for_guest());
    Lab::boot(&Setup {
        host: Debian::Debian13,
        memory: LAB_MEMORY,
        cpus: 2,
        disks: &[volume.image().to_owned()],
        programs: &found,
    })
}

/// One boot: the rates of each row, in its unit.
fn measured(
    lab: &mut Lab,
    guest: Guest,
    args: &DemoArgs,
    format: Format,
    with: With,
) -> Result<[f64; 2]> {
    let script = script(guest, args, format, with)?;
    let mut said = Said::default();
    let name = format!("{} by {}", format.name(), with.name());
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let code = lab.run(&script, Some(deadline), &mut |_, bytes| {
        for line in said.push(bytes) {
            say(&format!("{name}  {line}"));
        }
        Ok(())
    })?;
    ensure!(code.is_some(), "no end after {} s", args.timeout);
    said.judge(End::Off)?;
    let mut rates = [0.0; 2];
    for (rate, (row, column, divisor, _)) in rates.iter_mut().zip(ROWS) {
        let value = said.value(row)?;
        let number: f64 = value
            .split(' ')
            .nth(column)
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("the guest's {row} is {value:?}"))?;
        *rate = number / divisor;
    }
    Ok(rates)
}

fn script(guest: Guest, args: &DemoArgs, format: Format, with: With) -> Result<String> {
    let asset = workspace::asset("peer-host.sh");
    let body =
        fs::read_to_string(&asset).with_context(|| format!("cannot read {}", asset.display()))?;
    let images = format!("/guests/{}", guest.name());
    let tools = |tools: Tools| format!("{images}/{}.cpio", tools.name());
    let image = format!("/tmp/images/{}", file(format));
    let disk = match with {
        With::Cantle => stage::disk(&image, format, "xvda", args),
        With::Qemu => format!(
            "file={image},if=xen,format={},cache=none",
            format.qemus_name()
        ),
    };
    Ok(lab::assigned(&[
        ("BUSYBOX", "busybox"),
        ("CANTLE", "cantle"),
        ("KERNEL", &format!("{images}/vmlinuz")),
        ("INITRD", &format!("{images}/initrd")),
        ("TOOLS", &tools(Tools::Storage)),
        ("PROGRAMS", &lab::paths(&stage::programs_for_guest())),
        ("EMULATOR", &tools(Tools::Emulator)),
        ("VOLUME", "/dev/vda"),
        ("IMAGES", IMAGES),
        ("WITH", with.name()),
        ("DISK", &disk),
        (
            "CMDLINE",
            &format!("storage=bench storage.bench=xvda {}", args.cmdline),
        ),
    ]) + &body)
}

/// Both figures of each row, and ours as so many of the peer's.
fn line(guest: Guest, format: Format, [ours, peers]: [[f64; 2]; 2]) -> String {
    let figure = |rate: f64| match rate {
        0.0 => Value::Null,
        rate => json!((rate * 10.0).round() / 10.0),
    };
    let mut line = json!({
        "demo": "peer",
        "host": Host::Debian13.name(),
        "guest": guest.name(),
        "format": format.name(),
    });
    for ((ours, peers), (row, _, _, unit)) in ours.into_iter().zip(peers).zip(ROWS) {
        let ratio = match peers {
            0.0 => Value::Null,
            peers => json!((ours / peers * 100.0).round() / 100.0),
        };
        if let Some(line) = line.as_object_mut() {
            let figures = json!({"unit": unit, "cantle": figure(ours), "qemu": figure(peers), "ratio": ratio});
            line.insert(row.to_owned(), figures);
        }
    }
    line.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_without_a_figure_has_none() {
        let line = line(Guest::Debian13, Format::Raw, [[20.0, 300.0], [10.0, 0.0]]);
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["randread_4k_qd32"]["ratio"], 2.0);
        assert_eq!(line["read_1m"]["cantle"], 300.0);
        assert!(line["read_1m"]["qemu"].is_null() && line["read_1m"]["ratio"].is_null());
    }
}
