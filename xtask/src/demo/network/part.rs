//! The parts of the demo: which guests, on what, and what is expected of them.

use std::fmt;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::said::Said;
use crate::demo::DemoArgs;

/// Seconds of a run of iperf3.
const SECONDS: u32 = 2;

/// Megabits a second of datagrams that are sent: what even an emulator can do.
const UDP_MBIT: u32 = 40;

/// The least of those that has to arrive, as one part in so many.
const UDP_ARRIVES: f64 = 2.0;

/// KiB that are compared, each way, for each version and each offload; in short, and otherwise.
const KIB: [u32; 2] = [1024, 4096];

/// The captured packets of each kind that there have to be, at least: some hundred of each transfer.
const CAPTURED: u64 = 100;

/// What is tried, each by a guest of its own, or by two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// A guest and its host: figures, offloads, checksums.
    Host,
    /// A guest and its host by four queues.
    Queues,
    /// Two guests of two `cantle`s on the host's bridge.
    Bridge,
}

impl Part {
    /// All there are.
    pub(crate) const ALL: [Self; 3] = [Self::Host, Self::Queues, Self::Bridge];

    /// Their names.
    pub(crate) const NAMES: [&str; 3] = ["host", "queues", "bridge"];

    /// Those that are tried each time.
    pub(crate) const SHORT: [Self; 1] = [Self::Host];

    /// The name for people and programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Queues => "queues",
            Self::Bridge => "bridge",
        }
    }
}

/// By which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
}

/// From the guest's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// The Internet protocol's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

/// A run of iperf3; it is shown as the guest is told of it, and calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    kind: Kind,
    way: Way,
    version: Version,
    mtu: u32,
}

impl Run {
    /// TCP over IPv4, from the guest and to it, in packets of the usual size.
    const FEW: [Self; 2] = [Self::tcp(Way::Up), Self::tcp(Way::Down)];

    const fn tcp(way: Way) -> Self {
        Self {
            kind: Kind::Tcp,
            way,
            version: Version::V4,
            mtu: 1500,
        }
    }

    /// All kinds of them, with these MTUs.
    fn all(mtus: &[u32]) -> Vec<Self> {
        let mut all = Vec::new();
        for mtu in mtus {
            for version in [Version::V4, Version::V6] {
                for kind in [Kind::Tcp, Kind::Udp] {
                    all.extend([Way::Up, Way::Down].map(|way| Self {
                        kind,
                        way,
                        version,
                        mtu: *mtu,
                    }));
                }
            }
        }
        all
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
        };
        let way = match self.way {
            Way::Up => "up",
            Way::Down => "down",
        };
        let version = match self.version {
            Version::V4 => "v4",
            Version::V6 => "v6",
        };
        write!(f, "{kind}_{way}_{version}_{}", self.mtu)
    }
}

/// A guest as it is started.
#[derive(Clone, Debug)]
pub(super) struct Started {
    /// `cantle`'s options for its interface, or the peer's.
    pub(super) net: String,
    /// More for its kernel's command line.
    pub(super) cmdline: String,
}

/// A part as it is run.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) part: Part,
    /// Names and queues.
    pub(super) taps: String,
    pub(super) vcpus: u32,
    /// What begins and judges.
    pub(super) client: Started,
    /// Whom it talks to, where that is not the host.
    pub(super) server: Option<Started>,
    /// `cantle`'s other options.
    pub(super) options: String,
    /// What is measured.
    pub(super) runs: Vec<Run>,
    queues: u32,
    offloads: bool,
}

/// Addresses' last numbers: the host's on either network, and the guests'.
const HOST: u32 = 1;
const CLIENT: u32 = 2;
const SERVER: u32 = 3;

impl Trial {
    /// The part as it is asked for.
    pub(super) fn of(part: Part, args: &DemoArgs) -> Self {
        let runs = match (part, args.short) {
            (_, true) => Run::FEW.to_vec(),
            (Part::Host | Part::Queues, false) => Run::all(&[1500, 9000]),
            (Part::Bridge, false) => Run::all(&[1500]),
        };
        let queues = if part == Part::Queues { 4 } else { 1 };
        let offloads = part == Part::Host;
        let alone = part != Part::Bridge;
        let mut steps = vec!["speed"];
        if offloads {
            steps.push("offloads");
        }
        if !alone {
            steps.push("quit");
        }
        let words = runs.iter().map(Run::to_string).collect::<Vec<_>>();
        let [short, long] = KIB;
        let mut cmdline = format!(
            "network={} network.own={CLIENT} network.peer={} network.runs={} network.seconds={SECONDS} network.udp={UDP_MBIT} \
             network.streams={queues} network.kib={} {}",
            steps.join(","),
            if alone { HOST } else { SERVER },
            words.join(","),
            if args.short { short } else { long },
            args.cmdline
        );
        if offloads {
            cmdline.push_str(&format!(" network.wire={HOST}"));
        }
        if queues > 1 {
            // Of itself, the driver has no more than there are vCPUs.
            cmdline.push_str(&format!(" xen_netfront.max_queues={queues}"));
        }
        let server = (!alone).then(|| Started {
            net: tap(1, SERVER, queues),
            cmdline: format!("network=serve network.own={SERVER} {}", args.cmdline),
        });
        let transport = args.transport.iter();
        Self {
            part,
            taps: match alone {
                true => format!("lan0:{queues}"),
                false => format!("lan0:{queues} lan1:{queues}"),
            },
            // The lab has two CPUs.
            vcpus: if alone { 2 } else { 1 },
            client: Started {
                net: tap(0, CLIENT, queues),
                cmdline,
            },
            server,
            options: transport.map(|t| format!("--transport {t}")).collect(),
            runs,
            queues,
            offloads,
        }
    }

    /// A guest and its host, which are measured and nothing else.
    pub(super) fn speed(args: &DemoArgs) -> Self {
        let mut trial = Self::of(Part::Host, args);
        trial.offloads = false;
        trial.client.cmdline = trial
            .client
            .cmdline
            .replace("network=speed,offloads", "network=speed");
        trial
    }

    /// The same guest with QEMU's interface on the same tap.
    pub(super) fn by_the_peer(&self) -> Self {
        let net = format!(
            "-netdev tap,id=net,ifname=lan0,script=no,downscript=no -device xen-net-device,netdev=net,mac={}",
            mac(CLIENT)
        );
        Self {
            taps: self.taps.clone(),
            client: Started {
                net,
                ..self.client.clone()
            },
            server: None,
            options: String::new(),
            runs: self.runs.clone(),
            ..*self
        }
    }

    /// Whether offloads are switched, and checksums looked at.
    pub(super) fn has_offloads(&self) -> bool {
        self.offloads
    }

    /// Whether the guest said all that is expected of it, beyond what it fails itself for.
    pub(super) fn judge(&self, said: &Said) -> Result<()> {
        let part = self.part.name();
        let queues = said.number("queues")?;
        ensure!(
            queues == u64::from(self.queues),
            "{part}: the guest has {queues} queues, not {}",
            self.queues
        );
        for run in &self.runs {
            let arrived = said.arrived(&run.to_string())?;
            let least = match run.kind {
                Kind::Tcp => 0.0,
                Kind::Udp => f64::from(UDP_MBIT) / 8.0 / UDP_ARRIVES,
            };
            ensure!(
                arrived.rate > least,
                "{part}: of {run} only {} MB/s arrived",
                arrived.rate
            );
        }
        if self.offloads {
            said.number("toggled")?;
            for captured in ["wire_tcp", "wire_udp"] {
                let packets = said.number(captured)?;
                ensure!(
                    packets >= CAPTURED,
                    "{part}: only {packets} packets of {captured} with right checksums were captured"
                );
            }
        }
        Ok(())
    }
}

/// An interface on a tap.
fn tap(number: u32, own: u32, queues: u32) -> String {
    let queues = match queues {
        1 => String::new(),
        queues => format!(",queues={queues}"),
    };
    format!("--net tap=lan{number},mac={}{queues}", mac(own))
}

/// The address of the guest with this number.
pub(super) fn mac(own: u32) -> String {
    format!("00:16:3e:00:00:{own:02x}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lab::Stream;

    #[test]
    fn runs_have_names_of_their_own() {
        let all = Run::all(&[1500, 9000]);
        let names: BTreeSet<String> = all.iter().map(Run::to_string).collect();
        assert_eq!((all.len(), names.len()), (16, 16));
        assert!(names.contains("udp_down_v6_9000"));
        assert_eq!(Run::FEW[0].to_string(), "tcp_up_v4_1500");
    }

    fn judged(part: Part, text: &str) -> Result<()> {
        let args = DemoArgs {
            short: true,
            ..DemoArgs::default()
        };
        let mut said = Said::default();
        said.push(Stream::Out, text.as_bytes());
        Trial::of(part, &args).judge(&said)
    }

    const GOOD: &str = "guest: queues=1\nguest: tcp_up_v4_1500=3.1\nguest: tcp_down_v4_1500=4.5\nguest: toggled=7\nhost: wire_tcp=500\n\
        host: wire_udp=100\n";

    #[test]
    fn what_is_expected_has_to_be_said() {
        judged(Part::Host, GOOD).unwrap();
        for (from, to) in [
            ("queues=1", "queues=4"),
            ("guest: queues=1\n", ""),
            ("=4.5", "=0.0"),
            ("guest: tcp_up_v4_1500=3.1\n", ""),
            ("guest: toggled=7\n", ""),
            ("wire_udp=100", "wire_udp=99"),
            ("host: wire_tcp=500\n", ""),
        ] {
            assert!(
                judged(Part::Host, &GOOD.replace(from, to)).is_err(),
                "{from}"
            );
        }
        assert!(judged(Part::Queues, GOOD).is_err());
        judged(Part::Queues, &GOOD.replace("queues=1", "queues=4")).unwrap();
    }
}
