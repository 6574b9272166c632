//! The same talk with each daemon in turns.

use std::time::Duration;

use anyhow::Result;

use super::daemons::Daemon;
use super::load::{Load, converse, dial};
use super::script::{self, Script};
use super::sides::Sides;
use super::tree;
use crate::measure::Unit;
use crate::report::Report;

/// What is measured of every daemon.
struct Case {
    row: &'static str,
    connections: usize,
    /// How many others are connected and silent.
    idle: usize,
    /// How many domains the store has, each with its nodes.
    domains: usize,
    talk: Talk,
}

#[derive(Clone, Copy)]
enum Talk {
    Read {
        depth: usize,
    },
    Write {
        depth: usize,
    },
    /// Nodes of many domains, all over the store.
    ReadDomains,
    Directory,
    /// Transactions of so many requests, half reads and half writes, on nodes of the connection's own.
    Transaction {
        requests: usize,
        together: bool,
    },
    /// Transactions of a read and a write of the one node that all want.
    Contended,
}

const CASES: &[Case] = &[
    case("read_1", 1, Talk::Read { depth: 1 }),
    case("write_1", 1, Talk::Write { depth: 1 }),
    case("txn10_1", 1, TXN10),
    case("read_pipelined", 1, Talk::Read { depth: 16 }),
    case("write_pipelined", 1, Talk::Write { depth: 16 }),
    case("read_8", 8, Talk::Read { depth: 1 }),
    case("read_8_pipelined", 8, Talk::Read { depth: 16 }),
    case("read_64", 64, Talk::Read { depth: 1 }),
    case("read_64_pipelined", 64, Talk::Read { depth: 16 }),
    case("write_8", 8, Talk::Write { depth: 1 }),
    case("write_8_pipelined", 8, Talk::Write { depth: 16 }),
    case("write_64", 64, Talk::Write { depth: 1 }),
    case("write_64_pipelined", 64, Talk::Write { depth: 16 }),
    case("txn10_8", 8, TXN10),
    case("txn10_64", 64, TXN10),
    case("txn10_64_pipelined", 64, TXN10_TOGETHER),
    case("txn10_8_pipelined", 8, TXN10_TOGETHER),
    case("txn2_8_pipelined", 8, TXN2_TOGETHER),
    case("txn2_64", 64, TXN2),
    case("txn_contended_8", 8, Talk::Contended),
    case("dir_1000", 1, Talk::Directory),
    Case {
        row: "read_beside_512_idle",
        connections: 1,
        idle: 512,
        domains: 0,
        talk: Talk::Read { depth: 1 },
    },
    Case {
        row: "read_beside_1000_idle",
        connections: 1,
        idle: 1000,
        domains: 0,
        talk: Talk::Read { depth: 1 },
    },
    Case {
        row: "read_of_1000_domains",
        connections: 8,
        idle: 0,
        domains: 1000,
        talk: Talk::ReadDomains,
    },
];

const TXN10: Talk = Talk::Transaction {
    requests: 10,
    together: false,
};
const TXN10_TOGETHER: Talk = Talk::Transaction {
    requests: 10,
    together: true,
};
const TXN2: Talk = Talk::Transaction {
    requests: 2,
    together: false,
};
const TXN2_TOGETHER: Talk = Talk::Transaction {
    requests: 2,
    together: true,
};

const fn case(row: &'static str, connections: usize, talk: Talk) -> Case {
    Case {
        row,
        connections,
        idle: 0,
        domains: 0,
        talk,
    }
}

/// A daemon with connections that work, and such that do not.
struct Side {
    load: Load,
    _idle: Vec<std::os::unix::net::UnixStream>,
    _daemon: Daemon,
}

impl Side {
    fn new(case: &Case, daemon: Daemon, store: bool) -> Result<Self> {
        if store {
            furnish(&daemon, case)?;
        }
        let idle = (0..case.idle)
            .map(|_| dial(daemon.socket()))
            .collect::<Result<_>>()?;
        let scripts = (0..case.connections)
            .map(|n| case.talk.script(n))
            .collect::<Result<_>>()?;
        Ok(Self {
            load: Load::connect(daemon.socket(), scripts)?,
            _idle: idle,
            _daemon: daemon,
        })
    }

    fn rate(&mut self, slice: Duration) -> Result<(f64, u64)> {
        let (counts, took) = self.load.run(slice)?;
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let rate = counts.done as f64 / took.as_secs_f64();
        Ok((rate, counts.refused))
    }
}

/// The nodes that a case wants to be there.
fn furnish(daemon: &Daemon, case: &Case) -> Result<()> {
    let mut requests = script::write("/bench/shared")?;
    let mut count = 1;
    for n in 0..case.connections {
        for key in 0..8 {
            requests.extend(script::write(&path(n, key))?);
            count += 1;
        }
    }
    if matches!(case.talk, Talk::Directory) {
        for n in 0..1000 {
            requests.extend(script::write(&format!("/bench/d/{n:03}"))?);
            count += 1;
        }
    }
    converse(&dial(daemon.socket())?, &requests, count)?;
    tree::plant(daemon, case.domains)
}

fn path(connection: usize, key: usize) -> String {
    format!("/bench/c{connection}/k{key}")
}

impl Talk {
    fn script(self, n: usize) -> Result<Script> {
        let keys = |of: fn(&str) -> Result<Vec<u8>>| -> Result<Vec<Vec<u8>>> {
            (0..8).map(|key| of(&path(n, key))).collect()
        };
        Ok(match self {
            Self::Read { depth } => Script::requests(keys(script::read)?, depth),
            Self::Write { depth } => Script::requests(keys(script::write)?, depth),
            Self::ReadDomains => {
                let paths = (0..512).map(|k| tree::path((k * 61 + n * 7) % 1000, k % tree::NODES));
                let requests = paths
                    .map(|path| script::read(&path))
                    .collect::<Result<_>>()?;
                Script::requests(requests, 16)
            }
            Self::Directory => Script::requests(vec![script::directory("/bench/d")?], 1),
            Self::Transaction { requests, together } => {
                let body = (0..requests)
                    .map(|k| {
                        let path = path(n, k / 2 % 8);
                        if k % 2 == 0 {
                            script::read(&path)
                        } else {
                            script::write(&path)
                        }
                    })
                    .collect::<Result<_>>()?;
                Script::transactions(body, together)?
            }
            Self::Contended => {
                let shared = "/bench/shared";
                let body = vec![script::read(shared)?, script::write(shared)?];
                Script::transactions(body, false)?
            }
        })
    }

    /// Whether an echo of the same bytes is the limit: not where answers are much longer than requests.
    fn has_limit(self) -> bool {
        !matches!(self, Self::Directory)
    }
}

pub(super) fn run(report: &mut Report) -> Result<()> {
    for case in CASES {
        if let Err(error) = measure(report, case) {
            report.absent(
                &format!("xenstore/{}", case.row),
                Unit::PerSecond,
                &format!("{error:#}"),
            );
        }
    }
    Ok(())
}

fn measure(report: &mut Report, case: &Case) -> Result<()> {
    let limit = case.talk.has_limit().then(|| {
        let connections = case.connections + case.idle;
        Side::new(case, Daemon::echo(connections)?, false)
    });
    let sides = Sides::new(|daemon| Side::new(case, daemon, true), limit)?;
    let name = format!("xenstore/{}", case.row);
    sides.contest(report, &name, Unit::PerSecond, &mut |side, slice| {
        side.rate(slice)
    })
}
