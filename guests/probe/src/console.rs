//! Where the probe's words go: the console ring once it is up, before that the host's own console, without Xen a debug port.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use cantle_abi::io::console::{XENCONS_IN, XENCONS_OUT};
use cantle_abi::{PAGE_SIZE, Port, hvm};

use crate::memory::Window;
use crate::report::{Because as _, Outcome};
use crate::text::Text;
use crate::{cpu, events, fail, hypercall, params};

/// The ring page's address; 0 while it is not in use.
static RING: AtomicU64 = AtomicU64::new(0);
/// Its event channel.
static PORT: AtomicU64 = AtomicU64::new(0);

/// QEMU's debug port, and what simple loaders listen at.
const DEBUG_PORT: u16 = 0xe9;

fn ring() -> Option<Window> {
    Window::outside_image(RING.load(Ordering::Relaxed), PAGE_SIZE)
}

/// The console's event channel.
pub(crate) fn port() -> Option<Port> {
    u32::try_from(PORT.load(Ordering::Relaxed))
        .ok()
        .filter(|port| *port != 0)
        .map(Port)
}

/// The console's event channel is another now.
pub(crate) fn set_port(port: Port) {
    PORT.store(port.0.into(), Ordering::Relaxed);
}

/// Finds the ring and uses it from now on.
pub(crate) fn connect() -> Outcome {
    let pfn = params::get(hvm::HVM_PARAM_CONSOLE_PFN).because("HVM_PARAM_CONSOLE_PFN")?;
    let port = params::get(hvm::HVM_PARAM_CONSOLE_EVTCHN).because("HVM_PARAM_CONSOLE_EVTCHN")?;
    let addr = pfn.wrapping_mul(PAGE_SIZE as u64);
    if Window::outside_image(addr, PAGE_SIZE).is_none() || port == 0 {
        fail!("the console's frame {pfn:#x} or port {port} is impossible");
    }
    PORT.store(port, Ordering::Relaxed);
    RING.store(addr, Ordering::Relaxed);
    Ok(())
}

/// Writes bytes to the ring, waiting for room for a while; what finds none is lost.
fn write_ring(ring: &Window, mut bytes: &[u8]) {
    let mut patience = 1_000_000_u32;
    while !bytes.is_empty() && patience != 0 {
        match XENCONS_OUT.write(ring, bytes) {
            Ok(0) => {
                patience -= 1;
                cpu::pause();
            }
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                if let Some(port) = port() {
                    // A host that does not want the console's events gets the text all the same.
                    let _ = events::send(port);
                }
            }
            Err(_) => return,
        }
    }
}

/// Writes bytes to wherever the console is now.
pub(crate) fn write(bytes: &[u8]) {
    if let Some(ring) = ring() {
        write_ring(&ring, bytes);
    } else if hypercall::console_io_write(bytes).is_err() {
        bytes.iter().for_each(|byte| cpu::out8(DEBUG_PORT, *byte));
    }
}

/// One line, put together first, so that the ring's other end is notified once.
pub(crate) fn line(args: fmt::Arguments<'_>) {
    let text = Text::<400>::format(format_args!("{args}\n"));
    write(text.as_bytes());
}

/// A byte that came in on the ring.
pub(crate) fn read() -> Outcome<Option<u8>> {
    let Some(ring) = ring() else {
        fail!("the console ring is not in use");
    };
    let mut byte = [0];
    let taken = XENCONS_IN.read(&ring, &mut byte)?;
    Ok((taken == 1).then_some(byte[0]))
}

/// Bytes written that the other end has not yet taken.
pub(crate) fn unread() -> Outcome<u32> {
    let Some(ring) = ring() else {
        fail!("the console ring is not in use");
    };
    Ok(XENCONS_OUT.readable(&ring)?)
}

/// Prints one line.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
