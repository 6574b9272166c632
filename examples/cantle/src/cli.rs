//! The command line.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::{Result, bail};
use cantle_vmm_core::disk::{BackendOptions, OnError};
use cantle_vmm_core::net::SwitchConfig;
use cantle_vmm_core::{
    DiskConfig, GrantConfig, GuestConfig, GuestKind, MAX_EVENT_CHANNELS, TransportChoice,
};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::config::{self, Action, Guest, disk, net, spec, switch};

/// Runs Xen guests on plain Linux/KVM.
#[derive(Debug, Parser)]
#[command(name = "cantle", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs guests in the foreground, the first with the terminal as its console.
    Run(Box<RunArgs>),
    /// Whether this machine's /dev/kvm can run a stock kernel: exit code 0 if so, 1 if not.
    #[command(hide = true)]
    ProbeKvm,
}

const RUN_HELP: &str = "\
Ctrl-] leaves: it destroys the guests. SIGTERM, SIGINT and SIGHUP destroy them too.

Several files are several guests of one process, which reach each other by switches of the same
name. The first has the terminal; what the others print is shown with their names before it, or
goes to a file (console = \"FILE\" in the guest's own).

An interface may come and go while a guest runs: see \"Networks\" in the README.

Examples:
  cantle run --kernel /boot/vmlinuz --initrd initrd.img --cmdline 'console=hvc0 root=/dev/xvda' \\
      --memory 512M --vcpus 2 --disk path=root.img --disk path=data.img,ro --net tap=tap0
  cantle run guest.cfg --stats json
  cantle run web.cfg db.cfg --switch lan,uplink=tap:tap0

Exit codes:
  0      every guest powered off, or Ctrl-] was pressed
  2      one could not be set up, or the usage is wrong
  3      one crashed
  4      one rebooted, and is not to be started again
  5      one suspended itself
  128+n  signal n ended them
  Of several the worst counts: 128+n, then 3, 2, 4 and 5.

CANTLE_LOG=debug in the environment shows what the host does (error, warn, info, debug, trace).";

/// Runs a guest from options, or one or several from files.
#[derive(Debug, Args)]
#[command(after_help = format!("{}\n\n{}\n\n{}\n\n{RUN_HELP}", disk::HELP, net::HELP, switch::HELP), group(ArgGroup::new("guest").required(true).args(["files", "kernel"])))]
pub(crate) struct RunArgs {
    /// Guests in xl.cfg's syntax, one to a file, instead of the options that describe one.
    #[arg(
        value_name = "GUEST.CFG",
        conflicts_with_all = [
            "kind", "initrd", "cmdline", "memory", "vcpus", "max_event_channels", "max_event_rate", "disk", "net", "name", "max_grant_version",
            "max_grant_frames", "max_maptrack_frames", "console"
        ]
    )]
    files: Vec<PathBuf>,

    /// What kind of guest it is: pvh, or pv (paravirtual; 64-bit kernels).
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value_t = Kind::Pvh)]
    kind: Kind,

    /// The kernel: an ELF vmlinux or a bzImage, with a PVH entry, or for a PV guest with Xen's notes.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// The initial RAM disk.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// The kernel's command line.
    #[arg(long, value_name = "TEXT", default_value = "console=hvc0")]
    cmdline: String,

    /// Memory, in MiB or with a suffix: K, M or G.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = spec::memory)]
    memory: u64,

    /// vCPUs, 1 to 16.
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u32,

    /// The most event channels that the guest can open.
    #[arg(long, value_name = "N", default_value_t = MAX_EVENT_CHANNELS)]
    max_event_channels: u32,

    /// Signals a second that the guest may send before its vCPUs are held back; no limit unless given.
    #[arg(long, value_name = "N")]
    max_event_rate: Option<NonZeroU32>,

    /// A disk image or block device for the guest; may be given several times: the first is xvda. See below.
    #[arg(long, value_name = "path=FILE[,format=FORMAT][,…]", value_parser = disk::option)]
    disk: Vec<DiskConfig>,

    /// What happens when the host fails a disk's request, for all disks that do not say it themselves: the guest is told (report), or
    /// the disk stops until it is resumed (stop), that only where the host has no room left (enospc).
    #[arg(long, value_name = "report|stop|enospc", value_parser = disk::on_error)]
    on_error: Option<OnError>,

    /// A network interface; may be given several times. See below.
    #[arg(long, value_name = "LINK[,mac=ADDRESS][,…]", value_parser = net::option)]
    net: Vec<net::Net>,

    /// A switch that guests of this process share; may be given several times. See below.
    #[arg(long, value_name = "NAME[,…]", value_parser = switch::option)]
    switch: Vec<SwitchConfig>,

    /// Keeps all packets of the first interface, or of the Nth (from 0), in a file for tcpdump and Wireshark; may be given several times.
    /// Of several guests it is the first's.
    #[arg(long, value_name = "[N=]FILE", value_parser = net::pcap)]
    pcap: Vec<(usize, PathBuf)>,

    /// A file for what the guest prints on its console, instead of the terminal; the guest has no input then.
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,

    /// The highest version of grant tables that the guest may choose, 1 or 2.
    #[arg(
        long,
        value_name = "N",
        default_value_t = GrantConfig::default().max_grant_version,
        value_parser = spec::option_within(GrantConfig::VERSIONS)
    )]
    max_grant_version: u32,

    /// Frames that its grant table may have, 1 to 4096: each lends up to 512 pages, 256 with version 2.
    #[arg(
        long,
        value_name = "N",
        default_value_t = GrantConfig::default().max_grant_frames,
        value_parser = spec::option_within(GrantConfig::FRAMES)
    )]
    max_grant_frames: u32,

    /// Others' pages that the guest may map itself, in units of 512, 0 to 4096.
    #[arg(
        long,
        value_name = "N",
        default_value_t = GrantConfig::default().max_maptrack_frames,
        value_parser = spec::option_within(GrantConfig::MAPTRACK_FRAMES)
    )]
    max_maptrack_frames: u32,

    /// The guest's name.
    #[arg(long, default_value = "guest", value_parser = spec::name)]
    name: String,

    /// How a PVH guest's hypercalls reach the host; a PV guest's come by its monitor.
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    transport: Transport,

    /// A Unix socket to make for the host's own programs, at which they find the guest's xenstore (cantle-xs, xenstore-ls). Of several
    /// guests, each has its own: xenstore_socket = "PATH" in its file.
    #[arg(long, value_name = "PATH")]
    xenstore_socket: Option<PathBuf>,

    /// At the end, print what the guest did: exits, hypercalls, events, grants, I/O. On standard output, in one line.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) stats: Option<StatsFormat>,
}

/// How statistics are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StatsFormat {
    /// One JSON object.
    Json,
}

/// What kind of guest it is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// The processor runs all of it.
    Pvh,
    /// Its kernel runs over a monitor.
    Pv,
}

impl From<Kind> for GuestKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Pvh => Self::Pvh,
            Kind::Pv => Self::Pv,
        }
    }
}

/// How hypercalls arrive.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Transport {
    /// The best that host and kernel offer.
    Auto,
    /// KVM's own Xen support.
    Xen,
    /// The hypercall page.
    Page,
    /// The kernel's own instructions, rewritten as it is loaded.
    Rewrite,
}

impl From<Transport> for TransportChoice {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Auto => Self::Auto,
            Transport::Xen => Self::Xen,
            Transport::Page => Self::Page,
            Transport::Rewrite => Self::Rewrite,
        }
    }
}

impl RunArgs {
    /// The guests that are asked for, from their files or from the options.
    pub(crate) fn guests(&self) -> Result<Vec<Guest>> {
        let mut guests = match &self.kernel {
            Some(kernel) => vec![self.described_by_options(kernel.clone())],
            None => self
                .files
                .iter()
                .map(|file| config::read(file))
                .collect::<Result<_>>()?,
        };
        let several = guests.len() > 1;
        let mut names = BTreeSet::new();
        for guest in &mut guests {
            if !names.insert(guest.config.name.clone()) {
                bail!(
                    "two guests are called {}: each needs a name of its own",
                    guest.config.name
                );
            }
            self.apply(guest);
            if self.xenstore_socket.is_some() {
                if several {
                    bail!(
                        "--xenstore-socket is for one guest: several have xenstore_socket = \"PATH\" in their files"
                    );
                }
                guest.config.xenstore_socket = self.xenstore_socket.clone();
            }
        }
        let Some(first) = guests.first_mut() else {
            bail!("neither --kernel nor a file");
        };
        first.switches.extend(self.switch.iter().cloned());
        self.capture(&mut first.nets)?;
        Ok(guests)
    }

    /// What is kept in files of interfaces.
    fn capture(&self, nets: &mut [net::Net]) -> Result<()> {
        for (index, file) in &self.pcap {
            let Some(net) = nets.get_mut(*index) else {
                bail!(
                    "--pcap {index}={}: there are {} interfaces, from 0",
                    file.display(),
                    nets.len()
                );
            };
            if net.config.capture.replace(file.clone()).is_some() {
                bail!(
                    "--pcap {index}={}: this interface has a file already",
                    file.display()
                );
            }
        }
        Ok(())
    }

    /// What is said for all guests.
    fn apply(&self, guest: &mut Guest) {
        if let Some(on_error) = self.on_error {
            let usual = BackendOptions::default().on_error;
            let disks = guest.config.disks.iter_mut();
            disks
                .filter(|disk| disk.options.on_error == usual)
                .for_each(|disk| disk.options.on_error = on_error);
        }
        guest.config.transport = self.transport.into();
    }

    fn described_by_options(&self, kernel: PathBuf) -> Guest {
        Guest {
            nets: self.net.clone(),
            switches: Vec::new(),
            console: self.console.clone(),
            config: GuestConfig {
                name: self.name.clone(),
                kind: self.kind.into(),
                kernel,
                initrd: self.initrd.clone(),
                cmdline: self.cmdline.clone(),
                memory: self.memory,
                vcpus: self.vcpus,
                max_event_channels: self.max_event_channels,
                max_event_rate: self.max_event_rate,
                disks: self.disk.clone(),
                nets: Vec::new(),
                grants: GrantConfig {
                    max_grant_version: self.max_grant_version,
                    max_grant_frames: self.max_grant_frames,
                    max_maptrack_frames: self.max_maptrack_frames,
                },
                transport: TransportChoice::Auto,
                xenstore_socket: None,
            },
            on_poweroff: Action::Destroy,
            on_reboot: Action::Destroy,
            on_crash: Action::Destroy,
        }
    }
}

#[cfg(test)]
mod tests;
