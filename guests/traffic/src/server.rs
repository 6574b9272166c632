//! The server: connections of one direction each, and datagrams that go back where they came from.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process;
use std::thread;

use crate::{DOWN, PATIENCE, QUIT, REQUEST, RIGHT, UP, pattern, understood};

/// Serves until a connection tells it to end; if it is to spoil what it sends, the last byte is wrong.
pub(crate) fn run(port: u16, spoil: bool) -> Result<(), String> {
    let failed = |error| format!("cannot listen: {error}");
    // Linux hands IPv4's over as well.
    let any = (Ipv6Addr::UNSPECIFIED, port);
    let listener = TcpListener::bind(any).map_err(failed)?;
    let socket = UdpSocket::bind(any).map_err(failed)?;
    thread::spawn(move || echo(&socket));
    println!("serving");
    for stream in listener.incoming() {
        let stream = stream.map_err(failed)?;
        thread::spawn(move || {
            if let Err(why) = serve(stream, spoil) {
                println!("a connection: {why}");
            }
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream, spoil: bool) -> Result<(), String> {
    let failed = |error| format!("{error}");
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut message = [0; REQUEST];
    stream.read_exact(&mut message).map_err(failed)?;
    let [what, seed, bytes] = understood(&message);
    match what {
        UP => {
            let place = pattern::receive(&mut stream, seed, bytes)?.unwrap_or(RIGHT);
            stream.write_all(&place.to_le_bytes()).map_err(failed)
        }
        DOWN if spoil => {
            let right = bytes.saturating_sub(1);
            pattern::send(&mut stream, seed, right)?;
            let mut last = [0];
            pattern::fill(&mut last, seed, right);
            stream.write_all(&last.map(|byte| !byte)).map_err(failed)
        }
        DOWN => pattern::send(&mut stream, seed, bytes),
        QUIT => {
            // The client reads until it is heard.
            stream.write_all(&RIGHT.to_le_bytes()).map_err(failed)?;
            drop(stream);
            process::exit(0);
        }
        _ => Err(format!("a request for {what}")),
    }
}

/// Sends each datagram back as it came; the client looks at it.
fn echo(socket: &UdpSocket) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok((got, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(buffer.get(..got).unwrap_or_default(), from);
    }
}
