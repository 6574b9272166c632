//! Descriptors of the process: none is lost, and when there is none left, nobody spins. A process of its own, since the
//! limit is the process's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use cantle_abi::io::xs_wire::XS_READ;
use cantle_xenstore::transport::listen;
use cantle_xenstore::{Service, Shared};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The number that the next descriptor gets.
fn lowest_free() -> u64 {
    let probe = File::open("/dev/null").unwrap();
    u64::try_from(probe.as_raw_fd()).unwrap()
}

/// Takes all numbers between those in use: the limit is one of numbers, not of how many are open, and whoever starts a test
/// may leave it descriptors with high ones.
fn fill_gaps() -> Vec<File> {
    let highest = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.parse::<u64>().unwrap())
        .max()
        .unwrap();
    let mut gaps = Vec::new();
    while lowest_free() <= highest {
        gaps.push(File::open("/dev/null").unwrap());
    }
    gaps
}

fn rounds(service: &mut Service, count: u32) {
    for _ in 0..count {
        service.run_once(Some(Duration::ZERO)).unwrap();
    }
}

fn answered(service: &mut Service, client: &mut UnixStream) -> bool {
    let mut bytes = Vec::new();
    cantle_xenstore::wire::emit(&mut bytes, XS_READ, 1, 0, &[b"/\0"]).unwrap();
    client.write_all(&bytes).unwrap();
    rounds(service, 3);
    client.set_nonblocking(true).unwrap();
    client.read(&mut [0; 64]).is_ok_and(|len| len == 16)
}

/// Sends a descriptor along with a byte, as a client may try.
fn smuggle(client: &UnixStream) {
    let descriptors = [client.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = rustix::net::sendmsg(
        client,
        &[IoSlice::new(&[0])],
        &mut control,
        SendFlags::empty(),
    );
    assert_eq!(sent, Ok(1));
}

/// One test, since both parts look at all descriptors of the process.
#[test]
fn no_descriptor_is_lost_and_nobody_spins_for_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mut service = Service::new(Shared::default()).unwrap();
    service.listen(listen::bind(&path).unwrap(), None).unwrap();
    rounds(&mut service, 2);

    let before = open_descriptors();
    for round in 0..300 {
        let mut client = UnixStream::connect(&path).unwrap();
        match round % 4 {
            0 => assert!(answered(&mut service, &mut client)),
            1 => smuggle(&client),
            2 => client.write_all(&[0xff; 16]).unwrap(),
            _ => {}
        }
        drop(client);
        rounds(&mut service, 3);
    }
    assert_eq!(open_descriptors(), before);
    assert_eq!(service.connections().count(), 0);

    let limit = getrlimit(Resource::Nofile);
    let mut clients: Vec<_> = (0..4)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    // Two of the four fit.
    let _no_gaps = fill_gaps();
    let lowered = Rlimit {
        current: Some(lowest_free() + 2),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, lowered).unwrap();
    rounds(&mut service, 5);
    assert_eq!(service.connections().count(), 2);
    // Whoever waits is no reason to go round and round.
    let begun = Instant::now();
    service.run_once(Some(Duration::from_secs(5))).unwrap();
    service.run_once(Some(Duration::from_secs(5))).unwrap();
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(50), "{waited:?}");
    // One that goes makes room for one that waits, which was not sent away. Its own end stays open: that is a number, too.
    clients[0].shutdown(Shutdown::Both).unwrap();
    rounds(&mut service, 5);
    assert_eq!(service.connections().count(), 2);
    assert!(answered(&mut service, &mut clients[2]));
    setrlimit(Resource::Nofile, limit).unwrap();
    std::thread::sleep(Duration::from_millis(120));
    rounds(&mut service, 5);
    assert_eq!(service.connections().count(), 3);
}
