//! Attempts by io_uring and by direct I/O, where a device or the kernel's own threads reach for the memory.

use std::os::fd::AsRawFd;

use cantle_abi::PAGE_SIZE;
use io_uring::{opcode, squeue, types};

use crate::backend::{Hostile, say};
use crate::calls::errno;

/// Does one operation and says how it ended.
fn submit(hostile: &mut Hostile, what: &str, entry: squeue::Entry) -> Option<i32> {
    let ring = hostile.ring.as_mut()?;
    // SAFETY: to do harm is what it is for.
    let queued = unsafe { ring.submission().push(&entry) };
    queued.expect("the queue is empty");
    if let Err(error) = ring.submit_and_wait(1) {
        say(&format!(
            "{what}: {}",
            error.raw_os_error().map_or("?", errno)
        ));
        return None;
    }
    let result = ring.completion().next().map_or(0, |entry| entry.result());
    if result < 0 {
        say(&format!("{what}: {}", errno(-result)));
        return None;
    }
    say(&format!("{what}: {result}"));
    Some(result)
}

/// Direct I/O straight from and to the lent page.
pub(crate) fn direct_lent(hostile: &mut Hostile) {
    let Some(file) = hostile.direct.as_ref().map(AsRawFd::as_raw_fd) else {
        return say("LENT not tried: no direct I/O here");
    };
    let (page, len) = (hostile.page(), u32::try_from(PAGE_SIZE).unwrap_or(0));
    // SAFETY: a whole page that is lent.
    unsafe { page.write_bytes(0x77, PAGE_SIZE) };
    // SAFETY: as above.
    let written = unsafe { libc::pwrite(file, page.cast(), PAGE_SIZE, 0) };
    // SAFETY: as above.
    unsafe { page.write_bytes(0, PAGE_SIZE) };
    let entry = opcode::Read::new(types::Fd(file), page, len).build();
    let read = submit(hostile, "io_uring, direct", entry).or_else(|| {
        // SAFETY: as above.
        let read = unsafe { libc::pread(file, page.cast(), PAGE_SIZE, 0) };
        i32::try_from(read).ok()
    });
    // SAFETY: as above.
    let last = unsafe { page.add(PAGE_SIZE - 1).read_volatile() };
    say(&format!("wrote {written}, read {read:?}, found {last:#x}"));
    if (usize::try_from(written), last) == (Ok(PAGE_SIZE), 0x77) {
        say("LENT");
    }
}

pub(crate) fn direct_beside(hostile: &mut Hostile) {
    let Some(file) = hostile.direct.as_ref().map(AsRawFd::as_raw_fd) else {
        return say("not tried: no direct I/O here");
    };
    let beside = hostile.beside();
    // SAFETY: it fails.
    let written = unsafe { libc::pwrite(file, beside.cast(), PAGE_SIZE, 0) };
    say(&format!("direct write: {written}"));
    // SAFETY: it fails.
    let read = unsafe { libc::pread(file, beside.cast(), PAGE_SIZE, 0) };
    say(&format!("direct read: {read}"));
    // From the lent page on into the next: one I/O.
    let page = hostile.page();
    // SAFETY: it fails.
    let across = unsafe { libc::pwrite(file, page.cast(), 2 * PAGE_SIZE, 0) };
    say(&format!("direct write across: {across}"));
    if written > 0 || read > 0 || usize::try_from(across).is_ok_and(|len| len > PAGE_SIZE) {
        say("SEEN");
    }
}

pub(crate) fn beside(hostile: &mut Hostile) {
    let len = u32::try_from(PAGE_SIZE).unwrap_or(0);
    let plain = hostile.file.as_raw_fd();
    let direct = hostile.direct.as_ref().map_or(plain, AsRawFd::as_raw_fd);
    let beside = hostile.beside();
    for (what, file) in [("plain", plain), ("direct", direct)] {
        for flags in [squeue::Flags::empty(), squeue::Flags::ASYNC] {
            let write = opcode::Write::new(types::Fd(file), beside, len).build();
            if submit(hostile, &format!("{what} write"), write.flags(flags)).is_some_and(|n| n > 0)
            {
                say("SEEN: the file has it");
            }
            let read = opcode::Read::new(types::Fd(file), beside, len).build();
            if submit(hostile, &format!("{what} read"), read.flags(flags)).is_some_and(|n| n > 0) {
                say("SEEN: written by the kernel");
            }
        }
    }
}

/// Operations that are no reading and writing: each would be a way round the filter of system calls.
pub(crate) fn operations(hostile: &mut Hostile) {
    if hostile.ring.is_none() {
        return;
    }
    let (beside, uffd) = (hostile.beside(), hostile.uffd);
    let len = i64::try_from(PAGE_SIZE).unwrap_or(0);
    let mem = c"/proc/self/mem".as_ptr();
    let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), mem).build();
    let opened = submit(hostile, "openat", open);
    let remove = opcode::Madvise::new(beside.cast(), len, libc::MADV_REMOVE).build();
    let removed = submit(hostile, "madvise", remove);
    let close = opcode::Close::new(types::Fd(uffd)).build();
    let closed = submit(hostile, "close", close);
    let (from, to) = (
        types::Fd(hostile.file.as_raw_fd()),
        types::Fd(hostile.pipe.1.as_raw_fd()),
    );
    let splice = opcode::Splice::new(from, 0, to, -1, 1).build();
    let spliced = submit(hostile, "splice", splice);
    if opened.or(removed).or(closed).or(spliced).is_some() {
        say("SEEN: allowed");
    }
}

/// A new ring, without restrictions; buffers of the lent page that outlive its mapping.
pub(crate) fn setup_and_register(hostile: &mut Hostile) {
    match io_uring::IoUring::new(4) {
        Ok(_) => say("SEEN: a new ring"),
        Err(error) => say(&format!(
            "io_uring_setup: {}",
            error.raw_os_error().map_or("?", errno)
        )),
    }
    let vector = libc::iovec {
        iov_base: hostile.page().cast(),
        iov_len: PAGE_SIZE,
    };
    let Some(ring) = hostile.ring.as_ref() else {
        return;
    };
    // SAFETY: it fails.
    match unsafe { ring.submitter().register_buffers(&[vector]) } {
        Ok(()) => say("SEEN: a registered buffer"),
        Err(error) => say(&format!(
            "register: {}",
            error.raw_os_error().map_or("?", errno)
        )),
    }
}
