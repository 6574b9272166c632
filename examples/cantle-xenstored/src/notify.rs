//! What a service manager is told, and what it hands over: systemd's protocol, which is a datagram and two variables.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use crate::inherited;

/// The first descriptor that a service manager hands over.
const FIRST: i32 = 3;

/// Says something (`READY=1`) to the manager that `NOTIFY_SOCKET` names, if there is one.
pub(crate) fn tell(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes() {
        [b'@', hidden @ ..] => SocketAddr::from_abstract_name(hidden),
        _ => SocketAddr::from_pathname(&name),
    };
    let told = address.and_then(|address| {
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    });
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager could not be told {state}");
    }
}

/// The socket that the service manager listens at for us, if it does (`LISTEN_FDS`).
pub(crate) fn listener() -> io::Result<Option<UnixListener>> {
    let ours = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    if ours("LISTEN_PID") != Some(std::process::id()) || ours("LISTEN_FDS").unwrap_or(0) == 0 {
        return Ok(None);
    }
    inherited::take(FIRST).map(|socket| Some(socket.into()))
}
