//! The shared ring: round trips in one thread, and between two threads that sleep.

use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cantle_abi::DomId;
use cantle_abi::io::blkif::{BlkifRequest, BlkifResponse};
use cantle_abi::ring::{BackRing, FrontRing, HeapPages};
use cantle_evtchn::{Channel, EventChannels, Hub};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use zerocopy::FromZeros;

use super::evtchn::{signal, take};
use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::{per_second, timed};

type Front = FrontRing<BlkifRequest, BlkifResponse, Arc<HeapPages>>;
type Back = BackRing<BlkifRequest, BlkifResponse, Arc<HeapPages>>;

pub(super) fn run(report: &mut Report) -> Result<()> {
    one_thread(report, "ring/round_trips", 1)?;
    one_thread(report, "ring/round_trips_batch32", 32)?;
    two_threads(report)
}

fn ring() -> Result<(Front, Back)> {
    let page = Arc::new(HeapPages::new(1));
    let front = Front::init(page.clone()).context("the page holds no ring")?;
    Ok((front, Back::attach(page)?))
}

/// `batch` requests go in and are published, are taken and answered, the answers are published and taken; against the same copies
/// and published indices without checks and notification rules.
fn one_thread(report: &mut Report, row: &str, batch: u32) -> Result<()> {
    const REPEATS: u32 = 64;
    let slice = report.plan().slice;
    let (mut front, mut back) = ring()?;
    let mut bare = Bare::new();
    let request = BlkifRequest::new_zeroed();
    let response = BlkifResponse::new_zeroed();
    report.contest(
        row,
        Unit::PerSecond,
        &mut || {
            per_second(slice, REPEATS * batch, || {
                timed(|| {
                    for _ in 0..REPEATS {
                        for _ in 0..batch {
                            front.push_request(black_box(&request))?;
                        }
                        black_box(front.publish_requests());
                        while let Some(request) = back.next_request()? {
                            black_box(request);
                            back.push_response(black_box(&response))?;
                        }
                        black_box(back.publish_responses());
                        black_box(back.final_check_for_requests());
                        while let Some(response) = front.next_response()? {
                            black_box(response);
                        }
                        black_box(front.final_check_for_responses());
                    }
                    Ok(())
                })
            })
        },
        Some(&mut || {
            per_second(slice, REPEATS * batch, || {
                timed(|| {
                    for _ in 0..REPEATS {
                        bare.round_trip(batch, &request, &response);
                    }
                    Ok(())
                })
            })
        }),
    );
    Ok(())
}

/// Slots and two indices, and no more.
struct Bare {
    requests: [BlkifRequest; 32],
    responses: [BlkifResponse; 32],
    req_prod: AtomicU32,
    rsp_prod: AtomicU32,
}

impl Bare {
    fn new() -> Self {
        Self {
            requests: [BlkifRequest::new_zeroed(); 32],
            responses: [BlkifResponse::new_zeroed(); 32],
            req_prod: AtomicU32::new(0),
            rsp_prod: AtomicU32::new(0),
        }
    }

    fn round_trip(&mut self, batch: u32, request: &BlkifRequest, response: &BlkifResponse) {
        let start = self.req_prod.load(Ordering::Relaxed);
        for n in 0..batch {
            self.requests[(start.wrapping_add(n) % 32) as usize] = *black_box(request);
        }
        self.req_prod
            .store(start.wrapping_add(batch), Ordering::Release);
        let mut at = start;
        while at != self.req_prod.load(Ordering::Acquire) {
            black_box(self.requests[(at % 32) as usize]);
            self.responses[(at % 32) as usize] = *black_box(response);
            at = at.wrapping_add(1);
        }
        self.rsp_prod.store(at, Ordering::Release);
        let mut at = start;
        while at != self.rsp_prod.load(Ordering::Acquire) {
            black_box(self.responses[(at % 32) as usize]);
            at = at.wrapping_add(1);
        }
    }
}

/// One request at a time between two threads that sleep on their event channels, against two threads that pass a blocking
/// eventfd to and fro.
fn two_threads(report: &mut Report) -> Result<()> {
    let plan = report.plan().longer(3);
    let sleepers = Sleepers::start()?;
    let ping_pong = PingPong::start()?;
    let (mut ours, mut bare) = (sleepers, ping_pong);
    report.contest_by(
        plan,
        "ring/round_trips_2threads",
        Unit::PerSecond,
        &mut || {
            per_second(plan.slice, 64, || {
                timed(|| (0..64).try_for_each(|_| ours.round_trip()))
            })
        },
        Some(&mut || {
            per_second(plan.slice, 64, || {
                timed(|| (0..64).try_for_each(|_| bare.round_trip()))
            })
        }),
    );
    Ok(())
}

/// A front end here, a back end in a thread, an event channel between them.
struct Sleepers {
    front: Front,
    channel: Box<dyn Channel>,
    over: Arc<AtomicBool>,
    back: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Sleepers {
    fn start() -> Result<Self> {
        let hub = Hub::new();
        let (a, b) = (hub.add_system(DomId(0))?, hub.add_system(DomId(1))?);
        let channel = a.alloc_unbound(DomId(1))?;
        let other = b.bind_interdomain(DomId(0), channel.port())?;
        let (front, back) = ring()?;
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let back = std::thread::spawn(move || serve(back, &*other, &told));
        Ok(Self {
            front,
            channel,
            over,
            back: Some(back),
        })
    }

    fn round_trip(&mut self) -> Result<()> {
        self.front.push_request(&BlkifRequest::new_zeroed())?;
        if self.front.publish_requests() {
            self.channel.notify()?;
        }
        loop {
            if self.front.next_response()?.is_some() {
                return Ok(());
            }
            if !self.front.final_check_for_responses() {
                ensure!(sleep(&*self.channel)?, "no answer within a second");
            }
        }
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = self.channel.notify();
        if let Some(back) = self.back.take() {
            let _ = back.join();
        }
    }
}

fn serve(mut back: Back, channel: &dyn Channel, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::SeqCst) {
        while back.next_request()?.is_some() {
            back.push_response(&BlkifResponse::new_zeroed())?;
        }
        if back.publish_responses() {
            channel.notify()?;
        }
        if !back.final_check_for_requests() {
            sleep(channel)?;
        }
    }
    Ok(())
}

/// Waits up to a second for a signal, and takes it.
fn sleep(channel: &dyn Channel) -> Result<bool> {
    let second = Duration::from_secs(1).try_into()?;
    let eventfd = channel.eventfd();
    let ready = poll(&mut [PollFd::new(&eventfd, PollFlags::IN)], Some(&second))?;
    Ok(channel.take() || ready > 0)
}

/// Two blocking eventfds and a thread that answers each ping by a pong.
struct PingPong {
    ping: Arc<OwnedFd>,
    pong: Arc<OwnedFd>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl PingPong {
    fn start() -> Result<Self> {
        let fd = || Ok::<_, anyhow::Error>(Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?));
        let (ping, pong, over) = (fd()?, fd()?, Arc::new(AtomicBool::new(false)));
        let (theirs, answer, told) = (ping.clone(), pong.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                take(&theirs)?;
                signal(&answer)?;
            }
            Ok(())
        });
        Ok(Self {
            ping,
            pong,
            over,
            thread: Some(thread),
        })
    }

    fn round_trip(&mut self) -> Result<()> {
        signal(&self.ping)?;
        take(&self.pong)
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = signal(&self.ping);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
