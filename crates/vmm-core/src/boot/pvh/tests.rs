use std::io::Write;

use cantle_abi::start_info::{XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RAM};
use zerocopy::FromBytes;

use super::super::samples::{SampleElf, SampleSegment};
use super::*;

const RAM: u64 = 8 << 20;

fn memory(ram: u64) -> GuestMemoryMmap<()> {
    let ranges: Vec<_> = layout::ram_ranges(ram)
        .into_iter()
        .map(|(start, size)| (GuestAddress(start), usize::try_from(size).unwrap()))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

fn kernel() -> KernelImage {
    KernelImage::parse(SampleElf::pvh(b"the code").build()).unwrap()
}

fn bytes(memory: &GuestMemoryMmap<()>, at: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

fn read<T: FromBytes>(memory: &GuestMemoryMmap<()>, at: u64) -> T {
    T::read_from_bytes(&bytes(memory, at, size_of::<T>())).unwrap()
}

fn start_info(memory: &GuestMemoryMmap<()>, entry: Entry) -> HvmStartInfo {
    read(memory, entry.start_info.into())
}

#[test]
fn a_guest_finds_everything_from_its_start_info() {
    let memory = memory(RAM);
    let kernel = kernel();
    let config = BootConfig {
        initrd: Some(Initrd::Bytes(b"the initrd")),
        cmdline: "console=hvc0",
        ..BootConfig::new(&kernel, RAM)
    };
    let entry = load(&memory, &config).unwrap();
    assert_eq!(entry.rip, 0x10_0000);
    assert_eq!(bytes(&memory, 0x10_0000, 9), b"the code\0");

    let info = start_info(&memory, entry);
    assert_eq!(
        (info.magic, info.version, info.nr_modules),
        (XEN_HVM_START_MAGIC_VALUE, 1, 1)
    );
    assert_eq!(bytes(&memory, info.cmdline_paddr, 13), b"console=hvc0\0");
    let module: HvmModlistEntry = read(&memory, info.modlist_paddr);
    assert_eq!(bytes(&memory, module.paddr, 10), b"the initrd");
    assert_eq!((module.size, module.paddr % PAGE), (10, 0));
    assert_eq!(bytes(&memory, info.rsdp_paddr, 8), b"RSD PTR ");

    let map: Vec<HvmMemmapTableEntry> = (0..u64::from(info.memmap_entries))
        .map(|i| read(&memory, info.memmap_paddr + i * 24))
        .collect();
    assert_eq!(map, layout::memory_map(RAM));
    let kind_of = |at: u64| {
        map.iter()
            .find(|e| (e.addr..e.addr + e.size).contains(&at))
            .map(|e| e.kind)
    };
    assert_eq!(kind_of(info.rsdp_paddr), Some(XEN_HVM_MEMMAP_TYPE_ACPI));
    for at in [
        u64::from(entry.start_info),
        info.cmdline_paddr,
        module.paddr,
        module.paddr + 9,
    ] {
        assert_eq!(kind_of(at), Some(XEN_HVM_MEMMAP_TYPE_RAM));
    }
}

#[test]
fn start_info_lies_behind_the_kernel_and_below_the_initrd() {
    let memory = memory(RAM);
    let kernel = kernel();
    let config = BootConfig {
        initrd: Some(Initrd::Bytes(&[1; 5000])),
        ..BootConfig::new(&kernel, RAM)
    };
    let entry = load(&memory, &config).unwrap();
    let info = start_info(&memory, entry);
    let module: HvmModlistEntry = read(&memory, info.modlist_paddr);
    assert!(kernel.elf().segments()[0].end() <= entry.start_info.into());
    assert!(info.cmdline_paddr < module.paddr);
    assert!(module.paddr + module.size <= layout::acpi_start(RAM));
}

#[test]
fn without_initrd_there_is_no_module() {
    let memory = memory(RAM);
    let entry = load(&memory, &BootConfig::new(&kernel(), RAM)).unwrap();
    let info = start_info(&memory, entry);
    assert_eq!((info.nr_modules, info.modlist_paddr), (0, 0));
    assert_eq!(bytes(&memory, info.cmdline_paddr, 1), [0]);
}

#[test]
fn the_initrd_comes_from_a_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 9000]).unwrap();
    let memory = memory(RAM);
    let kernel = kernel();
    let config = BootConfig {
        initrd: Some(Initrd::File(file.path())),
        ..BootConfig::new(&kernel, RAM)
    };
    let info = start_info(&memory, load(&memory, &config).unwrap());
    let module: HvmModlistEntry = read(&memory, info.modlist_paddr);
    assert_eq!(
        bytes(&memory, module.paddr, 9001),
        [vec![7; 9000], vec![0]].concat()
    );

    let missing = BootConfig {
        initrd: Some(Initrd::File("/nowhere/initrd".as_ref())),
        ..config
    };
    assert!(matches!(
        load(&memory, &missing),
        Err(BootError::Initrd { .. })
    ));
    let folder = BootConfig {
        initrd: Some(Initrd::File("/".as_ref())),
        ..config
    };
    assert!(matches!(
        load(&memory, &folder),
        Err(BootError::Initrd { .. })
    ));
}

/// XSA-25: an image that needs more memory than the guest has must not end the host.
#[test]
fn xsa_25_kernel_larger_than_memory() {
    let limit = layout::acpi_start(RAM);
    let mut sample = SampleElf::pvh(b"code");
    for (paddr, size) in [
        (0x20_0000, RAM),
        (0x4000_0000, 1),
        (1 << 40, 1),
        (0x20_0000, u64::MAX - 0x20_0000),
    ] {
        sample.segments.truncate(1);
        sample.segments.push(SampleSegment {
            paddr,
            bytes: vec![1],
            size,
            flags: 4,
        });
        let kernel = KernelImage::parse(sample.build()).unwrap();
        match load(&memory(RAM), &BootConfig::new(&kernel, RAM)) {
            Err(BootError::Memory {
                what: "kernel",
                end,
                limit: l,
            }) => assert_eq!((end, l), (paddr + size, limit)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_initrd_that_does_not_fit_is_told_with_its_numbers() {
    let kernel = kernel();
    let big = vec![0; usize::try_from(RAM).unwrap()];
    let config = BootConfig {
        initrd: Some(Initrd::Bytes(&big)),
        ..BootConfig::new(&kernel, RAM)
    };
    let error = load(&memory(RAM), &config).unwrap_err();
    assert!(
        matches!(error, BootError::Memory { what: "initrd", .. }),
        "{error}"
    );
}

#[test]
fn an_initrd_that_just_fits_is_loaded() {
    let kernel = kernel();
    let memory = memory(RAM);
    let plain = load(&memory, &BootConfig::new(&kernel, RAM)).unwrap();
    // One page of start info.
    let room = layout::acpi_start(RAM) - u64::from(plain.start_info) - PAGE;
    let initrd = vec![1; usize::try_from(room).unwrap() + 1];
    let config = |initrd| BootConfig {
        initrd: Some(Initrd::Bytes(initrd)),
        ..BootConfig::new(&kernel, RAM)
    };
    assert!(load(&memory, &config(&initrd[1..])).is_ok());
    assert!(load(&memory, &config(&initrd)).is_err());
}

#[test]
fn the_command_line_is_bounded_by_the_kernel() {
    let kernel = kernel();
    let longest = "x".repeat(kernel.cmdline_limit());
    let config = |cmdline| BootConfig {
        cmdline,
        ..BootConfig::new(&kernel, RAM)
    };
    let memory = memory(RAM);
    assert!(load(&memory, &config(&longest)).is_ok());
    let longer = format!("{longest}x");
    for cmdline in [longer.as_str(), "a\0b"] {
        assert!(matches!(
            load(&memory, &config(cmdline)),
            Err(BootError::CommandLine { .. })
        ));
    }
}

#[test]
fn the_number_of_vcpus_is_checked() {
    let kernel = kernel();
    for vcpus in [0, 256, u32::MAX] {
        let config = BootConfig {
            vcpus,
            ..BootConfig::new(&kernel, RAM)
        };
        assert!(matches!(load(&memory(RAM), &config), Err(BootError::Vcpus(v)) if v == vcpus));
    }
}
