//! What needs the machine itself.
// UNSAFETY: a first instruction.
#![expect(unsafe_code)]

// SAFETY: nothing else has that name.
#[unsafe(no_mangle)]
extern "C" fn monitor_entry() -> ! {
    loop {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
