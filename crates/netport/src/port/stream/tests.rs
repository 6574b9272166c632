use std::io::{Read, Write};

use super::*;
use crate::headers::IpVersion;
use crate::test_utils::{Shape, transport_sum};
use crate::{Checksum, Gso, GsoKind, Part};
use proptest::prelude::*;

fn pair() -> (StreamPort, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (StreamPort::new(ours).unwrap(), theirs)
}

fn send(port: &mut StreamPort, frames: &[Vec<u8>]) -> Vec<bool> {
    let with = frames.iter().map(|f| (f.clone(), Offload::default()));
    send_with(port, &with.collect::<Vec<_>>())
}

fn send_with(port: &mut StreamPort, frames: &[(Vec<u8>, Offload)]) -> Vec<bool> {
    let parts: Vec<_> = frames.iter().map(|(f, _)| [Part::from(&f[..])]).collect();
    let mut batch: Vec<_> = frames
        .iter()
        .zip(&parts)
        .map(|((bytes, offload), parts)| Frame {
            parts,
            len: bytes.len(),
            offload: *offload,
            taken: false,
        })
        .collect();
    port.send(&mut batch);
    batch.iter().map(|frame| frame.taken).collect()
}

fn receive(port: &mut StreamPort) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 70_000];
    let (a, b) = buffer.split_at_mut(33);
    let received = port.receive(&mut [PartMut::from(a), PartMut::from(b)])?;
    Ok(match received {
        Received::Frame { len, .. } => Some(buffer[..len].to_vec()),
        Received::Lost => panic!("there was room"),
        Received::Nothing => None,
    })
}

fn form(frame: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(frame);
    bytes
}

/// Whole frames of a stream's beginning, by the plainest of means; and what is left.
fn frames_of(mut bytes: &[u8]) -> (Vec<Vec<u8>>, &[u8]) {
    let mut frames = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        let Some((frame, rest)) = rest.split_at_checked(len) else {
            break;
        };
        frames.push(frame.to_vec());
        bytes = rest;
    }
    (frames, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_come_out_as_they_were_however_they_are_cut(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 14..3000), 0..12),
        cuts in proptest::collection::vec(1..4000_usize, 1..20),
    ) {
        let (mut port, mut peer) = pair();
        let stream: Vec<u8> = frames.iter().flat_map(|frame| form(frame)).collect();
        let mut came = Vec::new();
        let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            peer.write_all(now).unwrap();
            rest = later;
            while let Some(frame) = receive(&mut port).unwrap() {
                came.push(frame);
            }
        }
        prop_assert_eq!(came, frames);
    }

    /// The peer reads now and then: what it has in the end is the frames that were taken, whole and in order.
    #[test]
    fn what_is_taken_arrives_whole_and_what_is_not_not_at_all(
        batches in proptest::collection::vec(
            (proptest::collection::vec(14..60_000_usize, 0..12), 0..400_000_usize),
            1..12,
        ),
    ) {
        let (mut port, mut peer) = pair();
        peer.set_nonblocking(true).unwrap();
        let (mut taken, mut came, mut number) = (Vec::new(), Vec::new(), 0_u8);
        for (lens, reads) in batches {
            let frames: Vec<_> = lens.iter().map(|len| { number = number.wrapping_add(1); vec![number; *len] }).collect();
            for (frame, ok) in frames.iter().zip(send(&mut port, &frames)) {
                if ok {
                    taken.push(frame.clone());
                }
            }
            let mut buffer = vec![0; reads];
            let mut at = 0;
            while let Ok(read @ 1..) = peer.read(&mut buffer[at..]) {
                at += read;
            }
            came.extend(&buffer[..at]);
        }
        // What waits is written when there is room.
        for _ in 0..100 {
            let mut buffer = vec![0; 400_000];
            while let Ok(read @ 1..) = peer.read(&mut buffer) {
                came.extend(&buffer[..read]);
            }
            prop_assert_eq!(receive(&mut port).unwrap(), None);
        }
        let (frames, rest) = frames_of(&came);
        prop_assert!(rest.is_empty());
        prop_assert!(frames == taken);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (mut port, mut peer) = pair();
        peer.write_all(&bytes).unwrap();
        drop(peer);
        for _ in 0..100 {
            if receive(&mut port).is_err() {
                break;
            }
        }
        prop_assert!(!port.is_open());
        prop_assert_eq!(receive(&mut port).unwrap(), None);
        prop_assert_eq!(send(&mut port, &[vec![1; 60]]), [false]);
    }
}

#[test]
fn impossible_lengths_close_the_port() {
    for len in [0_u32, 13, 65_559, u32::MAX] {
        let (mut port, mut peer) = pair();
        peer.write_all(&form(&[1; 60])).unwrap();
        peer.write_all(&len.to_be_bytes()).unwrap();
        assert_eq!(receive(&mut port).unwrap(), Some(vec![1; 60]));
        let error = receive(&mut port).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{len}");
        assert!(!port.is_open());
        // The other side sees it.
        assert_eq!(peer.read(&mut [0; 8]).unwrap_or(0), 0);
    }
}

#[test]
fn the_end_of_a_frame_wakes_the_reader_when_there_is_room() {
    let (mut port, mut peer) = pair();
    let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(
        &outer,
        port.fd().unwrap(),
        epoll::EventData::new_u64(7),
        flags,
    )
    .unwrap();
    let wait = || {
        let mut events = Vec::with_capacity(4);
        let patience = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        epoll::wait(
            &outer,
            rustix::buffer::spare_capacity(&mut events),
            Some(&patience),
        )
        .unwrap();
        events.len()
    };
    assert_eq!(wait(), 0);
    let frames = vec![vec![3; 60_000]; 20];
    let taken = send(&mut port, &frames).iter().filter(|ok| **ok).count();
    assert!(taken < 20, "the peer does not read");
    assert_eq!(wait(), 0, "there is no room yet");
    let mut buffer = vec![0; 60_004 * taken];
    let mut at = 0;
    peer.set_nonblocking(true).unwrap();
    while let Ok(read @ 1..) = peer.read(&mut buffer[at..]) {
        at += read;
    }
    assert!(at < buffer.len(), "a frame's end waits");
    assert_eq!(wait(), 1, "there is room");
    assert_eq!(receive(&mut port).unwrap(), None);
    peer.set_nonblocking(false).unwrap();
    peer.read_exact(&mut buffer[at..]).unwrap();
    assert_eq!(frames_of(&buffer).0.len(), taken);
    // And it is for reading only again.
    assert!(wait() <= 1);
    assert_eq!(receive(&mut port).unwrap(), None);
    peer.write_all(&form(&[9; 60])).unwrap();
    assert_eq!(wait(), 1);
    assert_eq!(receive(&mut port).unwrap(), Some(vec![9; 60]));
}

#[test]
fn sums_are_completed_and_large_frames_cut_but_for_a_peer_that_takes_them() {
    let shape = Shape::tcp(IpVersion::V6, vec![5; 20_000]);
    let checksum = Checksum::Blank {
        start: 54,
        offset: 16,
    };
    let gso = Gso {
        kind: GsoKind::TcpV6,
        size: 1000,
        header_len: 74,
        ecn: false,
    };
    let offload = Offload {
        checksum,
        gso: Some(gso),
    };
    for (large, count) in [(0, 20), (19_000, 20), (65_535, 1)] {
        let (port, mut peer) = pair();
        let mut port = port.with_large(large);
        assert_eq!(
            send_with(&mut port, &[(shape.build(true), offload)]),
            [true]
        );
        drop(port);
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        let (frames, _) = frames_of(&bytes);
        assert_eq!(frames.len(), count);
        for frame in &frames {
            assert_eq!(transport_sum(&shape, frame), 0xffff);
        }
    }
}
