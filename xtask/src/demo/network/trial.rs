//! A part as it is run: which guests, on what, and what is expected of them.

use anyhow::{Result, ensure};

use super::part::Part;
use super::run::{Kind, Run, Way};
use super::said::{Arrived, Said};
use crate::demo::DemoArgs;

/// Seconds of a run of iperf3, and of one against a limit, where what is let through at first counts for less.
const SECONDS: u32 = 2;
const SECONDS_LIMITED: u32 = 6;

/// Megabits a second of datagrams that are sent: what even an emulator can do.
const UDP_MBIT: u32 = 16;

/// The percentage of them that may get lost: who has no time for them drops them, and an emulator whose machine is busy has none.
const UDP_LOST: f64 = 90.0;

/// KB/s that a limited guest may send, and get: less than an emulated one can. By several connections, since one alone waits for each answer.
const LIMITS: [u32; 2] = [1500, 1000];
const STREAMS_LIMITED: u32 = 4;

/// How much may pass at once: as much as in so long. An emulated guest is late at times, and what it has not used by then is lost to it.
const INTERVAL: &str = "250ms";

/// How far off these it may be.
const OFF: f64 = 0.15;

/// KiB that are compared, each way, for each version and each offload; in short, and otherwise.
const KIB: [u32; 2] = [256, 4096];

/// The captured packets of each kind that there have to be, at least: some hundred of each transfer.
const CAPTURED: u64 = 100;

/// Addresses' last numbers: the host's on either network, and the guests'.
const HOST: u32 = 1;
const CLIENT: u32 = 2;
const SERVER: u32 = 3;

/// A guest as it is started.
#[derive(Clone, Debug)]
pub(super) struct Started {
    /// Its interface as `cantle` is told of it, or the peer's options.
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
}

impl Trial {
    /// The part as it is asked for.
    pub(super) fn of(part: Part, args: &DemoArgs) -> Self {
        Self::with_steps(part, part.steps(), args)
    }

    /// A guest and its host, which are measured and nothing else.
    pub(super) fn speed(args: &DemoArgs) -> Self {
        Self::with_steps(Part::Host, "speed", args)
    }

    fn with_steps(part: Part, steps: &str, args: &DemoArgs) -> Self {
        let runs = part.runs(args.short);
        let names: Vec<String> = runs.iter().map(Run::to_string).collect();
        let [short, long] = KIB;
        let queues = part.queues();
        let mut cmdline = format!(
            "network={steps} network.own={CLIENT} network.peer={} network.runs={} network.seconds={} network.udp={UDP_MBIT} \
             network.streams={} network.kib={} {}",
            if part.has_server() { SERVER } else { HOST },
            names.join(","),
            match part {
                Part::Rate => SECONDS_LIMITED,
                _ => SECONDS,
            },
            match part {
                Part::Rate => STREAMS_LIMITED,
                _ => queues,
            },
            if args.short { short } else { long },
            args.cmdline
        );
        if part == Part::Host {
            cmdline.push_str(&format!(" network.wire={HOST}"));
        }
        if queues > 1 {
            // Of itself, the driver has no more than there are vCPUs.
            cmdline.push_str(&format!(" xen_netfront.max_queues={queues}"));
        }
        let server = part.has_server().then(|| Started {
            net: net(part, 1, SERVER),
            cmdline: format!("network=serve network.own={SERVER} {}", args.cmdline),
        });
        let taps = match part {
            Part::Bridge => "lan0:1 lan1:1".to_owned(),
            Part::Switch => String::new(),
            _ => format!("lan0:{queues}"),
        };
        let transport = args.transport.iter();
        Self {
            part,
            taps,
            // The lab has two CPUs.
            vcpus: args.vcpus.unwrap_or(if part.has_server() { 1 } else { 2 }),
            client: Started {
                net: net(part, 0, CLIENT),
                cmdline,
            },
            server,
            options: transport.map(|t| format!("--transport {t}")).collect(),
            runs,
        }
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

    /// Whether the guest said all that is expected of it, beyond what it fails itself for.
    pub(super) fn judge(&self, said: &Said) -> Result<()> {
        let part = self.part.name();
        let queues = said.number("queues")?;
        ensure!(
            queues == u64::from(self.part.queues()),
            "{part}: the guest has {queues} queues, not {}",
            self.part.queues()
        );
        for run in &self.runs {
            let Arrived { rate, lost } = said.arrived(&run.to_string())?;
            let (least, most) = self.limits(run);
            ensure!(
                rate > least && rate < most,
                "{part}: of {run} {rate} MB/s arrived, which is not between {least:.2} and {most:.2}"
            );
            ensure!(
                run.kind == Kind::Tcp || lost.is_some_and(|lost| lost < UDP_LOST),
                "{part}: of {run} {}% were lost",
                lost.unwrap_or(100.0)
            );
        }
        let captured = |name| -> Result<()> {
            let packets = said.number(name)?;
            ensure!(
                packets >= CAPTURED,
                "{part}: there are only {packets} packets for {name}"
            );
            Ok(())
        };
        match self.part {
            Part::Host => {
                said.number("toggled")?;
                captured("wire_tcp")?;
                captured("wire_udp")
            }
            Part::Rate => captured("pcap"),
            Part::Plug => {
                let plugged = said.number("plugged")?;
                ensure!(plugged == 1, "{part}: plugged in {plugged} times");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Between which MB/s a run has to be.
    fn limits(&self, run: &Run) -> (f64, f64) {
        let [up, down] = LIMITS;
        let limit = f64::from(if run.way == Way::Up { up } else { down }) / 1000.0;
        match self.part {
            Part::Rate => (limit * (1.0 - OFF), limit * (1.0 + OFF)),
            _ => (0.0, f64::INFINITY),
        }
    }
}

/// An interface.
fn net(part: Part, tap: u32, own: u32) -> String {
    let link = match part {
        Part::Switch => "switch=lan".to_owned(),
        _ => format!("tap=lan{tap}"),
    };
    let more = match (part, part.queues()) {
        (Part::Rate, _) => {
            let [up, down] = LIMITS;
            format!(",rate={up}KB/s@{INTERVAL},rx-rate={down}KB/s@{INTERVAL}")
        }
        (_, 1) => String::new(),
        (_, queues) => format!(",queues={queues}"),
    };
    format!("{link},mac={}{more}", mac(own))
}

/// The address of the guest with this number.
fn mac(own: u32) -> String {
    format!("00:16:3e:00:00:{own:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Stream;

    fn judged(part: Part, text: &str) -> Result<()> {
        let args = DemoArgs {
            short: true,
            ..DemoArgs::default()
        };
        let mut said = Said::default();
        said.push(Stream::Out, text.as_bytes());
        Trial::of(part, &args).judge(&said)
    }

    const GOOD: &str = "guest: queues=1\nguest: tcp_up_v4_1500=1.6\nguest: tcp_down_v4_1500=0.9\nguest: toggled=7\nhost: wire_tcp=500\n\
        host: wire_udp=100\nhost: pcap=1000\nguest: plugged=1\n";

    fn refused(part: Part, changes: &[(&str, &str)]) {
        judged(part, GOOD).unwrap();
        for (from, to) in changes {
            assert!(judged(part, &GOOD.replace(from, to)).is_err(), "{from}");
        }
    }

    #[test]
    fn what_is_expected_has_to_be_said() {
        let changes = [
            ("queues=1", "queues=4"),
            ("guest: queues=1\n", ""),
            ("=0.9", "=0.0"),
            ("guest: tcp_up_v4_1500=1.6\n", ""),
            ("guest: toggled=7\n", ""),
            ("wire_udp=100", "wire_udp=99"),
            ("host: wire_tcp=500\n", ""),
        ];
        refused(Part::Host, &changes);
        assert!(judged(Part::Queues, GOOD).is_err());
        judged(Part::Queues, &GOOD.replace("queues=1", "queues=4")).unwrap();
        refused(Part::Plug, &[("guest: plugged=1\n", "")]);
    }

    #[test]
    fn most_datagrams_have_to_arrive() {
        let args = DemoArgs::default();
        let judged = |value: &str| {
            let mut said = Said::default();
            said.push(Stream::Out, b"guest: queues=1\n");
            for run in Part::Bridge.runs(false) {
                let value = if run.kind == Kind::Tcp { "1.0" } else { value };
                said.push(Stream::Out, format!("guest: {run}={value}\n").as_bytes());
            }
            Trial::of(Part::Bridge, &args).judge(&said)
        };
        judged("5.0 3.2").unwrap();
        for wrong in ["5.0 91", "5.0", "0.0 0"] {
            assert!(judged(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_hold_both_ways() {
        let changes = [
            ("=1.6", "=1.8"),
            ("=1.6", "=1.2"),
            ("=0.9", "=1.5"),
            ("=0.9", "=0.8"),
            ("pcap=1000", "pcap=10"),
        ];
        refused(Part::Rate, &changes);
    }

    #[test]
    fn interfaces_are_as_cantle_is_told() {
        assert_eq!(
            net(Part::Queues, 0, CLIENT),
            "tap=lan0,mac=00:16:3e:00:00:02,queues=4"
        );
        assert_eq!(
            net(Part::Switch, 1, SERVER),
            "switch=lan,mac=00:16:3e:00:00:03"
        );
        assert!(
            net(Part::Rate, 0, CLIENT).ends_with(",rate=1500KB/s@250ms,rx-rate=1000KB/s@250ms")
        );
    }
}
