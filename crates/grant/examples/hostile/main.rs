//! A hostile back end, and what it gets: tries each known way out of its windows, in a process of its own each time, and looks
//! whether it saw or changed a byte that was not lent to it.
//!
//! Prints a line for each attempt and `N passed, M failed` at the end; the exit code says the same. As controls, some are made without the
//! confinement, where they must succeed. Needs the rights of root. `hostile [NAME]` makes only the attempts whose names have
//! NAME in them. `HOSTILE_FILE` names a file or device for direct I/O; without it a file is made in the current directory.

// UNSAFETY: it does what may not be done.
#![expect(unsafe_code)]

mod backend;
mod calls;
mod host;
mod memory;
mod service;
mod uring;

use std::process::ExitCode;

use host::Expect;

/// An attempt: what it is called, what makes it, and what is to come of it.
struct Attempt {
    name: &'static str,
    run: fn(&mut backend::Hostile),
    setting: Setting,
    expect: Expect,
}

/// Under which circumstances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// Confined, as always; strays are poisoned where that can be.
    Usual,
    /// The same, and strays end the process.
    Kill,
    /// Not confined: a control.
    Open,
    /// Not confined, and the broker was not told to serve it so.
    Forgotten,
    /// The broker is killed before the attempt.
    NoBroker,
    /// Both.
    OpenNoBroker,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--backend", name, setting] => backend::main(name, setting),
        ["--broker", name, setting] => host::doomed_broker(name, setting),
        [] => host::all(""),
        [part] => host::all(part),
        _ => {
            eprintln!("usage: hostile [NAME]");
            ExitCode::from(2)
        }
    }
}

impl Setting {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Usual, "usual"),
        (Self::Kill, "kill"),
        (Self::Open, "open"),
        (Self::Forgotten, "forgotten"),
        (Self::NoBroker, "no-broker"),
        (Self::OpenNoBroker, "open-no-broker"),
    ];

    fn name(self) -> &'static str {
        let mut all = Self::ALL.into_iter();
        all.find(|(setting, _)| *setting == self)
            .map_or("", |(_, name)| name)
    }

    fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(_, other)| *other == name)
            .map(|(setting, _)| setting)
    }

    fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::OpenNoBroker)
    }
}

/// All attempts.
fn attempts() -> Vec<Attempt> {
    use Expect::{Closed, Open};
    use Setting::{Kill, NoBroker, OpenNoBroker, Usual};
    let attempt = |name, run, setting, expect| Attempt {
        name,
        run,
        setting,
        expect,
    };
    let usual = |name, run| attempt(name, run, Usual, Closed);
    let control = |name, run| attempt(name, run, Setting::Open, Open);
    vec![
        attempt("what_is_lent_is_reached", calls::lent, Usual, Expect::Lent),
        attempt(
            "what_is_lent_takes_direct_io",
            uring::direct_lent,
            Usual,
            Expect::Lent,
        ),
        attempt(
            "what_was_poisoned_is_reached_once_lent",
            service::poisoned_then_lent,
            Usual,
            Expect::Lent,
        ),
        attempt(
            "what_the_guest_gave_back_meanwhile_is_reached",
            service::ballooned,
            Usual,
            Expect::Lent,
        ),
        usual("read_beside", calls::read_beside),
        usual("write_beside", calls::write_beside),
        attempt(
            "read_beside_ends_the_process",
            calls::read_beside,
            Kill,
            Closed,
        ),
        attempt(
            "write_beside_ends_the_process",
            calls::write_beside,
            Kill,
            Closed,
        ),
        attempt(
            "system_calls_beside_end_the_process",
            calls::system_calls,
            Kill,
            Closed,
        ),
        usual("read_after_unmap", calls::read_after_unmap),
        usual("write_after_unmap", calls::write_after_unmap),
        usual("unmap_that_is_a_lie", service::lying_unmap),
        usual("system_calls_beside", calls::system_calls),
        usual("many_threads_beside", calls::threads),
        usual("direct_io_beside", uring::direct_beside),
        usual("io_uring_beside", uring::beside),
        usual("io_uring_other_operations", uring::operations),
        usual("io_uring_new_ring_and_buffers", uring::setup_and_register),
        usual("mremap", memory::mremap),
        control("control_mremap", memory::mremap),
        usual("remap_file_pages", memory::remap_file_pages),
        usual("fork", memory::fork),
        control("control_fork", memory::fork),
        usual("exec", calls::exec),
        usual("proc_self_mem", calls::proc_mem),
        usual("proc_map_files", calls::map_files),
        control("control_map_files", calls::map_files),
        usual("ptrace", calls::ptrace),
        usual("process_vm", calls::process_vm),
        usual("own_userfaultfd", calls::own_uffd),
        usual("kept_userfaultfd", calls::kept_uffd),
        control("control_kept_userfaultfd", calls::kept_uffd),
        usual("close_the_kept_userfaultfd", calls::close_uffd),
        usual("mprotect_read_only", memory::mprotect),
        control("control_mprotect_read_only", memory::mprotect),
        usual("madvise_remove", memory::madvise_remove),
        control("control_madvise_remove", memory::madvise_remove),
        usual("madvise_collapse_and_populate", memory::madvise_others),
        usual("vmsplice_after_unmap", memory::vmsplice),
        control("control_vmsplice_after_unmap", memory::vmsplice),
        usual("grants_of_others", service::foreign_grants),
        usual("read_only_grant_for_writing", service::read_only_grant),
        attempt(
            "what_is_lent_is_copied",
            service::copies,
            Usual,
            Expect::Lent,
        ),
        usual("broker_gets_garbage", service::garbage),
        usual("broker_gets_no_ear", service::replies_unread),
        usual("broker_gets_many_strays", service::many_strays),
        attempt(
            "mappings_have_a_limit",
            service::many_mappings,
            Usual,
            Expect::Lent,
        ),
        attempt(
            "a_guest_that_ended_is_a_zombie",
            service::zombie,
            Usual,
            Expect::Lent,
        ),
        attempt(
            "confinement_forgotten",
            calls::read_beside,
            Setting::Forgotten,
            Expect::Refused,
        ),
        attempt(
            "broker_killed_read_beside",
            calls::read_beside,
            NoBroker,
            Closed,
        ),
        attempt(
            "broker_killed_write_beside",
            calls::write_beside,
            NoBroker,
            Closed,
        ),
        attempt(
            "broker_killed_system_calls",
            calls::system_calls,
            NoBroker,
            Closed,
        ),
        attempt(
            "broker_killed_close_userfaultfd",
            calls::close_uffd,
            NoBroker,
            Closed,
        ),
        attempt(
            "control_broker_killed_close_userfaultfd",
            calls::close_uffd,
            OpenNoBroker,
            Open,
        ),
    ]
}
