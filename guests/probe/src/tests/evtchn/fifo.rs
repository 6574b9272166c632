//! The FIFO interface: switching to it, its calls and their errors, its size, and the way back.

use cantle_abi::event_channel::{EVTCHN_FIFO_NR_CHANNELS, EVTCHNSTAT_closed};
use cantle_abi::{DomId, Errno, Gfn, Port};

use super::{SOON_MS, close_both, pair};
use crate::events::fifo;
use crate::report::{Because as _, Failure, Outcome, refused};
use crate::text::Text;
use crate::{Probe, clock, console, ensure, events, fail, memory, say};

/// What the header has not: Xen's error for the FIFO interface's calls under the 2-level one.
const EOPNOTSUPP: Errno = Errno(95);

/// A frame that is nowhere.
const NOWHERE: Gfn = Gfn(0xd0000);

fn absent(what: &str) -> Failure {
    Failure::Absent(Text::format(format_args!("{what}")))
}

fn with(expected: Errno, result: Result<impl Sized, Errno>, what: &str) -> Outcome {
    let errno = refused(result, what)?;
    ensure!(errno == expected, "{what}: {errno}, not {expected}");
    Ok(())
}

/// Has events come by FIFO; from here on until `reset`.
pub(super) fn ready() -> Outcome {
    events::prepare()?;
    if !fifo::in_use() {
        fifo::enter()?;
    }
    if fifo::words() == 0 {
        fifo::expand(fifo::MASKED)?;
    }
    Ok(())
}

/// Under the 2-level interface: its calls are refused, a wrong control block changes nothing, and a domain that has opened ports
/// stays with what it has.
pub(crate) fn refusals(_: &mut Probe) -> Outcome {
    events::prepare()?;
    if fifo::in_use() {
        return Err(absent("the FIFO interface is in use already"));
    }
    let page = memory::page()?.gfn();
    with(
        EOPNOTSUPP,
        events::expand_array(page),
        "expand_array under 2-level",
    )?;
    let port = events::bind_ipi(0).because("bind_ipi")?;
    with(
        Errno::ENOSYS,
        events::set_priority(port, 0),
        "set_priority under 2-level",
    )?;
    with(
        Errno::EBUSY,
        events::init_control(0, page, 0),
        "FIFO with a port open",
    )?;
    with(
        Errno::ENOSYS,
        events::set_priority(port, 0),
        "set_priority after that",
    )?;
    events::close(port).because("close")?;

    let init = events::init_control;
    with(
        Errno::ENOENT,
        init(5000, page, 0),
        "init_control of vCPU 5000",
    )?;
    with(Errno::EINVAL, init(0, page, 4), "a control block at byte 4")?;
    with(
        Errno::EINVAL,
        init(0, page, 4032),
        "a control block across the page's end",
    )?;
    with(
        Errno::EINVAL,
        init(0, page, u32::MAX - 7),
        "a control block far out",
    )?;
    with(
        Errno::EINVAL,
        init(0, NOWHERE, 0),
        "a control block nowhere",
    )?;
    with(
        EOPNOTSUPP,
        events::expand_array(page),
        "expand_array after all that",
    )
}

/// What is pending when the domain switches comes along, and waits for its event word.
pub(crate) fn carry(probe: &mut Probe) -> Outcome {
    events::prepare()?;
    if fifo::in_use() {
        return Err(absent("the FIFO interface is in use already"));
    }
    let store = probe.store()?;
    let port = store.port();
    events::mask(port);
    store.read(&crate::path!("name"))?;
    ensure!(
        clock::wait(SOON_MS, || events::is_pending(port)),
        "xenstore's port, masked, does not become pending"
    );
    fifo::enter()?;
    ensure!(fifo::bits(port) == 0, "an event word before there is one");
    // All begin masked, as Linux has it.
    fifo::expand(fifo::MASKED)?;
    let bits = fifo::bits(port);
    ensure!(
        bits == fifo::PENDING | fifo::MASKED,
        "the word of a port that was pending is {bits:#x}"
    );
    let before = events::count(port);
    events::unmask(port).because("unmask")?;
    ensure!(
        clock::wait(SOON_MS, || events::count(port) == before + 1),
        "what was pending at the switch is not delivered"
    );
    store.read(&crate::path!("name")).map(drop)
}

/// The calls' errors once FIFO is in use, and which interface it is.
pub(crate) fn control(_: &mut Probe) -> Outcome {
    ready()?;
    let page = memory::page()?.gfn();
    let init = events::init_control;
    with(Errno::EINVAL, init(0, page, 0), "a second control block")?;
    with(
        Errno::ENOENT,
        init(5000, page, 0),
        "init_control of vCPU 5000",
    )?;
    with(
        Errno::EINVAL,
        init(0, page, 12),
        "a control block at byte 12",
    )?;
    with(
        Errno::EINVAL,
        events::expand_array(NOWHERE),
        "an array page nowhere",
    )?;
    let port = events::bind_ipi(0).because("bind_ipi")?;
    let set = events::set_priority;
    for priority in [16, u32::MAX] {
        with(
            Errno::EINVAL,
            set(port, priority),
            "a priority that there is not",
        )?;
    }
    for priority in [0, 15, 7] {
        set(port, priority).because("set_priority")?;
    }
    events::close(port).because("close")?;
    with(Errno::EACCES, set(port, 0), "the priority of a closed port")?;
    let beyond = Port(EVTCHN_FIFO_NR_CHANNELS);
    with(Errno::EINVAL, set(beyond, 0), "the priority of port 131072")
}

/// Ports beyond the 2-level interface's last, and one whose word comes after its event.
pub(crate) fn many(_: &mut Probe) -> Outcome {
    const COUNT: usize = 5_000;
    ready()?;
    while fifo::words() < 4 * fifo::WORDS {
        fifo::expand(fifo::MASKED)?;
    }
    let mut ports = [Port(0); COUNT];
    for port in &mut ports {
        *port = events::bind_ipi(0).because("bind_ipi")?;
    }
    let highest = ports.iter().copied().max().unwrap_or(Port(0));
    ensure!(
        highest.0 >= 4096,
        "the highest of {COUNT} ports is {highest}"
    );
    if fifo::words() == 4 * fifo::WORDS {
        let before = events::count(highest);
        events::send(highest).because("send")?;
        clock::wait(5, || false);
        ensure!(
            events::count(highest) == before,
            "an event arrived without an event word"
        );
        // Its words begin unmasked.
        fifo::expand(0)?;
        ensure!(
            clock::wait(SOON_MS, || events::count(highest) == before + 1),
            "the event that waited for its word does not arrive"
        );
    }
    for port in &ports {
        events::unmask(*port).because("unmask")?;
        let before = events::count(*port);
        events::send(*port).because("send")?;
        ensure!(
            clock::wait(SOON_MS, || events::count(*port) == before + 1),
            "port {port} does not signal"
        );
    }
    for port in &ports {
        events::mask(*port);
        events::close(*port).because("close")?;
    }
    Ok(())
}

/// All 131,071 ports, and none beyond. Ends as `reset` does, which is the quickest way to close them.
pub(crate) fn all(probe: &mut Probe) -> Outcome {
    ready()?;
    while fifo::words() < EVTCHN_FIFO_NR_CHANNELS {
        fifo::expand(fifo::MASKED)?;
    }
    let full = events::expand_array(memory::page()?.gfn());
    with(Errno::ENOSPC, full, "a 129th array page")?;
    let from = clock::now();
    let (mut count, mut highest) = (0, Port(0));
    let errno = loop {
        match events::bind_ipi(0) {
            Ok(port) => highest = highest.max(port),
            Err(errno) => break errno,
        }
        count += 1;
    };
    let ms = (clock::now() - from) / 1_000_000;
    ensure!(errno == Errno::ENOSPC, "with {count} ports open: {errno}");
    ensure!(
        highest.0 == EVTCHN_FIFO_NR_CHANNELS - 1,
        "the highest of {count} ports is {highest}"
    );
    events::unmask(highest).because("unmask")?;
    let before = events::count(highest);
    events::send(highest).because("send")?;
    ensure!(
        clock::wait(SOON_MS, || events::count(highest) == before + 1),
        "port {highest} does not signal"
    );
    say!("probe: fifo-all: {count} ports opened in {ms} ms, up to {highest}");
    back(probe, highest)
}

/// What stood behind a port of the toolstack's, to bind it anew.
fn behind(port: Port) -> Outcome<(DomId, Port)> {
    let status = events::status(port).because("status")?;
    match u16::try_from(status.u0) {
        Ok(dom) if status.u1 != 0 => Ok((DomId(dom), Port(status.u1))),
        _ => fail!("port {port} has nothing behind it: {status:?}"),
    }
}

/// Closes all ports, by which the domain is back at 2-level; it may choose FIFO anew. Console and xenstore are bound again.
pub(crate) fn reset(probe: &mut Probe) -> Outcome {
    events::prepare()?;
    let own = events::bind_ipi(0).because("bind_ipi")?;
    back(probe, own)
}

/// As said at `reset`, with a port of ours that is open.
fn back(probe: &mut Probe, own: Port) -> Outcome {
    let store = probe.store()?;
    let console = console::port().map(behind).transpose()?;
    let behind_store = behind(store.port())?;
    let again = reset_twice(own);
    // Whatever became of that, the words are to be heard.
    if let Some((dom, port)) = console {
        console::set_port(events::bind_interdomain(dom, port).because("the console's port")?);
    }
    let (dom, port) = behind_store;
    let port = events::bind_interdomain(dom, port).because("xenstore's port")?;
    events::unmask(port).because("unmask")?;
    store.set_port(port);
    again?;
    ensure!(!fifo::in_use(), "the FIFO interface is still in use");
    store.read(&crate::path!("name"))?;
    let (far, near) = pair()?;
    let before = events::count(far);
    events::send(near).because("send")?;
    ensure!(
        clock::wait(SOON_MS, || events::count(far) == before + 1),
        "a signal does not arrive by the 2-level interface"
    );
    close_both((far, near))
}

/// Resets, goes to FIFO, uses it, and resets again.
fn reset_twice(own: Port) -> Outcome {
    let to_two_level = || {
        crate::cpu::without_interrupts(|| -> Outcome<_> {
            events::reset(DomId::SELF).because("reset")?;
            events::were_reset();
            Ok(())
        })
    };
    to_two_level()?;
    let status = events::status(own).because("status")?;
    ensure!(
        status.status == EVTCHNSTAT_closed,
        "after a reset port {own} has status {}",
        status.status
    );
    let page = memory::page()?.gfn();
    with(
        EOPNOTSUPP,
        events::expand_array(page),
        "expand_array after a reset",
    )?;
    fifo::enter()?;
    fifo::expand(fifo::MASKED)?;
    let port = events::bind_ipi(0).because("bind_ipi")?;
    events::unmask(port).because("unmask")?;
    let before = events::count(port);
    events::send(port).because("send")?;
    ensure!(
        clock::wait(SOON_MS, || events::count(port) == before + 1),
        "after a reset FIFO does not deliver"
    );
    to_two_level()
}
