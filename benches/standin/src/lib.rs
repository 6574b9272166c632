//! A library for `LD_PRELOAD` by which Xen's own xenstored and oxenstored start where there is no Xen.
//!
//! It stands in for those functions of libxenctrl, libxenevtchn, libxengnttab and libxenmanage that the daemons call: each
//! succeeds and does nothing, no domain but 0 exists, and no event channel ever fires. What remains is what the daemons
//! do for clients of their Unix socket, which is all of it that we compare ourselves with. The two files that the daemons read
//! below `/proc/xen` are plain files of the folder that they are run in (`cargo xtask peers`).

// UNSAFETY: the functions are called from C by names that are others'.
#![expect(unsafe_code)]

use core::ffi::{c_int, c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicI32, Ordering};

/// What every handle is: something that is not NULL, and that nobody looks into.
static HANDLE: u8 = 0;

fn handle() -> *mut c_void {
    ptr::from_ref(&HANDLE).cast_mut().cast()
}

macro_rules! stand_in {
    ($($name:ident($($argument:ty),*) -> $result:ty = $value:expr;)*) => {
        $(
            #[doc = concat!("Stands in for `", stringify!($name), "`.")]
            // SAFETY: the name is that of the function which this one is to stand in for, with its arguments.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($(_: $argument),*) -> $result {
                $value
            }
        )*
    };
}

stand_in! {
    xc_interface_open(*mut c_void, *mut c_void, c_uint) -> *mut c_void = handle();
    xc_interface_close(*mut c_void) -> c_int = 0;
    xc_evtchn_status(*mut c_void, *mut c_void) -> c_int = 0;
    xenevtchn_close(*mut c_void) -> c_int = 0;
    xenevtchn_bind_virq(*mut c_void, c_uint) -> c_int = 3;
    xenevtchn_bind_interdomain(*mut c_void, u32, u32) -> c_int = 4;
    xenevtchn_notify(*mut c_void, c_int) -> c_int = 0;
    xenevtchn_unmask(*mut c_void, c_int) -> c_int = 0;
    xenevtchn_unbind(*mut c_void, c_int) -> c_int = 0;
    xenevtchn_pending(*mut c_void) -> c_int = -1;
    xengnttab_open(*mut c_void, c_uint) -> *mut c_void = handle();
    xengnttab_close(*mut c_void) -> c_int = 0;
    xengnttab_set_max_grants(*mut c_void, u32) -> c_int = 0;
    xengnttab_map_grant_ref(*mut c_void, u32, u32, c_int) -> *mut c_void = ring_page();
    xengnttab_unmap(*mut c_void, *mut c_void, u32) -> c_int = 0;
    xenforeignmemory_open(*mut c_void, c_uint) -> *mut c_void = handle();
    xenmanage_open(*mut c_void, c_uint) -> *mut c_void = handle();
    xenmanage_close(*mut c_void) -> c_int = 0;
    xenmanage_get_changed_domain(*mut c_void, *mut c_uint, *mut c_uint, *mut u64) -> c_int = -1;
    // Containers refuse to raise limits, and the daemons take that for the end of the world.
    setrlimit(c_int, *const c_void) -> c_int = 0;
    setrlimit64(c_int, *const c_void) -> c_int = 0;
}

/// Only domain 0 exists. The structure is left as the caller made it.
// SAFETY: the name is that of the function which this one is to stand in for, with its arguments.
#[unsafe(no_mangle)]
pub extern "C" fn xc_domain_getinfo_single(_: *mut c_void, domid: u32, _: *mut c_void) -> c_int {
    if domid == 0 { 0 } else { -1 }
}

/// Only domain 0 exists, and it is well.
///
/// # Safety
///
/// The two places to write to are valid or null.
// SAFETY: the name is that of the function which this one is to stand in for, with its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenmanage_get_domain_info(
    _: *mut c_void,
    domid: c_uint,
    state: *mut c_uint,
    unique: *mut u64,
) -> c_int {
    if domid != 0 {
        return -1;
    }
    if !state.is_null() {
        // SAFETY: valid by the caller's promise.
        unsafe { state.write(0) };
    }
    if !unique.is_null() {
        // SAFETY: valid by the caller's promise.
        unsafe { unique.write(1) };
    }
    0
}

/// The descriptor that no event channel ever makes readable.
static CHANNELS: AtomicI32 = AtomicI32::new(-1);

/// Stands in for `xenevtchn_open`.
// SAFETY: the name is that of the function which this one is to stand in for, with its arguments.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_open(_: *mut c_void, _: c_uint) -> *mut c_void {
    handle()
}

/// Stands in for `xenevtchn_fdopen`.
// SAFETY: the name is that of the function which this one is to stand in for, with its arguments.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_fdopen(_: *mut c_void, fd: c_int, _: c_uint) -> *mut c_void {
    CHANNELS.store(fd, Ordering::Relaxed);
    handle()
}

/// Stands in for `xenevtchn_fd`.
// SAFETY: the name is that of the function which this one is to stand in for, with its arguments.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_fd(_: *mut c_void) -> c_int {
    if CHANNELS.load(Ordering::Relaxed) < 0 {
        // SAFETY: it takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        CHANNELS.store(fd, Ordering::Relaxed);
    }
    CHANNELS.load(Ordering::Relaxed)
}

/// An empty ring.
fn ring_page() -> *mut c_void {
    // SAFETY: new memory, whose place the kernel chooses.
    unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    }
}
