use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::Block;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};

use super::*;
use crate::headers::IpVersion;
use crate::port::NullPort;
use crate::test_utils::{Recorded, Recorder, Shape};
use crate::{Offload, Part};

fn packets(path: &Path) -> Vec<EnhancedPacketBlock<'static>> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap().into_owned() {
            packets.push(packet);
        }
    }
    packets
}

fn flags(packet: &EnhancedPacketBlock<'_>) -> u32 {
    let flags = packet.options.iter().find_map(|option| match option {
        EnhancedPacketOption::Flags(flags) => Some(*flags),
        _ => None,
    });
    flags.unwrap()
}

fn send(port: &mut dyn NetPort, frames: &[Vec<u8>]) {
    let parts: Vec<_> = frames
        .iter()
        .map(|bytes| {
            let (first, second) = bytes.split_at(bytes.len() / 2);
            [Part::from(first), Part::from(second)]
        })
        .collect();
    let mut batch: Vec<_> = frames
        .iter()
        .zip(&parts)
        .map(|(b, p)| frame(b, p))
        .collect();
    port.send(&mut batch);
}

fn frame<'a>(bytes: &[u8], parts: &'a [Part<'a>]) -> Frame<'a> {
    Frame {
        parts,
        len: bytes.len(),
        offload: Offload::default(),
        taken: false,
    }
}

fn some_frames() -> Vec<Vec<u8>> {
    [0_usize, 10, 1446, 60_000]
        .map(|len| Shape::tcp(IpVersion::V4, vec![7; len]).build(false))
        .to_vec()
}

#[test]
fn frames_of_both_ways_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.pcapng");
    let file = CaptureFile::create(&path, "vif1.0", CaptureOptions::default()).unwrap();
    let (recorder, handle) = Recorder::new().unwrap();
    let mut port = Capture::new(recorder, file.clone());
    let frames = some_frames();
    send(&mut port, &frames);
    assert_eq!(handle.take_sent().len(), frames.len(), "passed on");
    let mut buffer = vec![0; 70_000];
    for bytes in &frames {
        let offload = Offload::default();
        handle.inject(Recorded {
            bytes: bytes.clone(),
            offload,
        });
        let (a, b) = buffer.split_at_mut(40);
        let into = &mut [PartMut::from(a), PartMut::from(b)];
        let len = bytes.len();
        assert_eq!(
            port.receive(into).unwrap(),
            Received::Frame { len, offload }
        );
    }
    let nothing = port.receive(&mut [PartMut::from(&mut buffer[..])]);
    assert_eq!(nothing.unwrap(), Received::Nothing);
    assert_eq!(file.lost(), 0);
    drop((port, file));

    let packets = packets(&path);
    let expected = frames
        .iter()
        .map(|f| (f, 2))
        .chain(frames.iter().map(|f| (f, 1)));
    assert_eq!(packets.len(), 2 * frames.len());
    for (packet, (bytes, direction)) in packets.iter().zip(expected) {
        assert!(packet.data == &bytes[..]);
        assert_eq!(packet.original_len as usize, bytes.len());
        assert_eq!(flags(packet), direction);
        let now = std::time::SystemTime::now();
        let age = now.duration_since(std::time::UNIX_EPOCH + packet.timestamp);
        assert!(age.unwrap() < Duration::from_secs(60));
    }
    read_by_tcpdump(&path, packets.len());
}

fn read_by_tcpdump(path: &Path, count: usize) {
    let output = Command::new("tcpdump").args(["-nvttr"]).arg(path).output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: there is no tcpdump");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let time: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    assert!((now.unwrap().as_secs_f64() - time).abs() < 60.0, "{text}");
    assert_eq!(
        text.matches("10.0.0.1.12345 > 10.0.0.2.80").count(),
        count,
        "{text}"
    );
    assert!(
        text.contains("(correct)") && !text.contains("incorrect"),
        "{text}"
    );
}

#[test]
fn frames_that_are_pushed_are_captured() {
    struct Pushing(Option<Arc<dyn FrameSink>>);
    impl NetPort for Pushing {
        fn send(&mut self, batch: &mut [Frame<'_>]) {
            // A mirror.
            if let Some(sink) = &self.0 {
                sink.deliver(batch);
            }
        }
        fn receive(&mut self, _: &mut [PartMut<'_>]) -> io::Result<Received> {
            Ok(Received::Nothing)
        }
        fn fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }
        fn accept(&mut self, _: Offloads) -> io::Result<()> {
            Ok(())
        }
        fn set_sink(&mut self, sink: Option<Arc<dyn FrameSink>>) {
            self.0 = sink;
        }
    }
    #[derive(Default)]
    struct Counting(Mutex<usize>);
    impl FrameSink for Counting {
        fn deliver(&self, batch: &mut [Frame<'_>]) {
            *self.0.lock().unwrap() += batch.len();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pushed.pcapng");
    let file = CaptureFile::create(&path, "vif1.0", CaptureOptions::default()).unwrap();
    let mut port = Capture::new(Pushing(None), file);
    let sink = Arc::new(Counting::default());
    port.set_sink(Some(sink.clone()));
    send(&mut port, &some_frames());
    assert_eq!(*sink.0.lock().unwrap(), 4);
    port.set_sink(None);
    assert_eq!(Arc::strong_count(&sink), 1);
    drop(port);
    let ways: Vec<_> = packets(&path).iter().map(flags).collect();
    assert_eq!(ways, [2, 2, 2, 2, 1, 1, 1, 1]);
}

#[test]
fn what_is_too_much_is_lost_to_the_file_and_counted_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.pcapng");
    let options = CaptureOptions {
        snaplen: 60,
        waiting_max: 4 * (60 + 64),
    };
    let file = CaptureFile::create(&path, "vif1.0", options).unwrap();
    let device = CaptureDevice::new(NullPort, file.clone());
    let mut queues = [device.open_queue().unwrap(), device.open_queue().unwrap()];
    let frames = vec![vec![5; 1000]; 100];
    for _ in 0..50 {
        for queue in &mut queues {
            send(&mut **queue, &frames);
        }
    }
    // The writer comes after us, and there is room again.
    let until = Instant::now() + Duration::from_secs(5);
    let before = file.lost();
    assert!(before > 0 && before < 10_000);
    let mut more = 0;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
        send(&mut *queues[0], &frames[..1]);
        more += 1;
        if file.lost() < before + more {
            break;
        }
    }
    let lost = file.lost();
    drop((queues, device, file));
    let packets = packets(&path);
    assert_eq!(packets.len() as u64 + lost, 10_000 + more);
    let mut counted = 0;
    for packet in &packets {
        assert_eq!((packet.data.len(), packet.original_len), (60, 1000));
        counted += packet
            .options
            .iter()
            .map(|option| match option {
                EnhancedPacketOption::DropCount(lost) => *lost,
                _ => 0,
            })
            .sum::<u64>();
    }
    assert_eq!(counted, lost);
}

#[test]
fn the_file_is_up_to_date_after_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("live.pcapng");
    let file = CaptureFile::create(&path, "vif1.0", CaptureOptions::default()).unwrap();
    let mut port = Capture::new(NullPort, file);
    for count in 1..=2 {
        send(&mut port, &[vec![1; 60]]);
        let until = Instant::now() + Duration::from_secs(10);
        while packets(&path).len() < count {
            assert!(Instant::now() < until, "nothing is written");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_file_that_cannot_be_written_costs_the_frames_nothing() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        eprintln!("SKIPPED: there is no /dev/full");
        return;
    }
    assert!(CaptureFile::create(full, "vif1.0", CaptureOptions::default()).is_err());
    // One that is full later: a pipe whose reader has gone.
    let (reader, writer) = std::io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
    let file = CaptureFile::create(Path::new(&path), "vif1.0", CaptureOptions::default()).unwrap();
    drop(reader);
    let (recorder, handle) = Recorder::new().unwrap();
    let mut port = Capture::new(recorder, file.clone());
    let until = Instant::now() + Duration::from_secs(10);
    let mut sent = 0;
    while file.lost() == 0 {
        assert!(Instant::now() < until, "the file is never given up");
        send(&mut port, &some_frames());
        sent += 4;
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(handle.take_sent().len(), sent);
}
