//! The demo: Debian's own kernel as a guest, with its disk, its network and its console on our crates.

mod disk;
mod grub;
mod kind;
mod network;
mod place;
pub(crate) mod pv;
mod report;
mod storage;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, ValueEnum};
use serde_json::json;

use crate::images::{self, Debian, Guest, Tools};
use crate::interrupt::Scratch;
use crate::lab::LabLost;
use crate::{guests, lab, machine, programs, workspace};
use disk::Disk;
pub(crate) use kind::Kind;
use network::Part;
use place::Place;
use report::{GuestLost, Report};
use storage::Format;

/// MiB that go through the disk and, each way, through the network.
const TRAFFIC_MIB: u32 = 64;

/// The tap and the two ends' addresses, in a /30 of their own.
const TAP: &str = "cantle-demo";
const HOST_IP: &str = "10.213.77.1";
const GUEST_IP: &str = "10.213.77.2";

/// How the disks of the storage demo are opened unless told otherwise.
const DISK_OPTIONS: &str = "queues=4";

/// The guest's vCPUs, and the seconds it may take, unless told otherwise.
const VCPUS: u32 = 2;
/// The most vCPUs that a demo's guest has.
const MOST_VCPUS: i64 = 16;
const TIMEOUT: u64 = 600;

/// Options of `cargo xtask demo`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("device").args(["storage", "network"])))]
pub(crate) struct DemoArgs {
    /// The guest: a Debian release's cloud kernel, or its full one.
    #[arg(long, value_enum, default_value_t = Guest::Debian12)]
    #[arg(default_value_if("grub", "true", "debian12-generic"))]
    guest: Guest,
    /// Where the guest runs: in a lab, or on this machine's own /dev/kvm, which is the choice when it can run stock kernels.
    #[arg(long, value_enum)]
    host: Option<Host>,
    /// Which of Xen's kinds the guest is: pvh unless told otherwise, or both, one after the other, for --stress.
    #[arg(long = "type", value_enum, value_name = "KIND")]
    kind: Option<Kind>,
    /// The guest's vCPUs: 2 unless told otherwise, or as many as there is work for where disks or networks are worked.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_VCPUS))]
    vcpus: Option<u32>,
    /// CPUs of the lab. Unless told otherwise, 1 where vCPUs would run at the same time on several, which the emulator may not survive, else 2.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    lab_cpus: Option<u32>,
    /// Both releases' guests on both lab hosts, two lab boots in all.
    #[arg(long, conflicts_with_all = ["guest", "host"])]
    all: bool,
    /// How hypercalls reach the guest's VMM; `cantle run --help` lists the ways. It chooses the best itself.
    #[arg(long)]
    transport: Option<String>,
    /// More for the guest's kernel command line, as "xen.fifo_events=0".
    #[arg(long, default_value = "", value_name = "WORDS")]
    cmdline: String,
    /// Opens this many event channels in the guest too (20000 unless told otherwise), and signals each.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20000")]
    channels: Option<u32>,
    /// Runs Debian's xenstore tools in the guest too, takes its network interface from its driver and gives it back, and commits this many
    /// transactions over its ring (10000 unless told otherwise).
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10000")]
    xenstore: Option<u32>,
    /// Boots GRUB as a PV guest, which loads the kernel from the guest's own disk.
    #[arg(long, conflicts_with_all = ["kind", "channels", "xenstore", "stress", "device"])]
    grub: bool,
    /// Instead of all that: works disks of these image formats (all four unless told otherwise), and has writes to them cut short.
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT,…",
        num_args = 0..,
        value_delimiter = ',',
        default_missing_values = ["raw", "vhd", "qcow2", "vmdk"],
        conflicts_with_all = ["channels", "xenstore"]
    )]
    storage: Option<Vec<Format>>,
    /// With what `cantle` opens those disks, as "cache=none,queues=2".
    #[arg(long, value_name = "OPTIONS", default_value = DISK_OPTIONS, requires = "storage")]
    disk_options: String,
    /// Instead of all that: has guests send to their host and to each other in these ways (all of them unless told otherwise).
    #[arg(
        long,
        value_enum,
        value_name = "PART,…",
        num_args = 0..,
        value_delimiter = ',',
        default_missing_values = Part::NAMES,
        conflicts_with_all = ["channels", "xenstore", "storage"]
    )]
    network: Option<Vec<Part>>,
    /// Instead of all that: works what the guest's kernel does for programs, and demands that a PV guest and a PVH guest do the same.
    #[arg(long, conflicts_with_all = ["channels", "xenstore", "device"])]
    stress: bool,
    /// Few of its measurements, as `cargo xtask test` has them.
    #[arg(long, requires = "network")]
    short: bool,
    /// Only compares, on the host with Debian 13: the guest's disk with QEMU's xen-block, or its network interface with QEMU's xen-net-device.
    #[arg(long, requires = "device")]
    peer: bool,
    /// Gives a guest up after this many seconds.
    #[arg(long, default_value_t = TIMEOUT, value_name = "SECONDS")]
    timeout: u64,
    /// Takes the workspace's programs as they were last built.
    #[arg(long)]
    no_build: bool,
}

impl Default for DemoArgs {
    fn default() -> Self {
        Self {
            guest: Guest::Debian12,
            host: None,
            kind: None,
            vcpus: None,
            lab_cpus: None,
            all: true,
            transport: None,
            cmdline: String::new(),
            channels: None,
            xenstore: None,
            grub: false,
            storage: None,
            disk_options: DISK_OPTIONS.to_owned(),
            network: None,
            stress: false,
            short: false,
            peer: false,
            timeout: TIMEOUT,
            no_build: false,
        }
    }
}

impl DemoArgs {
    /// The kind of the demo's guest.
    fn kind(&self) -> Kind {
        let usual = if self.grub { Kind::Pv } else { Kind::Pvh };
        self.kind.unwrap_or(usual)
    }

    /// CPUs of a lab whose guests have so many vCPUs together.
    ///
    /// Nested virtualisation is lost to the emulation where two of its CPUs are in guests at the same time: with two CPUs one run in five of
    /// guests of two vCPUs, nearly each of guests of four; with one, none of six. A comparison has both, for the back end's sake.
    fn lab_cpus(&self, vcpus: u32) -> u32 {
        let several = vcpus > 1 && !self.peer;
        self.lab_cpus.unwrap_or(if several { 1 } else { 2 })
    }
}

/// Where a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Host {
    /// In a lab with Debian 12's kernel, 6.1.
    Debian12,
    /// In a lab with Debian 13's kernel, 6.12.
    Debian13,
    /// On this machine.
    Native,
}

impl Host {
    fn name(self) -> &'static str {
        match self {
            Self::Debian12 => Debian::Debian12.name(),
            Self::Debian13 => Debian::Debian13.name(),
            Self::Native => "native",
        }
    }
}

/// `cargo xtask demo`: one line of JSON on standard output for each pair, everything else on standard error.
pub(crate) fn main(args: &DemoArgs) -> Result<ExitCode> {
    let outcomes = if let (true, Some(formats)) = (args.peer, &args.storage) {
        storage::peer::on(args.host, args.guest, args, formats)
            .unwrap_or_else(|error| vec![Err(error)])
    } else if args.peer {
        vec![network::peer::on(args.host, args.guest, args)]
    } else if args.all {
        on_both_hosts(&Guest::USUAL, args)
    } else {
        match chosen_host(args) {
            Ok(host) => on_or_why(host, &[args.guest], args),
            Err(error) => vec![Err(error)],
        }
    };
    let mut code = ExitCode::SUCCESS;
    for outcome in outcomes {
        let line = match outcome {
            Ok(line) => line,
            Err(error) => {
                code = ExitCode::FAILURE;
                json!({"demo": "failed", "why": format!("{error:#}")}).to_string()
            }
        };
        println!("{line}");
    }
    Ok(code)
}

/// How often a guest is started whose run was lost, where one that is lost each time is no failure.
const TRIES: u32 = 4;

/// How often one of [`pairs`] is started: on some days the emulator loses three runs of four.
const PAIR_TRIES: u32 = 6;

/// Seconds for a guest of [`pairs`]: it takes 100 on an idle machine, most of them for its transactions, and one that hangs is to leave
/// time for another.
const PAIR_TIMEOUT: u64 = 360;

/// Transactions of [`pairs`] over a guest's ring, on a host with Debian 12 and on one with Debian 13.
const TRANSACTIONS: [u32; 2] = [1000, 10_000];

/// These guests on both lab hosts, with so many event channels, and transactions by the host: the demo's line for each pair, or why
/// there is none.
///
/// A run that was [`lost`] says nothing of the guest, which then gets a lab of its own. What fails otherwise has failed.
pub(crate) fn pairs(guests: &[Guest], channels: u32) -> Vec<Result<String>> {
    let of = |host, transactions| {
        let args = DemoArgs {
            channels: Some(channels),
            xenstore: Some(transactions),
            timeout: PAIR_TIMEOUT,
            ..DemoArgs::default()
        };
        each(host, guests, &args)
    };
    let labs = LABS.into_iter().zip(TRANSACTIONS);
    labs.flat_map(|(host, transactions)| of(host, transactions))
        .collect()
}

/// These guests on a lab host, one after another, each again in a lab of its own while its run is lost.
fn each(host: Host, guests: &[Guest], args: &DemoArgs) -> Vec<Result<String>> {
    let all = match on(host, guests, args) {
        Ok(all) => all,
        // It was never ready, and has lost all of them.
        Err(error) if lost(&error) => {
            let why = format!("{error:#}");
            let each = |_| Err(LabLost(why.clone()).into());
            guests.iter().map(each).collect()
        }
        Err(error) => return vec![Err(error)],
    };
    let mut outcomes = Vec::new();
    for (guest, outcome) in guests.iter().zip(all) {
        outcomes.extend(until_not_lost(outcome, PAIR_TRIES, host, *guest, args));
    }
    outcomes
}

/// PV guests: both releases' on both lab hosts with one vCPU, and of Debian 13 on such a host one with four vCPUs, and one that is held to a PVH
/// guest by the stress; with `all` those two for both guests on both hosts as well, and more of everything.
///
/// The emulator loses guests of several vCPUs more often: as with [`storage()`], such a one that is lost each time is no failure without `all`.
pub(crate) fn pv(guests: &[Guest], all: bool) -> Vec<Result<String>> {
    let args = |vcpus| DemoArgs {
        kind: Some(Kind::Pv),
        vcpus: Some(vcpus),
        timeout: PAIR_TIMEOUT,
        ..DemoArgs::default()
    };
    let mut outcomes = Vec::new();
    for host in LABS {
        let mut args = args(1);
        args.channels = Some(if all { 20_000 } else { 1_000 });
        args.xenstore = all.then_some(1_000);
        outcomes.extend(each(host, guests, &args));
    }
    let stress = DemoArgs {
        kind: None,
        stress: true,
        ..args(1)
    };
    for host in LABS {
        for guest in Guest::USUAL {
            if all || (guest, host) == (Guest::Debian13, Host::Debian13) {
                let several = each(host, &[guest], &args(4)).into_iter();
                let or_not_tried = |outcome| if all { outcome } else { unless_lost(outcome) };
                outcomes.extend(several.map(or_not_tried));
                // It tries again by itself.
                outcomes.extend(on_or_why(host, &[guest], &stress));
            }
        }
    }
    outcomes
}

/// Disks of every format under a Debian 13 guest on such a host; with `all` both guests on both hosts.
///
/// The emulator loses guests the more often the more vCPUs they have, so this one has just one; with `all` as many as its disks have queues. One that is
/// lost each time tells nothing of our part: without `all` that is said aloud and is no failure; what a guest or an image says is one at once.
pub(crate) fn storage(all: bool) -> Vec<Result<String>> {
    let mut outcomes = Vec::new();
    for (host, own) in LABS.into_iter().zip(Guest::USUAL) {
        let args = DemoArgs {
            storage: Some(Format::ALL.to_vec()),
            vcpus: (!all).then_some(1),
            timeout: PAIR_TIMEOUT,
            ..DemoArgs::default()
        };
        for guest in Guest::USUAL {
            if all || (guest == own && host == Host::Debian13) {
                for first in on_or_why(host, &[guest], &args) {
                    outcomes.extend(until_not_lost(first, TRIES, host, guest, &args));
                }
            }
        }
    }
    if !all {
        outcomes = outcomes.into_iter().map(unless_lost).collect();
    }
    outcomes
}

/// The network of each release's guest on a host of the same release, in short; with `all` both guests on both hosts, and everything.
///
/// A run that is lost gets a new lab by itself; as with [`storage()`], one that is lost each time is no failure without `all`.
pub(crate) fn network(all: bool) -> Vec<Result<String>> {
    let parts = if all { &Part::ALL[..] } else { &Part::SHORT };
    let args = DemoArgs {
        network: Some(parts.to_vec()),
        vcpus: (!all).then_some(1),
        short: !all,
        timeout: PAIR_TIMEOUT,
        ..DemoArgs::default()
    };
    let mut outcomes = Vec::new();
    for (host, own) in LABS.into_iter().zip(Guest::USUAL) {
        for guest in Guest::USUAL {
            if all || guest == own {
                outcomes.extend(on_or_why(host, &[guest], &args));
            }
        }
    }
    if !all {
        outcomes = outcomes.into_iter().map(unless_lost).collect();
    }
    outcomes
}

/// Runs that the emulator has lost are not tried, which is said, where at least one guest has done all of its work: where none has, nothing
/// has been seen to work.
pub(crate) fn unless_all_lost(outcomes: Vec<Result<String>>) -> Vec<Result<String>> {
    if outcomes.iter().any(Result::is_ok) {
        return outcomes.into_iter().map(unless_lost).collect();
    }
    outcomes
}

/// A run that the emulator has lost is not tried, which is said; every other outcome stays as it is.
fn unless_lost(outcome: Result<String>) -> Result<String> {
    match outcome {
        Err(error) if lost(&error) => {
            let line = format!("NOT TRIED, lost to the emulator each time: {error:#}");
            say(&line);
            Ok(line)
        }
        outcome => outcome,
    }
}

/// A guest that is held to the 2-level interface, on the host whose KVM delivers such events itself: its line where KVM did, and the guest
/// left it a few hundred times only.
pub(crate) fn by_the_kernel() -> Vec<Result<String>> {
    let args = DemoArgs {
        timeout: PAIR_TIMEOUT,
        cmdline: "xen.fifo_events=0".to_owned(),
        ..DemoArgs::default()
    };
    let (host, guest) = (Host::Debian13, Guest::Debian12);
    let first = on_or_why(host, &[guest], &args)
        .into_iter()
        .flat_map(|first| until_not_lost(first, PAIR_TRIES, host, guest, &args));
    first
        .map(|outcome| outcome.and_then(report::by_the_kernel))
        .collect()
}

/// Starts a guest again, alone, while its runs are lost.
fn until_not_lost(
    first: Result<String>,
    tries: u32,
    host: Host,
    guest: Guest,
    args: &DemoArgs,
) -> Vec<Result<String>> {
    let mut outcomes = vec![first];
    for run in 1..tries {
        let Some(Err(error)) = outcomes.iter().find(|o| o.as_ref().is_err_and(lost)) else {
            break;
        };
        say(&format!(
            "{} on {}: run {run} was lost, once more in a new lab: {error:#}",
            guest.name(),
            host.name()
        ));
        outcomes = on_or_why(host, &[guest], args);
    }
    outcomes
}

/// Whether a run was ended by what the emulator can do to it.
///
/// Nested virtualisation in QEMU's TCG loses runs, more or fewer by the CPU that is emulated: the host's kernel triple-faults
/// and the lab is gone, or a guest does (or hangs) whose VMCB has been seen to hold the *host's* stack pointer, instruction
/// pointer and rax. Neither guest nor VMM can cause that.
fn lost(error: &anyhow::Error) -> bool {
    error.is::<LabLost>() || error.is::<GuestLost>()
}

/// The hosts that a lab can be.
const LABS: [Host; 2] = [Host::Debian12, Host::Debian13];

/// A host that cannot be had leaves the other one its turn.
fn on_both_hosts(guests: &[Guest], args: &DemoArgs) -> Vec<Result<String>> {
    LABS.into_iter()
        .flat_map(|host| on_or_why(host, guests, args))
        .collect()
}

/// The guests' outcomes on one host, or why there are none.
fn on_or_why(host: Host, guests: &[Guest], args: &DemoArgs) -> Vec<Result<String>> {
    on(host, guests, args).unwrap_or_else(|error| vec![Err(error)])
}

/// The host that was asked for, or the machine itself when its KVM runs stock kernels, or else a lab.
fn chosen_host(args: &DemoArgs) -> Result<Host> {
    if let Some(host) = args.host {
        return Ok(host);
    }
    if args.storage.is_some()
        || args.network.is_some()
        || args.stress
        || !place::has_virtualisation()
    {
        return Ok(Host::Debian12);
    }
    if !args.no_build {
        programs::build_native(&["cantle"])?;
    }
    if place::runs_stock_kernels(&programs::native()) {
        Ok(Host::Native)
    } else {
        Ok(Host::Debian12)
    }
}

/// Runs the guests one after another on one host.
fn on(host: Host, guests: &[Guest], args: &DemoArgs) -> Result<Vec<Result<String>>> {
    if let Some(formats) = &args.storage {
        let each = |guest: &Guest| storage::on(host, *guest, args, formats);
        return Ok(guests.iter().map(each).collect());
    }
    if let Some(parts) = &args.network {
        let each = |guest: &Guest| network::on(host, *guest, args, parts);
        return Ok(guests.iter().map(each).collect());
    }
    if args.stress {
        let each = |guest: &Guest| pv::stress(host, *guest, args);
        return Ok(guests.iter().map(each).collect());
    }
    say(&format!("host {}: getting ready", host.name()));
    machine::for_demo()?;
    let scratch = Scratch::new("demo")?;
    let mut disks = Vec::new();
    for guest in guests {
        let folder = scratch.path().join(guest.name());
        disks.push(if args.grub {
            grub::disk(&folder, *guest, &words(args))?
        } else {
            Disk::make(&folder)?
        });
    }
    let extra = programs_for_guests(args);
    if !extra.is_empty() && !args.no_build {
        guests::build()?;
    }
    if args.xenstore.is_some() {
        // Before the lab is up: it sees what is there when it begins.
        for guest in guests {
            images::tools(*guest, Tools::Xenstore)?;
        }
    }
    let mut place = if host == Host::Native {
        if !args.no_build {
            programs::build_native(&["cantle"])?;
        }
        Place::native()?
    } else {
        if !args.no_build {
            programs::build()?;
        }
        let debian = if host == Host::Debian12 {
            Debian::Debian12
        } else {
            Debian::Debian13
        };
        Place::lab(
            debian,
            args.lab_cpus(args.vcpus.unwrap_or(VCPUS)),
            &disks,
            &extra,
        )?
    };
    let mut runs = Vec::new();
    for (index, (guest, disk)) in guests.iter().zip(&disks).enumerate() {
        let name = format!("{} on {}", guest.name(), host.name());
        if !place.is_free() {
            let lost = format!("{name} was not run: the lab was lost before");
            runs.push(Err(LabLost(lost).into()));
            continue;
        }
        let log =
            workspace::lab("logs")?.join(format!("demo-{}-{}.log", host.name(), guest.name()));
        let script = script(&place, *guest, place.disk(index, disk), args)?;
        let run = run(&mut place, &name, &script, &log, args);
        runs.push(run.map_err(|error| shown(error, &name, &log)));
    }
    // The disks are whole only when the lab is off.
    let off = place.leave();
    let mut outcomes = Vec::new();
    for ((run, guest), disk) in runs.into_iter().zip(guests).zip(&disks) {
        let outcome = run.and_then(|report| {
            disk.check(report.disk_sha256()?)
                .with_context(|| format!("the image of {} on {}", guest.name(), host.name()))?;
            say(&format!(
                "{} on {}: e2fsck finds the image clean, the data in it have the guest's checksum",
                guest.name(),
                host.name()
            ));
            report.line(host.name(), args.kind())
        });
        outcomes.push(outcome);
    }
    if let Err(error) = off
        && outcomes.iter().all(Result::is_ok)
    {
        outcomes.push(Err(error));
    }
    Ok(outcomes)
}

/// The programs that go into the guest's initial file system.
fn programs_for_guests(args: &DemoArgs) -> Vec<PathBuf> {
    [
        args.channels.map(|_| "channels"),
        args.xenstore.map(|_| "transactions"),
    ]
    .into_iter()
    .flatten()
    .map(guests::program)
    .collect()
}

/// The guest's run: what it said, if it came to its proper end.
fn run(place: &mut Place, name: &str, script: &str, log: &Path, args: &DemoArgs) -> Result<Report> {
    // A run that is under way elsewhere keeps its own file.
    let _ = fs::remove_file(log);
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut report = Report::new();
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(args.timeout);
    let code = place.run(script, deadline, &mut |bytes| {
        file.write_all(bytes)?;
        for line in report.push(bytes) {
            say(&format!(
                "{name} {:6.1} s  {line}",
                begun.elapsed().as_secs_f32()
            ));
        }
        Ok(())
    })?;
    match code {
        Some(code) => report.judge(code, args.kind())?,
        None => bail!(GuestLost(format!("no end after {} s", args.timeout))),
    }
    Ok(report)
}

/// The error of a failed run, after the end of its log has been shown.
fn shown(error: anyhow::Error, name: &str, log: &Path) -> anyhow::Error {
    say(&format!(
        "{name} FAILED; the end of its console ({}):\n{}",
        log.display(),
        lab::tail(log, 40)
    ));
    error.context(format!("{name} (console: {})", log.display()))
}

/// The guest's command line.
fn words(args: &DemoArgs) -> String {
    let (channels, transactions) = (args.channels.unwrap_or(0), args.xenstore.unwrap_or(0));
    format!(
        "console=hvc0 quiet panic=-1 demo.host={HOST_IP} demo.ip={GUEST_IP} demo.mib={TRAFFIC_MIB} demo.channels={channels} demo.transactions={transactions} {}",
        args.cmdline
    )
}

fn script(place: &Place, guest: Guest, disk: PathBuf, args: &DemoArgs) -> Result<String> {
    let asset = workspace::asset("demo-host.sh");
    let body =
        fs::read_to_string(&asset).with_context(|| format!("cannot read {}", asset.display()))?;
    let mut image = place.guest(images::guest(guest)?, guest);
    if args.grub {
        image = grub::image(place)?;
    }
    let tools = match args.xenstore {
        Some(_) => place.beside(&images::tools(guest, Tools::Xenstore)?, &image),
        None => PathBuf::new(),
    };
    let programs: Vec<String> = programs_for_guests(args)
        .iter()
        .map(|program| place.program(program).to_string_lossy().into_owned())
        .collect();
    let mut options = String::new();
    if args.kind() != Kind::Pvh {
        options.push_str(&format!(" --type {}", args.kind().name()));
    }
    if let Some(transport) = &args.transport {
        options.push_str(&format!(" --transport {transport}"));
    }
    let mut script = String::new();
    for (name, value) in [
        ("BUSYBOX", place.busybox()?),
        ("CANTLE", place.cantle()),
        ("KERNEL", image.kernel),
        ("INITRD", image.initrd),
        ("DISK", disk),
        ("VCPUS", args.vcpus.unwrap_or(VCPUS).to_string().into()),
        ("TAP", TAP.into()),
        ("HOST_IP", HOST_IP.into()),
        ("MIB", TRAFFIC_MIB.to_string().into()),
        ("CMDLINE", words(args).into()),
        ("OPTIONS", options.into()),
        ("CHANNELS", args.channels.unwrap_or(0).to_string().into()),
        (
            "TRANSACTIONS",
            args.xenstore.unwrap_or(0).to_string().into(),
        ),
        ("TOOLS", tools),
        ("PROGRAMS", programs.join(" ").into()),
    ] {
        let word = lab::quoted(&[value.to_string_lossy().into_owned()]);
        script.push_str(&format!("{name}={word}\n"));
    }
    script.push_str(&body);
    Ok(script)
}

/// Progress, for whoever watches.
fn say(text: &str) {
    eprintln!("demo: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::GuestLost;

    #[test]
    fn where_none_went_well_losses_are_failures() {
        let loss = || Err(GuestLost("it hung".to_owned()).into());
        let well = || Ok("ok".to_owned());
        let failures = |outcomes| {
            let outcomes: Vec<Result<String>> = unless_all_lost(outcomes);
            outcomes.iter().filter(|o| o.is_err()).count()
        };
        assert_eq!(failures(vec![loss(), loss()]), 2);
        assert_eq!(failures(vec![loss(), well()]), 0);
        assert_eq!(
            failures(vec![well(), Err(anyhow::anyhow!("wrong data"))]),
            1
        );
    }
}
