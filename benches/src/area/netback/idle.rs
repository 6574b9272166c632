//! What connected interfaces cost that have nothing to do.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use cantle_netback::BackendOptions;
use cantle_netback::test_utils::{FrontOptions, NetFront, World};
use cantle_switch::{PortOptions, Switch, SwitchOptions};
use cantle_xenstore::xenbus::XenbusState;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::ours::PATIENCE;
use super::serving::Serving;
use crate::cpu_clock::CpuClock;
use crate::measure::{Row, Samples, Unit};
use crate::report::Report;

const ROW: &str = "netback/idle_1000";
const INTERFACES: usize = 1000;
/// Buffers for each direction; idle ones cost nothing but memory.
const BUFFERS: u16 = 8;
const PAGES: usize = 32;

pub(super) fn run(report: &mut Report) {
    if !report.wants(ROW) {
        return;
    }
    match measure(report) {
        Ok(row) => report.push(row),
        Err(error) => report.absent(ROW, Unit::Nanoseconds, &format!("{error:#}")),
    }
}

/// The CPU time of the whole process in a second.
fn measure(report: &Report) -> Result<Row> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    let switch = Switch::new(SwitchOptions::default());
    let interfaces = (0..INTERFACES)
        .map(|_| Interface::start(&switch))
        .collect::<Result<Vec<_>>>()?;
    let plan = report.plan().longer(4);
    let clock = CpuClock::of(std::process::id())?;
    // What is left of connecting.
    std::thread::sleep(plan.slice * 5);
    let mut used = Samples::default();
    for _ in 0..plan.rounds {
        let (before, begun) = (clock.now()?, Instant::now());
        std::thread::sleep(plan.slice * 5);
        let part = begun.elapsed().as_secs_f64();
        used.push((clock.now()? - before).as_secs_f64() * 1e9 / part);
    }
    ensure!(
        interfaces
            .iter()
            .all(|one| one.front.backend_state() == XenbusState::CONNECTED),
        "not all are still connected"
    );
    let none = Samples::default();
    Ok(Row::new(ROW, Unit::Nanoseconds, &used, &none, &none))
}

/// The back end ends before what it uses.
struct Interface {
    _serving: Serving,
    front: NetFront,
    _world: World,
}

impl Interface {
    fn start(switch: &Arc<Switch>) -> Result<Self> {
        let world = World::with_pages(PAGES);
        let port = switch.add_port(PortOptions::default())?;
        let backend = world.backend_with(Arc::new(port), BackendOptions::default())?;
        let serving = Serving::start(backend)?;
        let front = world.front(&FrontOptions {
            buffers: BUFFERS,
            rx_buffers: BUFFERS,
            ..FrontOptions::default()
        });
        ensure!(
            front.wait_state(XenbusState::CONNECTED, PATIENCE),
            "a back end does not connect"
        );
        Ok(Self {
            _serving: serving,
            front,
            _world: world,
        })
    }
}
