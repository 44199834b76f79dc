//! A device as the daemon sees it.

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use kvstore_types::{DescriptorBytes, IoOutcome, OperationId, ReadClass, SegmentGeneration, SegmentRef};

use super::rig::{PAGE, extent, fill, key, memory, payload, spec, take};
use crate::format::tests::namespace;
use crate::{Device, DeviceEvent, Direct, FoundBlock, IoEngine, OpenError, Order};

const WATCHDOG: Duration = Duration::from_mins(1);

/// A device and what it told.
struct Opened {
    device: Device,
    events: mpsc::Receiver<Vec<DeviceEvent>>,
    found: Vec<FoundBlock>,
}

impl Opened {
    fn new(path: &std::path::Path, memory: &Arc<crate::Memory>, io: IoEngine) -> Self {
        let (sender, events) = mpsc::channel();
        let sink = Arc::new(move |events| drop(sender.send(events)));
        let device = Device::open(&spec(path, memory.clone(), io, Direct::Auto), sink).unwrap();
        let mut opened = Self {
            device,
            events,
            found: Vec::new(),
        };
        while !opened
            .hear()
            .iter()
            .any(|event| matches!(event, DeviceEvent::Loaded(_)))
        {}
        opened
    }

    fn hear(&mut self) -> Vec<DeviceEvent> {
        let events = self.events.recv_timeout(WATCHDOG).unwrap();
        for event in &events {
            if let DeviceEvent::Blocks { blocks, .. } = event {
                self.found.extend(blocks.iter().cloned());
            }
        }
        events
    }

    /// Orders one thing and waits for it.
    fn carry_out(&mut self, order: Order) -> IoOutcome {
        self.device.submit(vec![order]);
        loop {
            for event in self.hear() {
                if let DeviceEvent::Done { outcome, .. } = event {
                    return outcome;
                }
            }
        }
    }
}

#[test]
fn a_block_is_there_after_the_device_was_closed_and_opened_by_the_other_engine() {
    let place = tempfile::tempdir().unwrap();
    let (path, memory) = (place.path().join("tier"), memory(16 * PAGE));
    let (descriptor, geometry) = namespace();
    let mut key = key(1);
    key.namespace = descriptor.id();
    let segment = SegmentRef {
        index: 0,
        generation: SegmentGeneration(7),
    };
    let (mut device, extent, operation) = (
        Opened::new(&path, &memory, IoEngine::IoUring),
        extent(0, 1, 6),
        OperationId(1),
    );
    device
        .device
        .submit(vec![Order::KeepNamespace { descriptor, geometry }]);
    assert_eq!(
        device.carry_out(Order::CreateSegment { operation, index: 0 }),
        IoOutcome::Done
    );
    assert_eq!(
        device.carry_out(Order::OpenSegment { operation, segment }),
        IoOutcome::Done
    );
    fill(&memory, PAGE, &payload(key, 5 * PAGE));
    let write = Order::Write {
        operation,
        extent,
        offset: 0,
        key,
        descriptor: vec![1, 2, 3],
    };
    assert_eq!(device.carry_out(write), IoOutcome::Done);
    device.device.shutdown();

    let mut device = Opened::new(&path, &memory, IoEngine::Threads);
    let descriptor = DescriptorBytes::kept(&[1, 2, 3]);
    let found = FoundBlock {
        key,
        extent,
        descriptor,
    };
    assert_eq!(device.found, [found]);
    let read = Order::Read {
        operation,
        extent,
        offset: 8 * PAGE as u64,
        key,
        class: ReadClass::Demand,
    };
    assert_eq!(device.carry_out(read), IoOutcome::Done);
    assert_eq!(take(&memory, 9 * PAGE, 5 * PAGE), payload(key, 5 * PAGE));
    let stats = device.device.stats();
    assert_eq!((stats.engine, stats.engine_reason), ("threads", None));
    assert_eq!(
        device.carry_out(Order::DeleteSegment { operation, index: 0 }),
        IoOutcome::Done
    );
    assert!(!path.join("segment-00000000.kvt").exists());
    let read = Order::Read {
        operation,
        extent,
        offset: 0,
        key,
        class: ReadClass::Demand,
    };
    assert_eq!(device.carry_out(read), IoOutcome::Failed);
    device.device.shutdown();
}

#[test]
fn where_io_uring_is_forbidden_threads_are_used_and_the_reason_is_said() {
    // A filter is for ever, and for the threads that are started later: so it is put upon a thread of its own.
    let forbidden = thread::spawn(|| {
        forbid_io_uring();
        let place = tempfile::tempdir().unwrap();
        let (path, memory) = (place.path().join("tier"), memory(16 * PAGE));
        let opened = Opened::new(&path, &memory, IoEngine::Auto);
        let stats = opened.device.stats();
        opened.device.shutdown();
        let sink = Arc::new(|_: Vec<DeviceEvent>| {});
        let wanted = spec(&path, memory, IoEngine::IoUring, Direct::Auto);
        (stats, Device::open(&wanted, sink).err())
    });
    let (stats, error) = forbidden.join().unwrap();
    assert_eq!(stats.engine, "threads");
    assert!(
        stats
            .engine_reason
            .is_some_and(|reason| reason.contains("forbidden"))
    );
    let Some(OpenError::Spec { problem, .. }) = error else {
        panic!("io_uring was demanded: {error:?}");
    };
    assert!(problem.contains("io_uring is forbidden here"), "{problem}");
}

/// Lets this thread's calls of `io_uring_setup` fail as container runtimes do.
fn forbid_io_uring() {
    static FILTER: OnceLock<Vec<libc::sock_filter>> = OnceLock::new();
    let code = |code: u32| u16::try_from(code).unwrap();
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let errno = u32::try_from(libc::EPERM).unwrap();
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let filter = FILTER.get_or_init(|| {
        vec![
            instruction(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, 0),
            instruction(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, number),
            instruction(
                code(libc::BPF_RET | libc::BPF_K),
                0,
                0,
                libc::SECCOMP_RET_ERRNO | errno,
            ),
            instruction(code(libc::BPF_RET | libc::BPF_K), 0, 0, libc::SECCOMP_RET_ALLOW),
        ]
    });
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: these arguments are numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program and the filter live beyond the call, which copies them.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(set, 0);
}
