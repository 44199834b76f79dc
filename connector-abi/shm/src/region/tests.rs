use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::io::Errno;

use super::*;

const BYTES: u64 = 8 << 20;

fn spec() -> RegionSpec<'static> {
    RegionSpec {
        bytes: BYTES,
        huge_pages: HugePages::Off,
        boot_epoch: BootEpoch([7; 16]),
        tenant: "red",
    }
}

fn region() -> Region {
    Region::create(&spec()).unwrap().region
}

fn map_client(region: &Region) -> Result<ClientRegion, RegionError> {
    ClientRegion::map(
        &region.file().try_clone_to_owned().unwrap(),
        BYTES,
        BootEpoch([7; 16]),
    )
}

#[test]
fn the_header_is_golden_bytes() {
    let region = region();
    let mut bytes = [0xff_u8; 304];
    // SAFETY: the header's page is mapped and nobody writes there.
    unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(region.base(), 304) };
    let mut expected = b"KVTREG\0\x01".to_vec();
    expected.extend([1, 0, 0, 0, 0, 0x10, 0, 0]);
    expected.extend([7; 16]);
    expected.extend(BYTES.to_le_bytes());
    expected.extend([0, 0x10, 0, 0, 3, 0]);
    expected.extend(b"red");
    expected.resize(304, 0);
    assert_eq!(bytes[..], expected);
}

#[test]
fn what_one_side_writes_the_other_reads() {
    let region = region();
    let client = map_client(&region).unwrap();
    let slot = SlotRef {
        page: 3,
        generation: 1,
    };
    let (ours, theirs) = (
        region.slot_address(slot, 8192).unwrap(),
        client.slot_address(slot, 0, 8192).unwrap(),
    );
    assert_ne!(ours, theirs);
    // SAFETY: the slot lies in the mapping, as `slot_address` checked.
    unsafe { theirs.write(5) };
    // SAFETY: likewise.
    assert_eq!(unsafe { ours.read() }, 5);
}

#[test]
fn slots_outside_the_region_have_no_address() {
    let region = region();
    let client = map_client(&region).unwrap();
    let last = u32::try_from(BYTES / 4096).unwrap() - 1;
    let slot = |page| SlotRef { page, generation: 0 };
    assert!(client.slot_address(slot(last), 0, 4096).is_some());
    assert!(client.slot_address(slot(last), 1, 4096).is_none());
    assert!(client.slot_address(slot(last), 0, u64::MAX).is_none());
    assert!(client.slot_address(slot(1), u64::MAX, 1).is_none());
    assert!(client.slot_address(slot(u32::MAX), 0, 1).is_none());
    assert!(client.slot_address(slot(0), 0, 1).is_none());
    assert!(region.slot_address(slot(0), 1).is_none());
    assert!(region.slot_address(slot(last), 4097).is_none());
}

#[test]
fn prefaulting_touches_everything_and_tells_how_far_it_is() {
    let region = region();
    let seen = AtomicU64::new(0);
    let progress = |bytes| {
        seen.fetch_max(bytes, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    region
        .prefault(&Prefault {
            threads: NonZeroUsize::new(2).unwrap(),
            progress: &progress,
        })
        .unwrap();
    assert_eq!(seen.into_inner(), BYTES);
    let blocks = rustix::fs::fstat(region.file()).unwrap().st_blocks;
    assert_eq!(u64::try_from(blocks).unwrap() * 512, BYTES);
}

#[test]
fn prefaulting_stops_when_told_to() {
    let how = Prefault {
        threads: NonZeroUsize::MIN,
        progress: &|_| ControlFlow::Break(()),
    };
    let error = region().prefault(&how).unwrap_err();
    assert!(matches!(error, PrefaultError::Stopped { bytes: BYTES, .. }));
}

#[test]
fn the_client_cannot_resize_the_region() {
    let region = region();
    for bytes in [0, BYTES - 1, BYTES + 1] {
        assert_eq!(ftruncate(region.file(), bytes), Err(Errno::PERM));
    }
}

#[test]
fn a_region_that_is_not_ours_is_refused_and_named() {
    let cases: [(usize, u8, &str); 4] = [
        (0, 0, "magic"),
        (8, 2, "layout version 0x2"),
        (32, 1, "size in its header"),
        (16, 0, "boot 00"),
    ];
    for (at, value, expected) in cases {
        let region = region();
        // SAFETY: in the header's page, which is mapped.
        unsafe { region.base().wrapping_add(at).write(value) };
        let error = map_client(&region).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
    let file = region().file().try_clone_to_owned().unwrap();
    let other_size = ClientRegion::map(&file, BYTES * 2, BootEpoch([7; 16]));
    assert!(matches!(
        other_size,
        Err(RegionError::Header {
            what: "size",
            actual: BYTES,
            ..
        })
    ));
    let plain = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&plain, BYTES).unwrap();
    let unsealed = ClientRegion::map(&plain, BYTES, BootEpoch([7; 16]));
    assert!(matches!(unsealed, Err(RegionError::NotSealed)));
}

#[test]
fn sizes_and_names_that_no_region_has_are_refused() {
    for bytes in [0, 4096, 8193, u64::MAX / 4096 * 4096] {
        let error = Region::create(&RegionSpec { bytes, ..spec() }).unwrap_err();
        assert!(matches!(error, RegionError::Size { actual, .. } if actual == bytes));
    }
    for tenant in ["", &"x".repeat(257)] {
        let error = Region::create(&RegionSpec { tenant, ..spec() }).unwrap_err();
        assert!(matches!(error, RegionError::Tenant { actual } if actual == tenant.len()));
    }
}

#[test]
fn without_enough_huge_pages_small_ones_are_taken_and_the_reason_is_told() {
    // More than a node has: 8 TiB of huge pages.
    let created = Region::create(&RegionSpec {
        bytes: 8 << 40,
        huge_pages: HugePages::Try,
        ..spec()
    })
    .unwrap();
    assert_eq!(created.region.page_bytes(), 4096);
    assert!(created.huge_pages_missing.is_some());
}

#[test]
fn a_region_of_huge_pages_works_where_the_node_has_some() {
    let created = Region::create(&RegionSpec {
        huge_pages: HugePages::Try,
        ..spec()
    })
    .unwrap();
    let region = created.region;
    assert_eq!(region.page_bytes() == 4096, created.huge_pages_missing.is_some());
    assert_eq!(region.header_bytes(), region.page_bytes());
    let client = map_client(&region).unwrap();
    let slot = SlotRef {
        page: 512,
        generation: 1,
    };
    // SAFETY: the slot lies in the mapping, as `slot_address` checked.
    unsafe { client.slot_address(slot, 0, 4096).unwrap().write(9) };
    // SAFETY: likewise.
    assert_eq!(unsafe { region.slot_address(slot, 4096).unwrap().read() }, 9);
}

#[test]
fn copies_keep_to_the_region_and_reach_the_same_bytes() {
    let region = region();
    let bytes = region.map_bytes().unwrap();
    assert!(bytes.copy_in(8192, &[7; 4096]));
    let mut read = [0; 4096];
    assert!(bytes.copy_out(8192, &mut read));
    assert_eq!(read, [7; 4096]);
    let ours = region
        .slot_address(
            SlotRef {
                page: 2,
                generation: 0,
            },
            4096,
        )
        .unwrap();
    // SAFETY: the slot lies in the mapping, as `slot_address` checked, and nobody writes there now.
    assert_eq!(unsafe { ours.read() }, 7);
    for offset in [BYTES, BYTES - 4095, u64::MAX, u64::MAX - 4095] {
        assert!(!bytes.copy_in(offset, &[1; 4096]), "{offset}");
        assert!(!bytes.copy_out(offset, &mut read), "{offset}");
    }
    assert_eq!(read, [7; 4096]);
}
