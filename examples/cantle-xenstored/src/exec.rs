//! Becoming another program.

// UNSAFETY: std's `exec` clears the signal mask, and with it would lose a signal that comes in between.
#![expect(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::FdFlags;

/// Replaces this program by `program`, with its environment and signal mask as they are. `kept` stay open under their numbers; all
/// else that was opened here is closed. It returns only where that fails, and then everything is as before.
pub(crate) fn exec(program: &Path, args: &[String], kept: &[BorrowedFd<'_>]) -> io::Error {
    let cstring = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let made = || -> io::Result<(CString, Vec<CString>)> {
        let path = cstring(program.as_os_str())?;
        let rest = args.iter().map(|arg| cstring(OsStr::new(arg)));
        let all = std::iter::once(Ok(path.clone()))
            .chain(rest)
            .collect::<Result<_, _>>()?;
        Ok((path, all))
    };
    let (path, args) = match made() {
        Ok(made) => made,
        Err(error) => return error,
    };
    let mut pointers: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(std::ptr::null());
    if let Err(error) = inherit(kept, FdFlags::empty()) {
        return error;
    }
    // SAFETY: the path and each argument end with a NUL and the list with a null pointer, and all of them live until the call returns.
    unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
    let error = io::Error::last_os_error();
    // The descriptors are open: what can be set can be set back.
    let _ = inherit(kept, FdFlags::CLOEXEC);
    error
}

fn inherit(fds: &[BorrowedFd<'_>], flags: FdFlags) -> io::Result<()> {
    for fd in fds {
        rustix::io::fcntl_setfd(fd.as_fd(), flags)?;
    }
    Ok(())
}
