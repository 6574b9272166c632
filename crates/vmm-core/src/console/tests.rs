use std::io::{Read, Seek, Write};

use super::*;
use crate::boot::layout;
use crate::memory::HeapPage;
use crate::test_utils::Harness;

/// The ring's page: 1024 bytes in, 2048 out, then the four indices.
const PAGE: u64 = layout::CONSOLE_GFN.0 << 12;
const OUT: u64 = PAGE + 1024;
const IN_CONS: u64 = PAGE + 3072;
const IN_PROD: u64 = IN_CONS + 4;
const OUT_CONS: u64 = IN_CONS + 8;
const OUT_PROD: u64 = IN_CONS + 12;

struct Bench {
    harness: Harness,
    ring: ConsoleRing<fn() -> bool>,
    output: std::fs::File,
}

fn bench(input: &[u8]) -> Option<Bench> {
    let mut harness = Harness::new()?;
    let output = tempfile::tempfile().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    file.rewind().unwrap();
    let to = Arc::new(ConsoleOutput::new(output.try_clone().unwrap().into()));
    let page = harness.domain().ram.ring(HeapPage::CONSOLE);
    let channel = harness.console_channel().unwrap();
    let never: fn() -> bool = || false;
    let mut ring = ConsoleRing::new(page, channel, to, file.into(), never);
    ring.regular = true;
    Some(Bench {
        harness,
        ring,
        output,
    })
}

impl Bench {
    fn text(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.output.rewind().unwrap();
        self.output.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn kvm_what_the_guest_writes_comes_out_also_over_the_rings_end() {
    let Some(mut b) = bench(b"") else { return };
    b.harness.put(OUT + 2046, b"he");
    b.harness.put(OUT, b"llo");
    for index in [OUT_CONS, OUT_PROD] {
        b.harness.put(index, &(u32::MAX - 1));
    }
    b.harness.put(OUT_PROD, &3_u32);
    b.ring.pump();
    assert_eq!(b.text(), b"hello");
    assert_eq!(b.harness.get::<u32>(OUT_CONS), 3);
}

#[test]
fn kvm_input_waits_for_room_and_is_not_read_ahead() {
    let input: Vec<u8> = (0..=u8::MAX).cycle().take(5000).collect();
    let Some(mut b) = bench(&input) else { return };
    for _ in 0..100 {
        b.ring.pump();
        assert!(b.ring.pending.len() <= 256);
    }
    assert_eq!(b.harness.get::<u32>(IN_PROD), 1024, "the ring is full");
    let mut read: Vec<u8> = Vec::new();
    for _ in 0..100 {
        let (cons, prod): (u32, u32) = (b.harness.get(IN_CONS), b.harness.get(IN_PROD));
        for index in cons..prod {
            read.push(b.harness.get(PAGE + u64::from(index % 1024)));
        }
        b.harness.put(IN_CONS, &prod);
        b.ring.pump();
    }
    assert_eq!(read, input);
    assert!(b.ring.input.is_none(), "its end was seen");
}

#[test]
fn kvm_impossible_indices_end_the_service_for_good() {
    for (index, value) in [
        (OUT_PROD, 2049_u32),
        (OUT_CONS, 1),
        (IN_CONS, 1),
        (IN_PROD, 1025),
    ] {
        let Some(mut b) = bench(b"some input") else {
            return;
        };
        b.harness.put(index, &value);
        b.ring.pump();
        assert!(b.ring.broken, "{index:#x}");
        b.harness.put(IN_CONS, &[0_u32; 4]);
        b.harness.put(OUT_PROD, &5_u32);
        for _ in 0..3 {
            b.ring.pump();
        }
        assert_eq!(b.harness.get::<u32>(OUT_CONS), 0);
        assert!(b.ring.pending.len() <= 256);
        drop(b.ring);
        assert_eq!(b.output.stream_position().unwrap(), 0);
    }
}
