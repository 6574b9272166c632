//! What cannot be set up is refused in one line that says what is wrong.

mod support;

use std::path::PathBuf;

use cantle_vmm_core::{
    DiskConfig, GrantConfig, GuestConfig, GuestKind, Machine, NetConfig, SetupError,
    TransportChoice,
};
use support::{console, guest, have_kvm};

fn refusal(config: GuestConfig) -> SetupError {
    let (console, _) = console();
    let error = Machine::new(config, console)
        .map(drop)
        .expect_err("it cannot be set up");
    let line = error.to_string();
    assert!(
        !line.contains('\n') && line.len() > 10,
        "one clear line, not {line:?}"
    );
    error
}

#[test]
fn kvm_wrong_sizes_are_refused() {
    if !have_kvm() {
        return;
    }
    for config in [
        GuestConfig {
            vcpus: 0,
            ..guest("")
        },
        GuestConfig {
            max_event_channels: 1,
            ..guest("")
        },
        GuestConfig {
            max_event_channels: 1 << 17,
            ..guest("")
        },
        GuestConfig {
            vcpus: 17,
            ..guest("")
        },
        GuestConfig {
            memory: 4 << 20,
            ..guest("")
        },
        GuestConfig {
            memory: (64 << 20) + 1,
            ..guest("")
        },
    ] {
        assert!(matches!(refusal(config), SetupError::Config(_)));
    }
}

#[test]
fn kvm_grant_tables_that_there_cannot_be_are_refused() {
    if !have_kvm() {
        return;
    }
    for (max_grant_version, max_grant_frames, max_maptrack_frames, said) in [
        (0, 64, 1, "max_grant_version: 0 is not one of 1 to 2"),
        (3, 64, 1, "max_grant_version: 3 is not one of 1 to 2"),
        (1, 0, 1, "max_grant_frames: 0 is not one of 1 to 4096"),
        (2, 4097, 1, "max_grant_frames: 4097 is not one of 1 to 4096"),
        (
            1,
            64,
            4097,
            "max_maptrack_frames: 4097 is not one of 0 to 4096",
        ),
    ] {
        let grants = GrantConfig {
            max_grant_version,
            max_grant_frames,
            max_maptrack_frames,
        };
        let config = GuestConfig {
            grants,
            ..guest("")
        };
        assert_eq!(refusal(config).to_string(), said);
    }
}

#[test]
fn kvm_a_kernel_that_is_none_is_refused() {
    if !have_kvm() {
        return;
    }
    for kernel in ["/etc/hostname", "/bin/sh", "/nowhere/vmlinuz"] {
        let config = GuestConfig {
            kernel: PathBuf::from(kernel),
            ..guest("")
        };
        assert!(matches!(refusal(config), SetupError::Boot(_)), "{kernel}");
    }
}

#[test]
fn kvm_a_kernel_without_call_sites_cannot_be_rewritten() {
    if !have_kvm() {
        return;
    }
    // Half of the pair is gone: what is left cannot be told from chance.
    let mut elf = std::fs::read(support::probe()).unwrap();
    let site = elf
        .windows(4)
        .position(|bytes| bytes == [0x0f, 0x01, 0xd9, 0xc3])
        .expect("the probe has the pair");
    elf[site..site + 3].copy_from_slice(&[0x90, 0x90, 0x90]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), elf).unwrap();
    let config = GuestConfig {
        kernel: file.path().to_owned(),
        transport: TransportChoice::Rewrite,
        ..guest("")
    };
    assert!(matches!(refusal(config), SetupError::Transport { .. }));
}

#[test]
fn kvm_a_pv_guests_calls_come_by_its_monitor_only() {
    if !have_kvm() {
        return;
    }
    for transport in [
        TransportChoice::Xen,
        TransportChoice::Page,
        TransportChoice::Rewrite,
    ] {
        let config = GuestConfig {
            kind: GuestKind::Pv,
            transport,
            ..guest("")
        };
        assert!(matches!(refusal(config), SetupError::Transport { .. }));
    }
}

#[test]
fn kvm_disks_that_are_none_are_refused() {
    if !have_kvm() {
        return;
    }
    let odd = tempfile::NamedTempFile::new().unwrap();
    odd.as_file().set_len(1000).unwrap();
    let good = tempfile::NamedTempFile::new().unwrap();
    good.as_file().set_len(4096).unwrap();
    let disk = |path: &std::path::Path, vdev: Option<&str>| DiskConfig {
        vdev: vdev.map(ToOwned::to_owned),
        ..DiskConfig::raw(path)
    };
    for disks in [
        vec![disk("/nowhere/disk".as_ref(), None)],
        vec![disk("/tmp".as_ref(), None)],
        vec![disk(odd.path(), None)],
        vec![disk(good.path(), Some("sda"))],
        vec![disk(good.path(), Some("xvdb")), disk(good.path(), None)],
    ] {
        assert!(matches!(
            refusal(GuestConfig { disks, ..guest("") }),
            SetupError::Disk { .. }
        ));
    }
}

#[test]
fn kvm_a_tap_that_cannot_be_is_refused() {
    if !have_kvm() {
        return;
    }
    let nets = vec![NetConfig::tap("a name that is too long for it")];
    assert!(matches!(
        refusal(GuestConfig { nets, ..guest("") }),
        SetupError::Net { .. }
    ));
}
