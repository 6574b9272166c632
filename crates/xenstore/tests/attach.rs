//! A VMM and a daemon at the attach socket.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is their way to fail"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use cantle_abi::io::xs_wire::XENSTORE_REQ;
use cantle_abi::{DomId, Errno, PAGE_SIZE, Port, SharedMemory};
use cantle_xenstore::transport::attach::{
    AttachError, Introduction, Order, PageError, ReceiveError, RingPage, Vmm, VmmSocket,
};
use cantle_xenstore::transport::listen::bind_for_vmms;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, send,
    socket_with,
};

const GUEST: Introduction = Introduction {
    domid: DomId(7),
    port: Port(3),
    offset: PAGE_SIZE as u64,
    features: u32::MAX,
    interrupted: false,
};

fn memory(pages: u64, seals: SealFlags) -> File {
    let file: File = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .unwrap()
        .into();
    file.set_len(pages * PAGE_SIZE as u64).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

fn signal() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn seqpacket() -> OwnedFd {
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

fn accept(listener: &OwnedFd) -> VmmSocket {
    // It does not wait.
    poll(&mut [PollFd::new(listener, PollFlags::IN)], None).unwrap();
    VmmSocket::new(accept_with(listener, SocketFlags::CLOEXEC).unwrap())
}

/// The next order, waited for.
fn next(socket: &VmmSocket) -> Result<Order, ReceiveError> {
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut polled, None).unwrap();
    socket.receive().map(|order| order.expect("polled"))
}

#[test]
fn a_ring_is_introduced_with_its_memory_and_eventfds_and_released() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("domains");
    let listening = bind_for_vmms(&path).unwrap();
    let guest_memory = memory(3, SealFlags::SHRINK);
    let (wake, notify) = (signal(), signal());

    thread::scope(|scope| {
        let vmm = scope.spawn(|| {
            let vmm = Vmm::connect(&path).unwrap();
            vmm.introduce(&GUEST, guest_memory.as_fd(), wake.as_fd(), notify.as_fd())
                .unwrap();
            let refused = vmm.release(DomId(9)).unwrap_err();
            assert!(
                matches!(refused, AttachError::Refused(Errno::ENOENT)),
                "{refused}"
            );
            vmm.release(DomId(7)).unwrap();
        });
        let socket = accept(&listening);
        introduced(next(&socket).unwrap(), &guest_memory, &wake, &notify);
        socket.answer(Ok(())).unwrap();
        assert!(matches!(next(&socket), Ok(Order::Release(DomId(9)))));
        socket.answer(Err(Errno::ENOENT)).unwrap();
        assert!(matches!(next(&socket), Ok(Order::Release(DomId(7)))));
        socket.answer(Ok(())).unwrap();
        vmm.join().unwrap();
        assert!(
            matches!(next(&socket), Err(ReceiveError::Closed)),
            "the VMM is gone"
        );
    });
}

/// Checks an introduction by using what came with it.
fn introduced(order: Order, memory: &File, wake: &OwnedFd, notify: &OwnedFd) {
    let Order::Introduce(guest, fds) = order else {
        panic!("{order:?}");
    };
    assert_eq!(guest, GUEST);
    let page = RingPage::map(&fds.memory, guest.offset).unwrap();
    assert_eq!(page.len(), PAGE_SIZE);
    XENSTORE_REQ.write(&page, b"by the page").unwrap();
    let mut found = [0; 11];
    std::os::unix::fs::FileExt::read_at(memory, &mut found, PAGE_SIZE as u64).unwrap();
    assert_eq!(
        &found, b"by the page",
        "the second page of the VMM's own memory"
    );

    let mut count = [0; 8];
    rustix::io::write(wake, &1u64.to_ne_bytes()).unwrap();
    rustix::io::read(&fds.wake, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    rustix::io::write(&fds.notify, &2u64.to_ne_bytes()).unwrap();
    rustix::io::read(notify, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 2);
}

#[test]
fn memory_that_could_vanish_or_has_no_such_page_is_refused() {
    let unsealed = memory(2, SealFlags::GROW);
    assert!(matches!(
        RingPage::map(&unsealed, 0),
        Err(PageError::Unsealed)
    ));
    let ordinary = tempfile::tempfile().unwrap();
    assert!(matches!(
        RingPage::map(&ordinary, 0),
        Err(PageError::Unsealed)
    ));
    let sealed = memory(2, SealFlags::SHRINK);
    for offset in [1, 2048, 2 * PAGE_SIZE as u64, u64::MAX - 4095, u64::MAX] {
        let refused = RingPage::map(&sealed, offset).unwrap_err();
        assert!(
            matches!(refused, PageError::Place(at) if at == offset),
            "{offset:#x}"
        );
    }
    RingPage::map(&sealed, PAGE_SIZE as u64).unwrap();
}

#[test]
fn a_vmm_that_breaks_the_protocol_is_told_apart_from_one_that_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("domains");
    let listening = bind_for_vmms(&path).unwrap();
    let address = SocketAddrUnix::new(&path).unwrap();
    let dialled = || {
        let socket = seqpacket();
        connect(&socket, &address).unwrap();
        (socket, accept(&listening))
    };

    let (raw, socket) = dialled();
    assert!(matches!(socket.receive(), Ok(None)), "nothing was said");
    send(&raw, b"hello", SendFlags::empty()).unwrap();
    assert!(matches!(next(&socket), Err(ReceiveError::Protocol)));

    let (raw, socket) = dialled();
    send(&raw, &[0; 4096], SendFlags::empty()).unwrap();
    assert!(matches!(next(&socket), Err(ReceiveError::Protocol)));

    let (raw, socket) = dialled();
    // An introduction without its descriptors: "XSA1", kind 1.
    let mut packet = [0; 32];
    packet[..5].copy_from_slice(b"XSA1\x01");
    send(&raw, &packet, SendFlags::empty()).unwrap();
    assert!(matches!(next(&socket), Err(ReceiveError::Protocol)));

    let (raw, socket) = dialled();
    drop(raw);
    assert!(matches!(next(&socket), Err(ReceiveError::Closed)));
}

#[test]
fn more_descriptors_than_three_are_refused_and_not_kept() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("domains");
    let listening = bind_for_vmms(&path).unwrap();
    let raw = seqpacket();
    connect(&raw, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let socket = accept(&listening);

    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let fds = [reader.as_fd(); 8];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let mut packet = [0; 32];
    packet[..5].copy_from_slice(b"XSA1\x01");
    sendmsg(
        &raw,
        &[io::IoSlice::new(&packet)],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
    assert!(matches!(next(&socket), Err(ReceiveError::Protocol)));

    // Our own is the last reader, or the write would succeed once it is dropped.
    drop(reader);
    assert_eq!(
        rustix::io::write(&writer, b"x"),
        Err(rustix::io::Errno::PIPE)
    );
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("domains");
    let first = bind_for_vmms(&path).unwrap();
    let taken = bind_for_vmms(&path).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    drop(first);
    let _second = bind_for_vmms(&path).unwrap();
}
