//! The command line.

use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::Result;
use cantle_vmm_core::disk::{BackendOptions, OnError};
use cantle_vmm_core::{
    DiskConfig, GrantConfig, GuestConfig, MAX_EVENT_CHANNELS, NetConfig, TransportChoice,
};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::config::{self, Action, Guest, disk, spec};

/// Runs Xen guests on plain Linux/KVM.
#[derive(Debug, Parser)]
#[command(name = "cantle", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a guest in the foreground, with the terminal as its console.
    Run(Box<RunArgs>),
    /// Whether this machine's /dev/kvm can run a stock kernel: exit code 0 if so, 1 if not.
    #[command(hide = true)]
    ProbeKvm,
}

const RUN_HELP: &str = "\
Ctrl-] leaves: it destroys the guest. SIGTERM, SIGINT and SIGHUP destroy it too.

Examples:
  cantle run --kernel /boot/vmlinuz --initrd initrd.img --cmdline 'console=hvc0 root=/dev/xvda' \\
      --memory 512M --vcpus 2 --disk path=root.img --disk path=data.img,ro --net tap=tap0
  cantle run guest.cfg --stats json

Exit codes:
  0      the guest powered off, or Ctrl-] was pressed
  2      it could not be set up, or the usage is wrong
  3      it crashed
  4      it rebooted, and is not to be started again
  5      it suspended itself
  128+n  signal n ended it

CANTLE_LOG=debug in the environment shows what the host does (error, warn, info, debug, trace).";

/// Runs a guest, from options or from a file.
#[derive(Debug, Args)]
#[command(after_help = format!("{}\n\n{RUN_HELP}", disk::HELP), group(ArgGroup::new("guest").required(true).args(["file", "kernel"])))]
pub(crate) struct RunArgs {
    /// The guest in xl.cfg's syntax, instead of the options that describe one.
    #[arg(
        value_name = "GUEST.CFG",
        conflicts_with_all = [
            "initrd", "cmdline", "memory", "vcpus", "max_event_channels", "max_event_rate", "disk", "net", "name", "max_grant_version",
            "max_grant_frames", "max_maptrack_frames"
        ]
    )]
    file: Option<PathBuf>,

    /// The kernel: an ELF vmlinux or a bzImage, with a PVH entry.
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

    /// A network interface on a tap device; may be given several times.
    #[arg(long, value_name = "tap=NAME[,mac=ADDRESS]", value_parser = spec::net_option)]
    net: Vec<NetConfig>,

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

    /// How the guest's hypercalls reach the host.
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    transport: Transport,

    /// A Unix socket to make for the host's own programs, at which they find the guest's xenstore (cantle-xs, xenstore-ls).
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
    /// The guest that is asked for, from the file or from the options.
    pub(crate) fn guest(&self) -> Result<Guest> {
        let mut guest = match (&self.file, &self.kernel) {
            (Some(file), _) => config::read(file)?,
            (None, Some(kernel)) => self.described_by_options(kernel.clone()),
            (None, None) => anyhow::bail!("neither --kernel nor a file"),
        };
        if let Some(on_error) = self.on_error {
            let usual = BackendOptions::default().on_error;
            let disks = guest.config.disks.iter_mut();
            disks
                .filter(|disk| disk.options.on_error == usual)
                .for_each(|disk| disk.options.on_error = on_error);
        }
        guest.config.transport = self.transport.into();
        guest.config.xenstore_socket = self.xenstore_socket.clone();
        Ok(guest)
    }

    fn described_by_options(&self, kernel: PathBuf) -> Guest {
        Guest {
            config: GuestConfig {
                name: self.name.clone(),
                kernel,
                initrd: self.initrd.clone(),
                cmdline: self.cmdline.clone(),
                memory: self.memory,
                vcpus: self.vcpus,
                max_event_channels: self.max_event_channels,
                max_event_rate: self.max_event_rate,
                disks: self.disk.clone(),
                nets: self.net.clone(),
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
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    fn guest(args: &[&str]) -> Result<Guest, String> {
        let cli =
            Cli::try_parse_from([&["cantle", "run"], args].concat()).map_err(|e| e.to_string())?;
        let Command::Run(run) = cli.command else {
            return Err("not run".into());
        };
        run.guest().map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_become_a_guest() {
        let guest = guest(&[
            "--kernel",
            "k",
            "--initrd",
            "i",
            "--memory",
            "1G",
            "--vcpus",
            "2",
            "--max-event-channels",
            "1023",
            "--max-event-rate",
            "20000",
            "--disk",
            "path=a",
            "--disk",
            "path=b,ro,vdev=xvdc",
            "--net",
            "tap=t0,mac=00:16:3e:01:02:03",
            "--transport",
            "page",
            "--max-grant-version",
            "2",
            "--max-grant-frames",
            "4096",
            "--max-maptrack-frames",
            "0",
        ])
        .unwrap()
        .config;
        assert_eq!(
            (guest.memory, guest.vcpus, guest.cmdline.as_str()),
            (1 << 30, 2, "console=hvc0")
        );
        assert_eq!(
            (guest.kernel.as_path(), guest.initrd.as_deref()),
            (Path::new("k"), Some(Path::new("i")))
        );
        assert_eq!(guest.transport, TransportChoice::Page);
        let grants = GrantConfig {
            max_grant_version: 2,
            max_grant_frames: 4096,
            max_maptrack_frames: 0,
        };
        assert_eq!(guest.grants, grants);
        assert_eq!(guest.max_event_channels, 1023);
        assert_eq!(guest.max_event_rate.map(NonZeroU32::get), Some(20_000));
        let disks: Vec<_> = guest
            .disks
            .iter()
            .map(|d| (d.disk.path.to_str(), d.disk.read_only, d.vdev.as_deref()))
            .collect();
        assert_eq!(
            disks,
            [(Some("a"), false, None), (Some("b"), true, Some("xvdc"))]
        );
        assert_eq!(
            (guest.nets[0].tap.as_str(), guest.nets[0].mac),
            ("t0", Some([0, 0x16, 0x3e, 1, 2, 3]))
        );
    }

    #[test]
    fn limits_of_grants_are_as_the_library_has_them() {
        let grants = guest(&["--kernel", "k"]).unwrap().config.grants;
        assert_eq!(grants, GrantConfig::default());
        for (option, wrong) in [
            ("--max-grant-version", ["0", "3"]),
            ("--max-grant-frames", ["0", "4097"]),
            ("--max-maptrack-frames", ["4097", "4294967296"]),
        ] {
            for value in wrong {
                let error = guest(&["--kernel", "k", option, value]).unwrap_err();
                let said = format!("'{value}' for '{option} <N>': {value} is not one of");
                assert!(error.contains(&said), "{error}");
            }
            assert!(guest(&["--kernel", "k", option, "many"]).is_err());
        }
    }

    #[test]
    fn a_file_and_options_that_describe_a_guest_exclude_each_other() {
        assert!(guest(&["guest.cfg", "--kernel", "k"]).is_err());
        for option in [
            ["--memory", "1G"],
            ["--max-grant-version", "2"],
            ["--max-grant-frames", "64"],
            ["--max-maptrack-frames", "1"],
        ] {
            let error = guest(&["guest.cfg", option[0], option[1]]).unwrap_err();
            assert!(error.contains("cannot be used with"), "{error}");
        }
        assert!(guest(&[]).is_err());
    }
}
