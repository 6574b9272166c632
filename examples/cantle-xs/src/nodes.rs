//! The commands on single nodes.

use std::io::Write as _;

use anyhow::{Context, Result};
use cantle_xenstore::client::SocketClient;
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Error, Perms, TxId};

use crate::cli::{Chmod, Keys, List, Read, Rm, Write};
use crate::escape::{escape, unescape};
use crate::output::Output;

/// Where one thing failed, after what was printed before it.
const FAILED: u8 = 1;

pub(crate) fn read(client: &SocketClient, out: &mut Output, args: &Read) -> Result<u8> {
    let (text, failure) = client.transact(|tx| {
        let mut text = Vec::new();
        for path in &args.paths {
            let value = match client.read(tx, path) {
                Ok(value) => value,
                // What could be read is printed all the same.
                Err(error) => return Ok((text, Some((path, error)))),
            };
            if args.prefix {
                text.extend(format!("{path}: ").bytes());
            }
            if args.raw {
                text.extend(value);
            } else {
                text.extend(escape(&value).bytes());
                text.push(b'\n');
            }
        }
        Ok((text, None))
    })?;
    out.write_all(&text)?;
    Ok(report("couldn't read path", failure))
}

/// Tells of a failure, and gives the exit code.
fn report(what: &str, failure: Option<(&String, Error)>) -> u8 {
    failure.map_or(0, |(path, error)| {
        eprintln!("cantle-xs: {what} {path}: {}", error.errno);
        FAILED
    })
}

pub(crate) fn write(client: &SocketClient, args: &Write) -> Result<u8> {
    let (pairs, rest) = args.pairs.as_chunks::<2>();
    if let [path] = rest {
        anyhow::bail!("no value for {path}");
    }
    let value = |text: &String| {
        if args.raw {
            text.clone().into_bytes()
        } else {
            unescape(text)
        }
    };
    let write = |tx| {
        pairs
            .iter()
            .try_for_each(|[path, text]| client.write(tx, path, &value(text)))
    };
    match pairs {
        // One is at once in any case.
        [_] => write(TxId::NONE),
        _ => client.transact(write),
    }
    .map_err(|error| {
        let said = format!("could not write path {}", error.path);
        anyhow::Error::from(error.errno).context(said)
    })?;
    Ok(0)
}

pub(crate) fn list(client: &SocketClient, out: &mut Output, args: &List) -> Result<u8> {
    let (text, failure) = client.transact(|tx| {
        let mut text = String::new();
        for path in &args.paths {
            let names = match client.directory(tx, path) {
                Ok(names) => names,
                Err(error) => return Ok((text, Some((path, error)))),
            };
            let parent = if path == "/" { "" } else { path };
            for name in names {
                if args.prefix {
                    text.push_str(&format!("{parent}/"));
                }
                text.push_str(&name);
                text.push('\n');
            }
        }
        Ok((text, None))
    })?;
    out.write_all(text.as_bytes())?;
    Ok(report("could not list path", failure))
}

pub(crate) fn rm(client: &SocketClient, args: &Rm) -> Result<u8> {
    client
        .transact(|tx| {
            for path in &args.paths {
                client.rm(tx, path)?;
                if args.tidy {
                    tidy(client, tx, path)?;
                }
            }
            Ok(())
        })
        .map_err(|error| {
            let said = format!("could not remove path {}", error.path);
            anyhow::Error::from(error.errno).context(said)
        })?;
    Ok(0)
}

/// Removes the parents of what is gone, as far up as they are empty.
fn tidy(client: &SocketClient, tx: TxId, path: &str) -> Result<(), Error> {
    let mut path = path;
    while let Some((parent, _)) = path.rsplit_once('/') {
        // What cannot be looked at is not empty, as far as is known; nor is the root, whose path is empty here.
        let empty = client.read(tx, parent).is_ok_and(|value| value.is_empty())
            && client
                .directory(tx, parent)
                .is_ok_and(|names| names.is_empty());
        if !empty {
            return Ok(());
        }
        client.rm(tx, parent)?;
        path = parent;
    }
    Ok(())
}

pub(crate) fn chmod(client: &SocketClient, args: &Chmod) -> Result<u8> {
    let perms = args.perms().context("no permissions")?;
    client
        .transact(|tx| {
            if args.recurse {
                below(client, tx, &args.path, &perms)?;
            } else {
                client.set_perms(tx, &args.path, &perms)?;
            }
            let mut path = args.path.as_str();
            while args.upto
                && let Some((parent, _)) = path.rsplit_once('/')
                && !parent.is_empty()
            {
                client.set_perms(tx, parent, &perms)?;
                path = parent;
            }
            Ok(())
        })
        .map_err(|error| {
            let said = format!("could not set the permissions of {}", error.path);
            anyhow::Error::from(error.errno).context(said)
        })?;
    Ok(0)
}

/// Sets the permissions of a node and of all below it.
fn below(client: &SocketClient, tx: TxId, path: &str, perms: &Perms) -> Result<(), Error> {
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        client.set_perms(tx, &path, perms)?;
        let parent = if path == "/" { "" } else { &path };
        let names = client.directory(tx, &path)?;
        left.extend(names.iter().map(|name| format!("{parent}/{name}")));
    }
    Ok(())
}

pub(crate) fn exists(client: &SocketClient, args: &Keys) -> Result<u8> {
    for path in &args.paths {
        // What may not be read is not there, as for xenstore-exists; a path that is none is an error worth a line.
        match client.read(TxId::NONE, path) {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(FAILED),
            Err(error) => return Ok(report("could not look at path", Some((path, error)))),
        }
    }
    Ok(0)
}

pub(crate) fn mkdir(client: &SocketClient, args: &Keys) -> Result<u8> {
    client
        .transact(|tx| {
            args.paths
                .iter()
                .try_for_each(|path| client.mkdir(tx, path))
        })
        .map_err(|error| {
            let said = format!("could not make path {}", error.path);
            anyhow::Error::from(error.errno).context(said)
        })?;
    Ok(0)
}
