//! A client in an event loop of one's own: prints a node's value now and whenever it changes, and goes on when the daemon was
//! restarted.
//!
//! ```console
//! $ cargo run -p cantle-xenstore --example watch_loop -- /local/domain/0/name
//! ```
//!
//! The loop is poll(2) with one descriptor and a time. In yours, the client's descriptor stands among others.

use std::env;
use std::error::Error;
use std::time::Duration;

use cantle_abi::Errno;
use cantle_xenstore::TxId;
use cantle_xenstore::client::{NonBlocking, Request, Ticket, reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long to wait before the daemon is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).unwrap_or_else(|| "/".to_owned());
    let mut client = NonBlocking::open()?;
    let watch = client.send(TxId::NONE, &Request::watch(&path, "loop"))?;
    // The value that was asked for last: an answer to an earlier question is old.
    let mut asked: Option<Ticket> = None;
    loop {
        let timeout = match client.process() {
            Ok(()) => None,
            Err(lost) => {
                eprintln!("{lost}");
                // It sets the watch again; the first event of that leads to the value.
                let connected = client.reconnect();
                connected.err().map(|error| {
                    eprintln!("{error}");
                    AGAIN
                })
            }
        };
        while let Some((ticket, result)) = client.take_reply() {
            if ticket == watch {
                result?;
            } else if asked == Some(ticket) {
                print(&path, result);
            }
        }
        let mut changed = false;
        while client.take_event().is_some() {
            changed = true;
        }
        if changed {
            asked = client.send(TxId::NONE, &Request::read(&path)).ok();
            // It is to be sent before anything is waited for.
            continue;
        }
        wait(&client, timeout)?;
    }
}

fn print(path: &str, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) => println!("{path} = {:?}", reply::text(&value)),
        Err(Errno::ENOENT) => println!("{path} is not there"),
        Err(errno) => println!("{path}: {errno}"),
    }
}

/// Waits until the client has something to do, or for so long.
fn wait(client: &NonBlocking, timeout: Option<Duration>) -> Result<(), Box<dyn Error>> {
    let timeout = timeout.map(Timespec::try_from).transpose()?;
    let mut fds = [PollFd::from_borrowed_fd(client.fd(), PollFlags::IN)];
    poll(&mut fds, timeout.as_ref())?;
    Ok(())
}
