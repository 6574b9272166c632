use super::*;

const BASE: u64 = 0x1fff_0000;

fn config() -> AcpiConfig {
    AcpiConfig {
        vcpus: 3,
        io_apic: None,
        sleep: Some(SleepPorts::DEFAULT),
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N]
        .iter()
        .rev()
        .fold(0, |sum, b| sum << 8 | u64::from(*b))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

/// The table at `address`, its checksum and alignment checked.
fn table(bytes: &[u8], address: u64) -> &[u8] {
    assert_eq!(address % 16, 0);
    let at = usize::try_from(address - BASE).unwrap();
    let length = usize::try_from(number::<4>(bytes, at + 4)).unwrap();
    let table = &bytes[at..at + length];
    assert_eq!(sum(table), 0, "checksum of {:?}", &table[..4]);
    table
}

/// XSDT's tables, found as a guest finds them.
fn tables(bytes: &[u8]) -> Vec<&[u8]> {
    assert_eq!(&bytes[..8], b"RSD PTR ");
    assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
    let xsdt = table(bytes, number::<8>(bytes, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    xsdt[36..]
        .chunks(8)
        .map(|entry| table(bytes, number::<8>(entry, 0)))
        .collect()
}

fn find<'a>(bytes: &'a [u8], signature: &[u8; 4]) -> &'a [u8] {
    tables(bytes)
        .into_iter()
        .find(|t| t[..4] == *signature)
        .expect("the table is there")
}

#[test]
fn each_vcpu_has_its_number_as_processor_id_and_apic_id() {
    let bytes = build(&config(), BASE);
    let madt = find(&bytes, b"APIC");
    assert_eq!(number::<4>(madt, 36), 0xfee0_0000);
    let expected: Vec<u8> = (0..3).flat_map(|id| [0, 8, id, id, 1, 0, 0, 0]).collect();
    assert_eq!(madt[44..], expected);
}

#[test]
fn an_io_apic_is_named_if_there_is_one() {
    let io_apic = Some(IoApicConfig {
        id: 4,
        address: 0xfec0_0000,
        gsi_base: 16,
    });
    let bytes = build(
        &AcpiConfig {
            vcpus: 1,
            io_apic,
            ..config()
        },
        BASE,
    );
    assert_eq!(
        find(&bytes, b"APIC")[52..],
        [1, 12, 4, 0, 0, 0, 0xc0, 0xfe, 16, 0, 0, 0]
    );
}

#[test]
fn the_platform_is_hardware_reduced_and_sleeps_by_the_ports() {
    let bytes = build(&config(), BASE);
    let fadt = find(&bytes, b"FACP");
    assert_ne!(number::<4>(fadt, 112) & 1 << 20, 0, "hardware-reduced");
    assert_eq!(number::<2>(fadt, 109), 0x24, "no VGA, no CMOS clock");
    assert_eq!(
        fadt[244..256],
        [1, 8, 0, 1, 0x04, 0x04, 0, 0, 0, 0, 0, 0],
        "sleep control"
    );
    assert_eq!(
        fadt[256..268],
        [1, 8, 0, 1, 0x05, 0x04, 0, 0, 0, 0, 0, 0],
        "sleep status"
    );
    let dsdt = table(&bytes, number::<8>(fadt, 140));
    assert_eq!(dsdt[36..], *b"\x08_S5_\x12\x07\x04\x0a\x05\x00\x00\x00");
}

#[test]
fn without_ports_there_is_no_s5() {
    let bytes = build(
        &AcpiConfig {
            sleep: None,
            ..config()
        },
        BASE,
    );
    let fadt = find(&bytes, b"FACP");
    assert_eq!(fadt[244..268], [0; 24]);
    assert_eq!(table(&bytes, number::<8>(fadt, 140)).len(), 36);
}

#[test]
fn the_tables_of_the_most_processors_fit_their_area() {
    let bytes = build(
        &AcpiConfig {
            vcpus: MAX_PROCESSORS,
            ..config()
        },
        BASE,
    );
    assert_eq!(find(&bytes, b"APIC").len(), 44 + 255 * 8);
    assert!(bytes.len() as u64 <= super::super::layout::ACPI_SIZE);
}

#[test]
fn only_s5_with_the_start_bit_powers_off() {
    assert!(SleepPorts::is_power_off(0x20 | SLEEP_TYPE_S5 << 2));
    assert!(!SleepPorts::is_power_off(SLEEP_TYPE_S5 << 2));
    assert!(!SleepPorts::is_power_off(0x20 | 3 << 2));
}
