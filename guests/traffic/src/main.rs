//! Sends data to a program of its own kind on another machine, and gets data from there, by TCP and by UDP; every byte is held to what it has to be.
//!
//! `traffic serve PORT` serves both, IPv4 and IPv6, until it is told to end. `traffic spoil PORT` serves, but sends wrong bytes: a client has to notice.
//!
//! `traffic check ADDRESS PORT KIB` sends so many KiB by one TCP connection and gets as many by another at the same time, and has datagrams of all
//! sizes, those that are fragmented included, come back. It prints one line, and fails where a byte is wrong, or nothing comes for [`PATIENCE`].
//!
//! `traffic quit ADDRESS PORT` ends the server.
//!
//! What is sent is [`pattern`]'s, by a number that the client chooses: both ends compute it. It is written and read in pieces of all sizes, so that packets
//! begin and end anywhere in a page.

mod client;
mod pattern;
mod server;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of a connection's first message: what is wanted, the pattern's number, and how many bytes.
const REQUEST: usize = 24;

/// What a connection is for.
const UP: u64 = 1;
const DOWN: u64 = 2;
const QUIT: u64 = 3;

/// What the server answers when all it got was right.
const RIGHT: u64 = u64::MAX;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["serve", port] => number(port).and_then(|port| server::run(port, false)),
        ["spoil", port] => number(port).and_then(|port| server::run(port, true)),
        ["check", address, port, kib] => check(address, port, kib),
        ["quit", address, port] => end(address, port).and_then(client::quit),
        _ => Err(
            "usage: traffic serve PORT | spoil PORT | check ADDRESS PORT KIB | quit ADDRESS PORT"
                .to_owned(),
        ),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn check(address: &str, port: &str, kib: &str) -> Result<(), String> {
    client::check(end(address, port)?, u64::from(number::<u32>(kib)?) << 10)
}

fn end(address: &str, port: &str) -> Result<SocketAddr, String> {
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("{address:?} is no address"))?;
    Ok((address, number(port)?).into())
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// The message that a connection begins with.
fn request(what: u64, seed: u64, bytes: u64) -> [u8; REQUEST] {
    let mut message = [0; REQUEST];
    for (place, word) in message.chunks_exact_mut(8).zip([what, seed, bytes]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    message
}

/// Its words.
fn understood(message: &[u8; REQUEST]) -> [u64; 3] {
    let mut words = message.chunks_exact(8).map(word);
    [(); 3].map(|()| words.next().unwrap_or_default())
}

/// A number's eight bytes; 0 where there are fewer.
fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}
