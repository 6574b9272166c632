//! Several threads: nobody waits for ever, and nothing comes to who is gone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use cantle_netport::{Frame, FrameSink, NetDevice};
use cantle_switch::test_utils::{NullSink, Owned, send};
use cantle_switch::{MacAddr, PortOptions, Switch, SwitchOptions, SwitchPort};

const PATIENCE: Duration = Duration::from_secs(60);

fn station(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn frame(to: MacAddr, from: MacAddr) -> Owned {
    Owned::new(to, from, &[], &[0x88; 48])
}

/// Runs something that must end.
fn ends(what: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = thread::spawn(move || {
        what();
        let _ = done.send(());
    });
    match wait.recv_timeout(PATIENCE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("threads wait for each other"),
        _ => thread.join().unwrap(),
    }
}

/// A sink with a lock, like a queue of a back end.
#[derive(Default)]
struct Locking(Mutex<u64>);

impl FrameSink for Locking {
    fn deliver(&self, batch: &mut [Frame<'_>]) {
        let mut count = self.0.lock().unwrap();
        for frame in batch {
            *count += 1;
            frame.taken = true;
            if count.is_multiple_of(64) {
                thread::yield_now();
            }
        }
    }
}

/// A sink that must not be called once it is dead.
#[derive(Default)]
struct Mortal {
    dead: AtomicBool,
    calls: AtomicU64,
    haunted: AtomicBool,
}

impl FrameSink for Mortal {
    fn deliver(&self, batch: &mut [Frame<'_>]) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        for _ in 0..3 {
            thread::yield_now();
            if self.dead.load(Ordering::SeqCst) {
                self.haunted.store(true, Ordering::SeqCst);
            }
        }
        batch.iter_mut().for_each(|frame| frame.taken = true);
    }
}

/// Sends to `to` and to everybody until told to stop.
fn sender(
    port: &SwitchPort,
    to: MacAddr,
    from: MacAddr,
    stop: &Arc<AtomicBool>,
) -> thread::JoinHandle<u64> {
    let (mut queue, stop) = (port.open_queue().unwrap(), stop.clone());
    thread::spawn(move || {
        let batch = [
            frame(to, from),
            frame(to, from),
            frame(MacAddr::BROADCAST, from),
            frame(to, from),
        ];
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            sent += send(&mut *queue, &batch, 64)
                .iter()
                .filter(|taken| **taken)
                .count() as u64;
        }
        sent
    })
}

#[test]
fn ports_that_send_at_each_other_do_not_wait_for_each_other() {
    ends(|| {
        let switch = Switch::new(SwitchOptions::default());
        let ports: Vec<SwitchPort> = (0..3)
            .map(|_| switch.add_port(PortOptions::default()).unwrap())
            .collect();
        for port in &ports {
            port.set_sink(Some(Arc::new(Locking::default())));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..3_u8)
            .flat_map(|n| {
                let to = station((n + 1) % 3);
                [0, 1].map(|_| sender(&ports[usize::from(n)], to, station(n), &stop))
            })
            .collect();
        // Writers among the readers.
        for _ in 0..200 {
            ports[0].set_sink(Some(Arc::new(Locking::default())));
            ports[1].set_sink(None);
            ports[1].set_sink(Some(Arc::new(Locking::default())));
            thread::sleep(Duration::from_micros(300));
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            assert!(thread.join().unwrap() > 0);
        }
        for port in ports {
            assert!(port.counters().tx_packets > 0);
        }
    });
}

/// XSA-527: a back end is torn down while others still send to it.
#[test]
fn a_sink_taken_away_is_not_called_any_more() {
    ends(|| {
        let switch = Switch::new(SwitchOptions::default());
        let from = switch.add_port(PortOptions::default()).unwrap();
        let to = switch.add_port(PortOptions::default()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [1, 1].map(|n| sender(&from, station(2), station(n), &stop));
        let mut calls = 0;
        for round in 0..600 {
            let sink = Arc::new(Mortal::default());
            to.set_sink(Some(sink.clone()));
            while sink.calls.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            match round % 3 {
                // Taken away, or replaced.
                0 | 1 => {
                    to.set_sink((round % 3 == 0).then(|| Arc::new(NullSink) as Arc<dyn FrameSink>))
                }
                _ => {
                    let gone = switch.add_port(PortOptions::default()).unwrap();
                    let other = Arc::new(Mortal::default());
                    gone.set_sink(Some(other.clone()));
                    while other.calls.load(Ordering::SeqCst) == 0 {
                        thread::yield_now();
                    }
                    drop(gone);
                    other.dead.store(true, Ordering::SeqCst);
                    assert_eq!(Arc::strong_count(&other), 1);
                    thread::yield_now();
                    assert!(!other.haunted.load(Ordering::SeqCst));
                    to.set_sink(None);
                }
            }
            sink.dead.store(true, Ordering::SeqCst);
            assert_eq!(Arc::strong_count(&sink), 1, "nobody holds it");
            thread::sleep(Duration::from_micros(100));
            assert!(!sink.haunted.load(Ordering::SeqCst));
            calls += sink.calls.load(Ordering::SeqCst);
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(calls >= 600);
    });
}

#[test]
fn a_port_removed_while_it_sends_is_forgotten() {
    ends(|| {
        let switch = Switch::new(SwitchOptions::default());
        let to = switch.add_port(PortOptions::default()).unwrap();
        to.set_sink(Some(Arc::new(NullSink)));
        for _ in 0..300 {
            let port = switch.add_port(PortOptions::default()).unwrap();
            let id = port.id();
            let stop = Arc::new(AtomicBool::new(false));
            let thread = sender(&port, station(9), station(1), &stop);
            while switch.addresses().is_empty() {
                thread::yield_now();
            }
            assert!(switch.remove_port(id));
            assert_eq!(switch.addresses(), []);
            thread::yield_now();
            assert_eq!(switch.addresses(), []);
            stop.store(true, Ordering::Relaxed);
            thread.join().unwrap();
            drop(port);
            assert_eq!(switch.ports().len(), 1);
        }
    });
}

#[test]
fn a_port_removed_by_name_takes_no_sink() {
    let switch = Switch::new(SwitchOptions::default());
    let port = switch.add_port(PortOptions::default()).unwrap();
    let sinks = [Arc::new(Mortal::default()), Arc::new(Mortal::default())];
    port.set_sink(Some(sinks[0].clone()));
    assert!(switch.remove_port(port.id()) && !switch.remove_port(port.id()));
    port.set_sink(Some(sinks[1].clone()));
    assert_eq!(sinks.map(|sink| Arc::strong_count(&sink)), [1, 1]);
}

#[test]
fn options_change_while_frames_pass() {
    ends(|| {
        let switch = Switch::new(SwitchOptions::default());
        let ports: Vec<SwitchPort> = (0..3)
            .map(|_| switch.add_port(PortOptions::default()).unwrap())
            .collect();
        for port in &ports {
            port.set_sink(Some(Arc::new(NullSink)));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..2_u8)
            .map(|n| sender(&ports[usize::from(n)], station(1 - n), station(n), &stop))
            .collect();
        for round in 0..300 {
            let options = PortOptions {
                isolated: round % 2 == 0,
                learn: round % 3 != 0,
                ..PortOptions::default()
            };
            ports[0].set_options(options.clone()).unwrap();
            ports[1].set_options(options).unwrap();
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        // From now on, both are isolated: each reaches the third only.
        let isolated = PortOptions {
            isolated: true,
            ..PortOptions::default()
        };
        for port in &ports[..2] {
            port.set_options(isolated.clone()).unwrap();
        }
        let before = ports[1].counters().tx_packets;
        let mut queue = ports[0].open_queue().unwrap();
        let _ = send(
            &mut *queue,
            &[
                frame(station(1), station(0)),
                frame(MacAddr::BROADCAST, station(0)),
            ],
            64,
        );
        assert_eq!(ports[1].counters().tx_packets, before);
    });
}
