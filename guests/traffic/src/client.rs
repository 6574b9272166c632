//! The client, which says what is sent and judges all of it.

use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::{DOWN, PATIENCE, QUIT, RIGHT, UP, pattern, request, word};

/// Bytes of the datagrams: the least that say which they are, around what fits into a packet of 1500 and of 9000 with either header, and fragments.
const DATAGRAMS: [usize; 14] = [
    16, 17, 18, 63, 512, 1023, 1451, 1452, 1472, 1473, 2960, 8952, 8973, 60_001,
];

/// How long a datagram may take to come back, and how often one is sent.
const ROUND_TRIP: Duration = Duration::from_millis(1500);
const TRIES: u32 = 8;

/// Sends and gets so many bytes at once, and then datagrams.
pub(crate) fn check(server: SocketAddr, bytes: u64) -> Result<(), String> {
    let seed = RandomState::new().hash_one(server);
    let begun = Instant::now();
    let up = thread::spawn(move || up(server, seed, bytes));
    let down = down(server, pattern::mixed(seed), bytes);
    let up = up.join().unwrap_or_else(|_| Err("it panicked".to_owned()));
    up.map_err(|why| format!("up: {why}"))?;
    down.map_err(|why| format!("down: {why}"))?;
    let took = begun.elapsed();
    let again = datagrams(server, !seed).map_err(|why| format!("datagrams: {why}"))?;
    println!(
        "{server}: {bytes} bytes each way in {:.2} s, {} datagrams there and back, {again} sent again",
        took.as_secs_f64(),
        DATAGRAMS.len()
    );
    Ok(())
}

fn up(server: SocketAddr, seed: u64, bytes: u64) -> Result<(), String> {
    let mut stream = connected(server, &request(UP, seed, bytes))?;
    pattern::send(&mut stream, seed, bytes)?;
    judged(answer(&mut stream)?)
}

fn down(server: SocketAddr, seed: u64, bytes: u64) -> Result<(), String> {
    let mut stream = connected(server, &request(DOWN, seed, bytes))?;
    judged(pattern::receive(&mut stream, seed, bytes)?.unwrap_or(RIGHT))
}

fn judged(place: u64) -> Result<(), String> {
    if place == RIGHT {
        return Ok(());
    }
    Err(format!("byte {place} is not the one that was sent"))
}

/// Ends the server.
pub(crate) fn quit(server: SocketAddr) -> Result<(), String> {
    let mut stream = connected(server, &request(QUIT, 0, 0))?;
    answer(&mut stream).map(drop)
}

fn answer(stream: &mut TcpStream) -> Result<u64, String> {
    let mut answer = [0; 8];
    stream
        .read_exact(&mut answer)
        .map_err(|error| format!("no answer: {error}"))?;
    Ok(word(&answer))
}

fn connected(server: SocketAddr, request: &[u8]) -> Result<TcpStream, String> {
    let failed = |error| format!("{server}: {error}");
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(request).map_err(failed)?;
    Ok(stream)
}

/// Has datagrams come back; how often one was sent again, since they may get lost.
fn datagrams(server: SocketAddr, seed: u64) -> Result<u32, String> {
    let failed = |error| format!("{server}: {error}");
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).map_err(failed)?;
    socket.connect(server).map_err(failed)?;
    let mut again = 0;
    for size in DATAGRAMS {
        let mut datagram = vec![0; size];
        pattern::fill(&mut datagram, seed.wrapping_add(size as u64), 0);
        let mut tries = 0;
        while !came_back(&socket, &datagram)? {
            tries += 1;
            again += 1;
            if tries == TRIES {
                return Err(format!("none of {TRIES} with {size} bytes came back"));
            }
        }
    }
    Ok(again)
}

/// Whether a datagram comes back; those that were given up may come as well, but no others.
fn came_back(socket: &UdpSocket, datagram: &[u8]) -> Result<bool, String> {
    let failed = |error| format!("{error}");
    let deadline = Instant::now() + ROUND_TRIP;
    socket.send(datagram).map_err(failed)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left)).map_err(failed)?;
        let got = match socket.recv(&mut buffer) {
            Ok(got) => buffer.get(..got).unwrap_or_default(),
            Err(error) if is_nothing(error.kind()) => continue,
            Err(error) => return Err(failed(error)),
        };
        if got == datagram {
            return Ok(true);
        }
        // An earlier, shorter one, late.
        if got.len() >= datagram.len() || !DATAGRAMS.contains(&got.len()) {
            return Err(format!(
                "what came back of {} bytes is {} others",
                datagram.len(),
                got.len()
            ));
        }
    }
}

fn is_nothing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
