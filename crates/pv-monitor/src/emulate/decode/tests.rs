use super::*;
use proptest::prelude::*;

fn whole(bytes: &[u8]) -> Instruction {
    let mut padded = [0x90; 20];
    padded[..bytes.len()].copy_from_slice(bytes);
    let decoded = decode(&padded).expect("an instruction that is emulated");
    assert_eq!(decoded.length, bytes.len());
    for end in 0..bytes.len() {
        assert_eq!(decode(&bytes[..end]), None, "it is not whole");
    }
    decoded.instruction
}

#[test]
fn instructions_of_a_kernel() {
    for (bytes, instruction) in [
        (&[0x0f, 0xa2][..], Instruction::Cpuid),
        (
            &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2],
            Instruction::Cpuid,
        ),
        (&[0x0f, 0x32], Instruction::ReadMsr),
        (&[0x0f, 0x30], Instruction::WriteMsr),
        (&[0x0f, 0x31], Instruction::ReadTsc),
        (&[0x0f, 0x01, 0xf9], Instruction::ReadTscAux),
        (&[0x0f, 0x06], Instruction::ClearTaskSwitched),
        (&[0xf4], Instruction::Halt),
        (&[0xfa], Instruction::InterruptFlag),
        (&[0xfb], Instruction::InterruptFlag),
        (&[0x0f, 0x01, 0xf8], Instruction::SwapGs),
        (&[0x0f, 0x01, 0xd1], Instruction::SetXcr),
        (&[0x0f, 0x09], Instruction::Caches),
        (&[0xf3, 0x0f, 0x09], Instruction::Caches),
        (&[0x48, 0xcf], Instruction::InterruptReturn),
        (
            &[0x48, 0xcb],
            Instruction::FarReturn {
                size: 8,
                dropped: 0,
            },
        ),
        (
            &[0xcb],
            Instruction::FarReturn {
                size: 4,
                dropped: 0,
            },
        ),
        (
            &[0x48, 0xca, 0x10, 0x02],
            Instruction::FarReturn {
                size: 8,
                dropped: 0x210,
            },
        ),
        (&[0x0f, 0x01, 0xf0], Instruction::LoadStatus { register: 0 }),
        (
            &[0x41, 0x0f, 0x01, 0xf7],
            Instruction::LoadStatus { register: 15 },
        ),
    ] {
        assert_eq!(whole(bytes), instruction, "{bytes:x?}");
    }
}

#[test]
fn control_and_debug_registers() {
    // mov %cr4,%rax; mov %rdi,%cr4; mov %cr0,%r12; mov %r9,%cr8
    assert_eq!(
        whole(&[0x0f, 0x20, 0xe0]),
        Instruction::FromControl {
            control: 4,
            register: 0
        }
    );
    assert_eq!(
        whole(&[0x0f, 0x22, 0xe7]),
        Instruction::ToControl {
            control: 4,
            register: 7
        }
    );
    assert_eq!(
        whole(&[0x41, 0x0f, 0x20, 0xc4]),
        Instruction::FromControl {
            control: 0,
            register: 12
        }
    );
    assert_eq!(
        whole(&[0x45, 0x0f, 0x22, 0xc1]),
        Instruction::ToControl {
            control: 8,
            register: 9
        }
    );
    // mov %dr7,%rax; mov %rsi,%dr6
    assert_eq!(
        whole(&[0x0f, 0x21, 0xf8]),
        Instruction::FromDebug {
            debug: 7,
            register: 0
        }
    );
    assert_eq!(
        whole(&[0x0f, 0x23, 0xf6]),
        Instruction::ToDebug {
            debug: 6,
            register: 6
        }
    );
}

#[test]
fn ports_of_all_sizes() {
    assert_eq!(
        whole(&[0xe4, 0x70]),
        Instruction::In {
            port: Port::Number(0x70),
            size: 1
        }
    );
    assert_eq!(
        whole(&[0x66, 0xe5, 0x70]),
        Instruction::In {
            port: Port::Number(0x70),
            size: 2
        }
    );
    assert_eq!(
        whole(&[0xec]),
        Instruction::In {
            port: Port::Dx,
            size: 1
        }
    );
    assert_eq!(
        whole(&[0x66, 0xed]),
        Instruction::In {
            port: Port::Dx,
            size: 2
        }
    );
    assert_eq!(
        whole(&[0xed]),
        Instruction::In {
            port: Port::Dx,
            size: 4
        }
    );
    for (bytes, port, size) in [
        (&[0xe6, 0x80][..], Port::Number(0x80), 1),
        (&[0xe7, 0x80], Port::Number(0x80), 4),
        (&[0xee], Port::Dx, 1),
        (&[0xef], Port::Dx, 4),
        (&[0x66, 0xef], Port::Dx, 2),
    ] {
        assert_eq!(whole(bytes), Instruction::Out { port, size });
    }
}

fn page(bytes: &[u8]) -> Address {
    match whole(bytes) {
        Instruction::InvalidatePage(address) => address,
        other => panic!("{other:?}"),
    }
}

#[test]
fn operands_in_memory() {
    let none = Address::default();
    // invlpg (%rdi); (%r12); (%r13,%r14,4)
    assert_eq!(
        page(&[0x0f, 0x01, 0x3f]),
        Address {
            base: Some(7),
            ..none
        }
    );
    assert_eq!(
        page(&[0x41, 0x0f, 0x01, 0x3c, 0x24]),
        Address {
            base: Some(12),
            ..none
        }
    );
    assert_eq!(
        page(&[0x43, 0x0f, 0x01, 0x7c, 0xb5, 0x00]),
        Address {
            base: Some(13),
            index: Some((14, 2)),
            ..none
        }
    );
    // (%rax,%r12): 4 is no index, 12 is one
    let index = Some((12, 0));
    assert_eq!(
        page(&[0x42, 0x0f, 0x01, 0x3c, 0x20]),
        Address {
            base: Some(0),
            index,
            ..none
        }
    );
    // -8(%rbp); 0x12345678(%rax); 0x1000(%rip); fs:0x10
    assert_eq!(
        page(&[0x0f, 0x01, 0x7d, 0xf8]),
        Address {
            base: Some(5),
            displacement: -8,
            ..none
        }
    );
    assert_eq!(
        page(&[0x0f, 0x01, 0xb8, 0x78, 0x56, 0x34, 0x12]),
        Address {
            base: Some(0),
            displacement: 0x1234_5678,
            ..none
        }
    );
    assert_eq!(
        page(&[0x0f, 0x01, 0x3d, 0x00, 0x10, 0x00, 0x00]),
        Address {
            after_instruction: true,
            displacement: 0x1000,
            ..none
        }
    );
    assert_eq!(
        page(&[0x64, 0x0f, 0x01, 0x3c, 0x25, 0x10, 0x00, 0x00, 0x00]),
        Address {
            segment: Some(Segment::Fs),
            displacement: 0x10,
            ..none
        }
    );
    assert_eq!(
        page(&[0x67, 0x65, 0x0f, 0x01, 0x38]),
        Address {
            segment: Some(Segment::Gs),
            base: Some(0),
            short: true,
            ..none
        }
    );
    // mov %eax,%ss; mov 8(%rsp),%ss
    assert_eq!(whole(&[0x8e, 0xd0]), Instruction::LoadStack);
    assert_eq!(whole(&[0x8e, 0x54, 0x24, 0x08]), Instruction::LoadStack);
}

#[test]
fn what_is_not_emulated_is_not_decoded() {
    for bytes in [
        &[0x90][..],
        &[0xf0, 0x0f, 0x20, 0xc0],             // lock
        &[0x0f, 0x0b],                         // ud2
        &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x90], // "xen" before what it does not stand before
        &[0x0f, 0x01, 0xd0],                   // xgetbv
        &[0x0f, 0x01, 0x10],                   // lgdt
        &[0x0f, 0x01, 0xca],                   // clac
        &[0x0f, 0x33],                         // rdpmc
        &[0x8e, 0xd8],                         // mov to ds
        &[0xcf],                               // iretd
        &[0x6c],                               // insb
        &[0x48, 0x48, 0x0f, 0x06],             // two REX
    ] {
        let mut padded = [0x90; 15];
        padded[..bytes.len()].copy_from_slice(bytes);
        assert_eq!(decode(&padded), None, "{bytes:x?}");
    }
}

#[test]
fn an_instruction_of_more_than_15_bytes_is_none() {
    let mut bytes = [0x66; 32];
    bytes[13..15].copy_from_slice(&[0x0f, 0x06]);
    assert_eq!(decode(&bytes).map(|d| d.length), Some(15));
    bytes[13] = 0x66;
    bytes[14..16].copy_from_slice(&[0x0f, 0x06]);
    assert_eq!(decode(&bytes), None);
}

proptest! {
    #[test]
    fn never_more_than_15_bytes_are_read(bytes in prop::collection::vec(prop_oneof![
        prop::sample::select(std::vec![0x0f_u8, 0x01, 0x66, 0x48, 0x22, 0x20, 0x3c, 0x8e, 0x54, 0x24, 0xca, 0xe4]), any::<u8>()
    ], 0..40)) {
        let found = decode(&bytes);
        let shorter = decode(bytes.get(..15).unwrap_or(&bytes));
        prop_assert_eq!(found, shorter);
        if let Some(found) = found {
            prop_assert!(found.length <= 15 && found.length <= bytes.len());
            // What is behind it does not matter, and all of it does.
            prop_assert_eq!(decode(&bytes[..found.length]), Some(found));
            prop_assert_eq!(decode(&bytes[..found.length - 1]), None);
        }
    }
}
