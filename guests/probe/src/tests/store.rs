//! Xenstore, over its ring. All is written below `data`, which is the guest's own.

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{
    XS_DIRECTORY, XS_GET_DOMAIN_PATH, XS_GET_PERMS, XS_MKDIR, XS_READ, XS_RM, XS_UNWATCH, XS_WATCH,
    XS_WRITE,
};

use crate::report::Outcome;
use crate::xenstore::{Path, Store};
use crate::{Probe, ensure, fail, path, say};

fn remove(store: &mut Store, path: &Path) -> Outcome {
    store.demand(XS_RM, 0, &[path.as_bytes(), b"\0"])?;
    Ok(())
}

pub(super) fn read(probe: &mut Probe) -> Outcome {
    let store = probe.store()?;
    let domid = store.number(&path!("domid"))?;
    let number = path!("{domid}");
    let home = store.demand(XS_GET_DOMAIN_PATH, 0, &[number.as_bytes(), b"\0"])?;
    let home = Path::from_bytes(home.strip_suffix(&[0]).unwrap_or(home));
    ensure!(
        home.as_str() == path!("/local/domain/{domid}").as_str(),
        "domain {domid} is at home in {home}"
    );
    let absolute = store.number(&path!("{home}/domid"))?;
    ensure!(absolute == domid, "{home}/domid is {absolute}");
    let missing = store.read(&path!("data/probe/missing"))?;
    ensure!(missing.is_none(), "a missing node has a value");
    say!("probe: store-read: domain {domid}");
    Ok(())
}

pub(super) fn write(probe: &mut Probe) -> Outcome {
    let store = probe.store()?;
    let path = path!("data/probe/a");
    for value in ["first", "", "second, longer"] {
        store.write(0, &path, value.as_bytes())?;
        let read = store.expect(&path)?;
        ensure!(
            read.as_str() == value,
            "wrote {value:?}, read {read:?}",
            read = read.as_str()
        );
    }
    remove(store, &path)?;
    ensure!(store.read(&path)?.is_none(), "a removed node is there");
    // Removing what is not there is no error where its parent is.
    let again = store.request(XS_RM, 0, &[path.as_bytes(), b"\0"])?;
    ensure!(again.is_ok(), "removing it again: {:?}", again.err());
    Ok(())
}

pub(super) fn directory(probe: &mut Probe) -> Outcome {
    let store = probe.store()?;
    for name in ["one", "two", "three/below"] {
        store.write(0, &path!("data/probe/dir/{name}"), b"x")?;
    }
    store.demand(XS_MKDIR, 0, &[b"data/probe/dir/four\0"])?;
    let list = store.demand(XS_DIRECTORY, 0, &[b"data/probe/dir\0"])?;
    for name in ["one", "two", "three", "four"] {
        ensure!(
            list.split(|b| *b == 0).any(|n| n == name.as_bytes()),
            "{name} is not in the directory"
        );
    }
    let count = list.split(|b| *b == 0).filter(|n| !n.is_empty()).count();
    ensure!(count == 4, "the directory has {count} names");
    let perms = store.demand(XS_GET_PERMS, 0, &[b"data/probe/dir\0"])?;
    let perms = Path::from_bytes(perms.strip_suffix(&[0]).unwrap_or(perms));
    say!("probe: store-directory: permissions {perms}");
    remove(store, &path!("data/probe/dir"))?;
    let gone = store.request(XS_DIRECTORY, 0, &[b"data/probe/dir\0"])?;
    ensure!(gone == Err(Errno::ENOENT), "a removed directory is there");
    Ok(())
}

pub(super) fn watch(probe: &mut Probe) -> Outcome {
    let store = probe.store()?;
    let top = path!("data/probe/watched");
    store.demand(XS_WATCH, 0, &[top.as_bytes(), b"\0", b"token 1\0"])?;
    let Some(first) = store.wait_event("token 1", 5_000)? else {
        fail!("setting a watch does not make it fire once");
    };
    ensure!(
        first.path.as_str() == top.as_str(),
        "the first event is for {}",
        first.path
    );
    let below = path!("{top}/below");
    store.write(0, &below, b"1")?;
    let Some(event) = store.wait_event("token 1", 5_000)? else {
        fail!("a write below a watched node makes no event");
    };
    ensure!(
        event.path.as_str() == below.as_str(),
        "the event is for {}, not {below}",
        event.path
    );
    store.demand(XS_UNWATCH, 0, &[top.as_bytes(), b"\0", b"token 1\0"])?;
    store.write(0, &below, b"2")?;
    // The answer to a later request comes after all events before it.
    store.expect(&below)?;
    while let Some(event) = store.wait_event("token 1", 0)? {
        // Creating a path may have made one event for each new node.
        ensure!(
            event.path.as_str() != below.as_str(),
            "an event after unwatching"
        );
    }
    remove(store, &top)
}

pub(super) fn transaction(probe: &mut Probe) -> Outcome {
    let store = probe.store()?;
    let path = path!("data/probe/t");
    store.write(0, &path, b"0")?;

    let tx = store.begin()?;
    store.write(tx, &path, b"1")?;
    let inside = store.demand(XS_READ, tx, &[path.as_bytes(), b"\0"])?;
    ensure!(inside == b"1", "a transaction does not see its own write");
    ensure!(
        store.expect(&path)?.as_str() == "0",
        "a transaction is seen before its end"
    );
    let aborted = store.end(tx, false)?;
    ensure!(aborted.is_ok(), "aborting: {:?}", aborted.err());
    ensure!(
        store.expect(&path)?.as_str() == "0",
        "an aborted transaction left its write"
    );

    let tx = store.begin()?;
    store.write(tx, &path, b"2")?;
    let done = store.end(tx, true)?;
    ensure!(done.is_ok(), "committing: {:?}", done.err());
    ensure!(
        store.expect(&path)?.as_str() == "2",
        "a committed transaction did not write"
    );

    // What the transaction read is changed by somebody else.
    let tx = store.begin()?;
    store.demand(XS_READ, tx, &[path.as_bytes(), b"\0"])?;
    store.write(tx, &path!("{path}2"), b"x")?;
    store.write(0, &path, b"3")?;
    let conflict = store.end(tx, true)?;
    ensure!(
        conflict == Err(Errno::EAGAIN),
        "a conflicting transaction ends with {conflict:?}"
    );
    let stale = store.request(XS_WRITE, tx, &[path.as_bytes(), b"\0", b"4"])?;
    ensure!(stale.is_err(), "an ended transaction takes a write");
    remove(store, &path)
}

/// Values longer than the ring, both ways, so that messages wrap at its end.
pub(super) fn long(probe: &mut Probe) -> Outcome {
    let store = probe.store()?;
    let mut value = [0_u8; 2000];
    for (byte, n) in value.iter_mut().zip((0..=250_u8).cycle()) {
        *byte = n;
    }
    for len in [1, 1007, 1008, 1024, 1999, 2000] {
        let part = value.get(..len).unwrap_or_default();
        store.write(0, &path!("data/probe/long"), part)?;
        let read = store.demand(XS_READ, 0, &[b"data/probe/long\0"])?;
        ensure!(
            read == part,
            "{len} bytes come back as {} others",
            read.len()
        );
    }
    remove(store, &path!("data/probe/long"))
}

/// What a guest may not do.
pub(super) fn refused(probe: &mut Probe) -> Outcome {
    let store = probe.store()?;
    for (path, what) in [
        ("/local/domain/0/probe", "another domain's home"),
        ("/probe", "the root"),
        ("/tool/probe", "the toolstack's folder"),
    ] {
        let path = path!("{path}");
        let result = store.request(XS_WRITE, 0, &[path.as_bytes(), b"\0", b"x"])?;
        ensure!(result.is_err(), "{what} takes a write");
    }
    for (path, what) in [
        ("data//probe", "an empty name"),
        ("data/probe/", "a path that ends in a slash"),
        ("data/pr obe", "a space in a path"),
    ] {
        let path = path!("{path}");
        let result = store.request(XS_WRITE, 0, &[path.as_bytes(), b"\0", b"x"])?;
        ensure!(result == Err(Errno::EINVAL), "{what}: {:?}", result.err());
    }
    let wild = store.request(cantle_abi::io::xs_wire::XsType(0x7777), 0, &[b"x\0"])?;
    ensure!(wild.is_err(), "a request of no kind was accepted");
    let bad = store.request(XS_READ, 0x7777_7777, &[b"domid\0"])?;
    ensure!(bad.is_err(), "a transaction that is not there was accepted");
    Ok(())
}
