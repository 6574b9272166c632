//! The probe guest on this machine's KVM: the host's whole interface, tried from inside.

mod support;

use std::io::{Read, Write};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cantle_abi::io::xs_wire::XS_READ;
use cantle_vmm_core::{DiskConfig, End, GuestConfig, Machine, SetupError, TransportChoice};
use cantle_xenstore::wire::{self, HEADER_SIZE};
use support::{assert_passed, console, guest, have_kvm, run, text};

fn disk(path: &std::path::Path, read_only: bool) -> DiskConfig {
    let mut disk = DiskConfig::raw(path);
    disk.disk.read_only = read_only;
    disk
}

fn everything(transport: TransportChoice, option: &str) {
    let image = tempfile::NamedTempFile::new().expect("a temporary file");
    image.as_file().set_len(4 << 20).expect("a temporary file");
    let config = GuestConfig {
        vcpus: 2,
        transport,
        disks: vec![disk(image.path(), false)],
        ..guest(&format!("probe=all {option} expect-mib=64 expect-vcpus=2"))
    };
    let (outcome, text) = run(config);
    assert_passed(&outcome, &text, 60);
    let stats = outcome.stats;
    assert!(stats.hypercalls["event_channel_op"] > 100);
    assert!(
        stats.unknown_hypercalls.contains_key(&63),
        "the probe makes a call that there is not"
    );
    assert!(stats.disks["xvda"]["reads"] > 0 && stats.disks["xvda"]["failed"] == 0);
    assert_eq!(
        stats.grants["maps"], stats.grants["unmaps"],
        "nothing stays mapped"
    );
}

#[test]
fn kvm_everything_by_the_hypercall_page() {
    if have_kvm() {
        everything(TransportChoice::Page, "hypercall=page");
    }
}

/// Held back, but not wrong: the disk's requests are all served.
#[test]
fn kvm_a_guest_that_signals_too_often_waits() {
    if !have_kvm() {
        return;
    }
    let image = tempfile::NamedTempFile::new().expect("a temporary file");
    image.as_file().set_len(4 << 20).expect("a temporary file");
    let config = GuestConfig {
        disks: vec![disk(image.path(), false)],
        max_event_rate: NonZeroU32::new(100),
        ..guest("probe=blk")
    };
    let (outcome, text) = run(config);
    assert_passed(&outcome, &text, 1);
    let events = outcome.stats.events;
    let over = events["sends"].saturating_sub(10);
    assert!(events["early"] > 0 && events["early"] <= over, "{events:?}");
    // Each of them was waited for, 10 ms a signal, in the long run.
    let owed = 0.01 * events["early"] as f64;
    assert!(outcome.stats.run_s >= owed * 0.9, "{events:?}");
}

#[test]
fn kvm_everything_by_rewritten_instructions() {
    if have_kvm() {
        everything(TransportChoice::Rewrite, "hypercall=direct");
    }
}

#[test]
fn kvm_everything_with_fifo_events_from_the_first_on() {
    if have_kvm() {
        everything(TransportChoice::Page, "evtchn=fifo");
    }
}

#[test]
fn kvm_all_ports_of_the_fifo_interface() {
    if have_kvm() {
        let (outcome, text) = run(guest("probe=loopback,fifo-all evtchn=fifo"));
        assert_passed(&outcome, &text, 2);
        assert_eq!(outcome.stats.evtchn, "2l", "its last test resets");
    }
}

#[test]
fn kvm_the_statistics_name_the_event_interface() {
    if !have_kvm() {
        return;
    }
    for (option, name) in [("evtchn=fifo", "fifo"), ("evtchn=2l", "2l")] {
        let (outcome, text) = run(guest(&format!("probe=loopback {option}")));
        assert_passed(&outcome, &text, 1);
        assert_eq!(outcome.stats.evtchn, name);
    }
}

#[test]
fn kvm_everything_by_kvms_own_interception_where_it_has_it() {
    if !have_kvm() {
        return;
    }
    let (console, _) = console();
    let config = GuestConfig {
        transport: TransportChoice::Xen,
        ..guest("probe=version")
    };
    match Machine::new(config, console) {
        Ok(_) => everything(TransportChoice::Xen, "hypercall=page"),
        Err(SetupError::Transport { transport, .. }) => {
            eprintln!(
                "SKIPPED: this KVM has no Xen support; forcing {transport} was refused, as it should be"
            );
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn kvm_the_tests_that_run_only_by_name() {
    if have_kvm() {
        let (outcome, text) = run(guest("probe=multicall"));
        assert_passed(&outcome, &text, 1);
    }
}

#[test]
fn kvm_sixteen_vcpus_are_brought_up_by_the_guest() {
    if have_kvm() {
        let (outcome, text) = run(GuestConfig {
            vcpus: 16,
            ..guest("probe=smp,acpi expect-vcpus=16")
        });
        assert_passed(&outcome, &text, 2);
    }
}

#[test]
fn kvm_each_end_of_a_run_is_told_as_what_it_is() {
    if !have_kvm() {
        return;
    }
    for (option, expected) in [
        ("poweroff", End::PowerOff),
        ("reboot", End::Reboot),
        ("suspend", End::Suspend),
    ] {
        let (outcome, text) = run(guest(&format!("probe=version end={option}")));
        assert_eq!(outcome.end, expected, "{text}");
    }
    for option in ["crash", "triplefault"] {
        let (outcome, text) = run(guest(&format!("probe=version end={option}")));
        assert!(
            matches!(outcome.end, End::Crash(_)),
            "{option}: {:?}\n{text}",
            outcome.end
        );
    }
}

#[test]
fn kvm_a_guest_that_hangs_can_be_destroyed() {
    if !have_kvm() {
        return;
    }
    let (console, mut output) = console();
    let machine = Machine::new(guest("probe=version end=hang"), console).unwrap();
    let control = machine.control();
    let thread = std::thread::spawn(move || machine.run());
    std::thread::sleep(Duration::from_millis(300));
    control.destroy();
    let outcome = thread.join().unwrap().unwrap();
    assert_eq!(outcome.end, End::Destroyed, "{}", text(&mut output));
}

#[test]
fn kvm_the_hosts_programs_find_the_guests_store() {
    if !have_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("xenstore");
    let (console, _output) = console();
    let config = GuestConfig {
        xenstore_socket: Some(path.clone()),
        ..guest("probe=version end=hang")
    };
    let machine = Machine::new(config, console).unwrap();
    let control = machine.control();
    let reader = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(&path).unwrap();
        let mut request = Vec::new();
        let name = [&b"/local/domain/1/name\0"[..]];
        wire::emit(&mut request, XS_READ, 7, 0, &name).unwrap();
        stream.write_all(&request).unwrap();
        let mut reply = [0; HEADER_SIZE + 5];
        stream.read_exact(&mut reply).unwrap();
        control.destroy();
        reply
    });
    let outcome = machine.run().unwrap();
    assert_eq!(outcome.end, End::Destroyed);
    assert_eq!(&reader.join().unwrap()[HEADER_SIZE..], b"probe");
    assert_eq!(
        folder.path().read_dir().unwrap().count(),
        0,
        "the socket is gone"
    );
}

#[test]
fn kvm_a_machine_that_never_ran_goes_without_a_trace() {
    if !have_kvm() {
        return;
    }
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let (console, _) = console();
    let before = threads();
    let machine = Machine::new(guest("probe=version"), console).unwrap();
    drop(machine);
    assert!(
        threads() <= before + 8,
        "other tests' threads come and go; this machine's would be there to stay"
    );
}

#[test]
fn kvm_the_console_carries_input() {
    if !have_kvm() {
        return;
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (mut console, mut output) = console();
    console.input = OwnedFd::from(theirs);
    let machine = Machine::new(guest("probe=console-input"), console).unwrap();
    let thread = std::thread::spawn(move || machine.run());
    // Written before the guest is there to read it: it waits in the ring.
    ours.write_all(b"a line from the host\r").unwrap();
    let outcome = thread.join().unwrap().unwrap();
    let text = text(&mut output);
    assert_passed(&outcome, &text, 1);
    assert!(text.contains("a line from the host"), "{text}");
}

#[test]
fn kvm_a_read_only_disk_is_not_written() {
    if !have_kvm() {
        return;
    }
    let mut image = tempfile::NamedTempFile::new().unwrap();
    let contents = vec![0x5a; 1 << 20];
    image.write_all(&contents).unwrap();
    let config = GuestConfig {
        disks: vec![disk(image.path(), true)],
        ..guest("probe=blk")
    };
    let (_, text) = run(config);
    assert!(std::fs::read(image.path()).unwrap() == contents, "{text}");
}
