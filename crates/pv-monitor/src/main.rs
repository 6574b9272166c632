//! The monitor as a program: built for `x86_64-unknown-none` it is what the host loads; anywhere else it says so.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod machine;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "The monitor of PV guests runs in ring 0 of a virtual machine: build it for x86_64-unknown-none."
    );
}
