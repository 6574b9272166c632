//! Attempts on the broker itself, and what it has to do for an honest back end too.

use std::os::fd::AsRawFd;
use std::time::Duration;

use cantle_abi::{DomId, GrantRef, PAGE_SIZE, SharedMemory};
use cantle_grant::process::protocol::{Kind, MapItem, Outgoing};
use cantle_grant::{Access, CopyPiece, GrantMapper, GrantStatus, Local};

use crate::backend::{Hostile, read, say, say_byte, write};
use crate::calls::{arg, call};
use crate::host::{
    BALLOONED, FRAMES, GUEST, LENT, LENT_LATER, LENT_READ_ONLY, NOT_OURS, OTHER_GUEST, PUBLIC,
};

/// Says that it has unmapped a page that it has not: the guest must see it in use.
pub(crate) fn lying_unmap(hostile: &mut Hostile) {
    // The first mapping of all; its page stays in the page table.
    for handle in [0_u32, 99, 0] {
        let mut message = Outgoing::new(Kind::UNMAP, 77);
        message.push(handle).expect("there is room");
        let mut reply = [0_u8; 64];
        // SAFETY: plain buffers.
        let len = unsafe {
            let socket = hostile.socket.as_raw_fd();
            let bytes = message.as_bytes();
            libc::send(socket, bytes.as_ptr().cast(), bytes.len(), 0);
            libc::recv(socket, reply.as_mut_ptr().cast(), reply.len(), 0)
        };
        let status = i16::from_ne_bytes([reply[8], reply[9]]);
        say(&format!("unmap of {handle}: {len} bytes, status {status}"));
        if status == 0 {
            // The guest would put a secret there.
            say("unmapped");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    say_byte(read(hostile.page()));
}

pub(crate) fn foreign_grants(hostile: &mut Hostile) {
    for (granter, gref) in [
        (GUEST, NOT_OURS),
        (GUEST, GrantRef(12_345)),
        (OTHER_GUEST, GrantRef(8)),
        (DomId(7), GrantRef(8)),
        (DomId::SELF, GrantRef(8)),
    ] {
        match hostile.mapper.map(granter, gref, Access::ReadOnly) {
            Ok(_) => say("SEEN: mapped"),
            Err(status) => say(&format!("{granter}, {gref}: {status}")),
        }
    }
}

pub(crate) fn read_only_grant(hostile: &mut Hostile) {
    match hostile
        .mapper
        .map(GUEST, LENT_READ_ONLY.0, Access::ReadWrite)
    {
        Ok(_) => say("SEEN: mapped"),
        Err(status) => say(&format!("{status}")),
    }
    // It is there in the other window; not in this one.
    let other = hostile.frame(LENT_READ_ONLY.1.0);
    let args = [arg(&hostile.file), other.addr(), PAGE_SIZE, 0, 0, 0];
    if call("pread", libc::SYS_pread64, args).is_some_and(|len| len > 0) {
        say("SEEN: written");
    }
    let read_only = hostile.read_only_page().addr();
    if call(
        "pread",
        libc::SYS_pread64,
        [args[0], read_only, PAGE_SIZE, 0, 0, 0],
    )
    .is_some_and(|len| len > 0)
    {
        say("SEEN: written");
    }
}

/// A page that was touched too early (poisoned, where that is done) can be mapped later.
pub(crate) fn poisoned_then_lent(hostile: &mut Hostile) {
    let early = hostile.frame(LENT_LATER.1.0);
    let args = [arg(&hostile.pipe.1), early.addr(), 1, 0, 0, 0];
    // Where it ends the process, there is nothing to be shown.
    say("LENT or ended");
    if call("write", libc::SYS_write, args) == Some(1) {
        return say("SEEN: a page before it was mapped");
    }
    match hostile.mapper.map(GUEST, LENT_LATER.0, Access::ReadWrite) {
        Ok(mapping) => {
            let byte = read(mapping.as_ptr().as_ptr());
            say(&format!("then {byte:#x}"));
        }
        Err(status) => say(&format!("then SEEN as refused: {status}")),
    }
}

pub(crate) fn ballooned(hostile: &mut Hostile) {
    let mapped = hostile.mapper.map(GUEST, BALLOONED.0, Access::ReadWrite);
    let mapping = mapped.expect("it is lent");
    let page = mapping.as_ptr().as_ptr();
    let before = read(page);
    say("give back");
    std::thread::sleep(Duration::from_millis(100));
    let after = read(page);
    write(page, 3);
    if (before, after, read(page)) == (PUBLIC, 0, 3) {
        say("LENT");
    }
}

/// Bytes that are no request: the back end is ended.
pub(crate) fn garbage(hostile: &mut Hostile) {
    let message = Outgoing::new(Kind::READY, 1);
    send(hostile, message.as_bytes());
    std::thread::sleep(Duration::from_secs(2));
    say("SEEN: it is served still");
}

/// Requests whose replies are not read: nobody waits for that.
pub(crate) fn replies_unread(hostile: &mut Hostile) {
    let mut message = Outgoing::new(Kind::MAP, 1);
    let item = MapItem {
        granter: 99,
        flags: 0,
        gref: 0,
    };
    message.push(item).expect("there is room");
    for _ in 0..100_000 {
        send(hostile, message.as_bytes());
    }
    say("SEEN: it is served still");
}

fn send(hostile: &Hostile, bytes: &[u8]) {
    // SAFETY: a plain buffer.
    unsafe {
        libc::send(
            hostile.socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
        )
    };
}

/// Touches more pages than a mistake would.
pub(crate) fn many_strays(hostile: &mut Hostile) {
    for frame in 0..FRAMES as u64 / 2 {
        let args = [
            arg(&hostile.pipe.1),
            hostile.frame(frame).addr(),
            1,
            0,
            0,
            0,
        ];
        // SAFETY: it fails.
        if unsafe { libc::syscall(libc::SYS_write, args[0], args[1], args[2]) } == 1 && frame < 700
        {
            say("SEEN");
        }
    }
    say("SEEN: it lives");
}

/// Maps one page as often as it is allowed to, and once more.
pub(crate) fn many_mappings(hostile: &mut Hostile) {
    let wanted = vec![(LENT.0, Access::ReadWrite); 20_000];
    let mapped = hostile.mapper.map_all(GUEST, &wanted);
    let good = mapped.iter().filter(Result::is_ok).count();
    let last = mapped.get(19_999).map(|_| ());
    say(&format!("{good} of 20000, the last: {last:?}"));
    // Two were mapped before.
    if good == 16_384 - 2 && last == Err(GrantStatus::NO_SPACE) {
        drop(mapped);
        let again = hostile.mapper.map(GUEST, LENT.0, Access::ReadWrite);
        say(if again.is_ok() && read(hostile.page()) == PUBLIC {
            "LENT"
        } else {
            "not again"
        });
    }
}

/// The granter ends: what is mapped stays, nothing new comes, also when there is another guest of that number.
pub(crate) fn zombie(hostile: &mut Hostile) {
    say("end domain");
    std::thread::sleep(Duration::from_millis(200));
    let still = read(hostile.page()) == PUBLIC;
    match hostile.mapper.map(GUEST, LENT_LATER.0, Access::ReadOnly) {
        Err(GrantStatus::BAD_DOMAIN) if still => say("LENT"),
        other => say(&format!("SEEN as {other:?}, the mapped page: {still}")),
    }
}

/// Copies both ways, and one that is not granted.
pub(crate) fn copies(hostile: &mut Hostile) {
    let (mut into, from) = ([0; 100], [4; 100]);
    let piece = |gref, local| CopyPiece {
        granter: GUEST,
        gref,
        offset: 30,
        local,
        status: Ok(()),
    };
    let mut pieces = [
        piece(LENT.0, Local::From(&from)),
        piece(LENT.0, Local::Into(&mut into)),
        piece(LENT_READ_ONLY.0, Local::From(&from)),
        piece(NOT_OURS, Local::From(&from)),
    ];
    hostile.mapper.copy(&mut pieces);
    let done = pieces.each_ref().map(|piece| piece.status.is_ok());
    let byte = read(hostile.page().wrapping_add(129));
    if (done, into, byte) == ([true, true, false, false], [4; 100], 4) {
        say("LENT");
    }
}
