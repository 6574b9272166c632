//! Where the daemon's socket is: the same rule for the daemon and for its clients.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The directory of the socket where `XENSTORED_RUNDIR` does not name another.
pub const DEFAULT_RUNDIR: &str = "/run/xenstored";

/// The socket's path as libxenstore finds it: `XENSTORED_PATH`, or `socket` in the run directory, which is
/// `XENSTORED_RUNDIR` or [`DEFAULT_RUNDIR`].
#[must_use]
pub fn socket_path() -> PathBuf {
    socket_path_by(|name| env::var_os(name))
}

/// As [`socket_path`], with the environment as the caller gives it.
pub fn socket_path_by(get: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    get("XENSTORED_PATH").map_or_else(
        || {
            let rundir = get("XENSTORED_RUNDIR").unwrap_or_else(|| DEFAULT_RUNDIR.into());
            Path::new(&rundir).join("socket")
        },
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(vars: &[(&str, &str)]) -> PathBuf {
        socket_path_by(|name| {
            let found = vars.iter().find(|(var, _)| *var == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_path_comes_from_the_environment_as_libxenstore_reads_it() {
        assert_eq!(path(&[]), Path::new("/run/xenstored/socket"));
        let rundir = ("XENSTORED_RUNDIR", "/tmp/x");
        assert_eq!(path(&[rundir]), Path::new("/tmp/x/socket"));
        let whole = ("XENSTORED_PATH", "/tmp/other");
        assert_eq!(path(&[rundir, whole]), Path::new("/tmp/other"));
    }
}
