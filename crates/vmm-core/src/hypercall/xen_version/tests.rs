use cantle_abi::xen::__HYPERVISOR_xen_version;

use super::*;
use crate::test_utils::{ARGS, Harness, MEMORY};

fn call(h: &Harness, cmd: u32, at: u64) -> i64 {
    h.call(0, __HYPERVISOR_xen_version, &[cmd.into(), at])
}

/// What a call wrote: its bytes, and whether it kept to them.
fn written<const N: usize>(h: &Harness, cmd: u32) -> [u8; N] {
    h.put(ARGS, &[0xee_u8; 2048]);
    assert_eq!(call(h, cmd, ARGS), 0);
    assert_eq!(h.get::<u8>(ARGS + N as u64), 0xee);
    h.get(ARGS)
}

#[test]
fn kvm_numbers() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(call(&h, XENVER_version, 0), 0x4_0011);
    assert_eq!(call(&h, XENVER_pagesize, 0), 4096);
    assert_eq!(call(&h, XENVER_build_id, 0), Errno::ENODATA.to_ret());
    assert_eq!(call(&h, 11, 0), Errno::ENOSYS.to_ret());
}

#[test]
fn kvm_texts_end_within_their_fields() {
    let Some(h) = Harness::new() else { return };
    assert_eq!(
        &written::<16>(&h, XENVER_extraversion)[..11],
        b".0-cantle\0\0"
    );
    let capabilities = written::<1024>(&h, XENVER_capabilities);
    assert!(capabilities.starts_with(b"hvm-3.0-x86_64 \0"));
    assert_eq!(written::<64>(&h, XENVER_changeset)[63], 0);
    assert_eq!(written::<1024>(&h, XENVER_commandline), [0; 1024]);
    // compile_by begins behind 64 bytes.
    assert_eq!(written::<144>(&h, XENVER_compile_info)[63..65], [0, 0]);
    assert_eq!(written::<8>(&h, XENVER_platform_parameters), [0; 8]);
    assert_eq!(&written::<16>(&h, XENVER_guest_handle), b"cantle-test-uuid");
}

#[test]
fn kvm_features_of_the_one_submap() {
    let Some(h) = Harness::new() else { return };
    let ask = |submap_idx| {
        h.put(
            ARGS,
            &XenFeatureInfo {
                submap_idx,
                submap: 0,
            },
        );
        let ret = call(&h, XENVER_get_features, ARGS);
        (ret, h.get::<XenFeatureInfo>(ARGS).submap)
    };
    assert_eq!(ask(0), (0, 1 << 2 | 1 << 8 | 1 << 9 | 1 << 13));
    assert_eq!(ask(1), (Errno::EINVAL.to_ret(), 0));
}

#[test]
fn kvm_bad_pointers() {
    let Some(h) = Harness::new() else { return };
    for cmd in [1, 2, 3, 4, 5, 6, 8, 9] {
        for at in [MEMORY, u64::MAX, 1 << 63] {
            assert_eq!(call(&h, cmd, at), Errno::EFAULT.to_ret(), "{cmd}");
        }
    }
}
