//! What the monitor of a PV guest asks of its host (`cantle_pv_monitor::interface`).
//!
//! The monitor runs in the guest's own virtual machine, so that a guest which breaks it makes these calls, too: like a hypercall's, nothing of their
//! arguments is believed.

use cantle_abi::{Errno, VcpuId};
use cantle_pv_monitor::interface::{HOST_CRASH, HOST_LOG, HOST_START_VCPU, HOST_VCPU_STATE};

use super::{Call, Caller, Served};
use crate::outcome::End;

/// The longest text of the log, in bytes.
const LONGEST_LINE: u64 = 4096;
/// The longest text of a crash; what is longer is cut.
const LONGEST_DUMP: u64 = 16 << 10;

/// Serves a call that is the monitor's; `None` for another one.
pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Option<Served> {
    caller.domain().pv.as_ref().filter(|_| caller.is_kernel())?;
    Some(match call.nr {
        HOST_LOG => log(caller, call),
        HOST_CRASH => crash(caller, call),
        HOST_START_VCPU => start(caller, call),
        HOST_VCPU_STATE => state(caller, call),
        _ => return None,
    })
}

fn log(caller: &Caller<'_>, call: &Call) -> Served {
    if call.arg(1) > LONGEST_LINE {
        return Err(Errno::E2BIG);
    }
    let text = text(caller, call.arg(0), call.arg(1))?;
    for line in text.lines() {
        tracing::info!(vcpu = %caller.vcpu(), "monitor: {line}");
    }
    Ok(0)
}

/// The dump goes to the console, whole, and becomes the end's reason.
fn crash(caller: &Caller<'_>, call: &Call) -> Served {
    let domain = caller.domain();
    let dump = text(caller, call.arg(0), call.arg(1).min(LONGEST_DUMP));
    let dump = dump.unwrap_or_else(|_| "the monitor's dump cannot be read".to_owned());
    domain.console_write(
        format!("\n{}\n", dump.trim_end())
            .replace('\n', "\r\n")
            .as_bytes(),
    );
    let lines: Vec<&str> = dump
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    domain.end(End::Crash(lines.join("; ")));
    Ok(0)
}

fn start(caller: &Caller<'_>, call: &Call) -> Served {
    let handle = handle(caller, call)?;
    if handle.begin() {
        Ok(0)
    } else {
        Err(Errno::EEXIST)
    }
}

fn state(caller: &Caller<'_>, call: &Call) -> Served {
    handle(caller, call)?.set_down(call.arg(1) == 0);
    Ok(0)
}

fn handle<'a>(caller: &Caller<'a>, call: &Call) -> Result<&'a crate::kvm::vcpu::VcpuHandle, Errno> {
    let vcpu = u32::try_from(call.arg(0)).map_err(|_| Errno::ENOENT)?;
    caller.domain().handle(VcpuId(vcpu)).ok_or(Errno::ENOENT)
}

/// A text of the guest's, made harmless for a terminal.
fn text(caller: &Caller<'_>, at: u64, bytes: u64) -> Result<String, Errno> {
    let bytes = usize::try_from(bytes).map_err(|_| Errno::E2BIG)?;
    let mut buf = vec![0; bytes];
    caller.read_bytes(at, &mut buf)?;
    let harmless = |byte: u8| match byte {
        b'\n' => '\n',
        b' '..=b'~' => char::from(byte),
        _ => '?',
    };
    Ok(buf.into_iter().map(harmless).collect())
}
