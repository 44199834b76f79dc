//! What happens when the driver refuses, is late, or is gone; on the stand-in.

use super::super::Copier;
use super::super::PageRun;
use super::super::conformance::cuda::{CudaRig, TestDriver, VERSIONS};
use super::super::conformance::{Bench, CacheLayout, FakeRegion};
use super::*;
use crate::copier::{CopyOutcome, Transfer, drop_elsewhere};

fn bench(driver: &Arc<TestDriver>, options: CudaOptions) -> Bench<CudaRig> {
    Bench::new(CudaRig::new(driver, options, true), CacheLayout::simple())
}

fn twin(version: i32) -> Arc<TestDriver> {
    Arc::new(TestDriver::twin(version))
}

/// Transfers of device blocks 0 to 3 to one slot.
fn chunk(bench: &Bench<CudaRig>, slot: u32) -> [Transfer; 4] {
    [0, 1, 2, 3].map(|i| bench.transfer(slot, i, i))
}

#[test]
fn a_driver_that_is_not_there_is_refused_in_plain_words() {
    let options = CudaOptions {
        driver: Some("/nowhere/libcuda.so.1".into()),
        ..CudaOptions::default()
    };
    let error = Copier::cuda(&options).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("no CUDA driver: /nowhere/libcuda.so.1"),
        "{error}"
    );
}

#[test]
fn a_library_that_is_no_driver_is_refused_by_the_function_it_lacks() {
    let options = CudaOptions {
        driver: Some("libc.so.6".into()),
        ..CudaOptions::default()
    };
    let error = Copier::cuda(&options).unwrap_err();
    assert!(error.to_string().contains("cuDriverGetVersion"), "{error}");
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let driver = twin(13_000);
    let options = CudaOptions {
        device: Some(7),
        ..driver.options()
    };
    let error = Copier::cuda(&options).unwrap_err().to_string();
    assert_eq!(
        error,
        "the device refused: cuDeviceGet: CUDA_ERROR_INVALID_DEVICE (101): invalid device ordinal"
    );
}

#[test]
fn the_context_that_is_current_is_used_where_no_device_is_named() {
    let driver = twin(13_000);
    let options = CudaOptions {
        device: None,
        ..driver.options()
    };
    let copier = Copier::cuda(&options).unwrap();
    assert_eq!(copier.report().device, "stand-in 0");
    // A thread without a context is told what it has to say.
    let error = std::thread::spawn(move || Copier::cuda(&options).unwrap_err().to_string())
        .join()
        .unwrap();
    assert!(error.contains("no CUDA context is current"), "{error}");
}

#[test]
fn each_version_of_the_driver_is_given_batches_as_it_takes_them() {
    let batched: Vec<_> = VERSIONS
        .map(|version| {
            let driver = twin(version);
            let mut bench = bench(&driver, driver.options());
            let transfers = [
                bench.transfer(0, 0, 0),
                bench.transfer(1, 5, 2),
                bench.transfer(2, 9, 3),
            ];
            bench.submit(1, Direction::Store, &transfers);
            assert_eq!(bench.finish().outcome, CopyOutcome::Done);
            (
                bench.copier.report().batched,
                driver.calls(c"cuMemcpyAsync"),
                driver.calls(c"cuMemcpyBatchAsync"),
                driver.calls(c"cuMemcpyBatchAsync_v2"),
            )
        })
        .to_vec();
    assert_eq!(batched, [(false, 3, 0, 0), (true, 0, 1, 0), (true, 0, 0, 1)]);
}

#[test]
fn what_the_batched_copy_does_not_take_the_plain_one_is_given() {
    for (code, batches) in [(801, 1), (1, 2)] {
        let driver = twin(13_000);
        let mut bench = bench(&driver, driver.options());
        driver.fail(c"cuMemcpyBatchAsync_v2", 0, code);
        for _ in 0..2 {
            let transfers = chunk(&bench, 1);
            bench.submit(1, Direction::Store, &transfers);
            assert_eq!(bench.finish().outcome, CopyOutcome::Done);
        }
        // "Not supported" is remembered; an invalid value may be one batch's own.
        assert_eq!(driver.calls(c"cuMemcpyBatchAsync_v2"), batches, "{code}");
    }
}

#[test]
fn a_copy_that_is_refused_fails_alone() {
    for (call, version) in [
        (c"cuMemcpyAsync", 12_040),
        (c"cuMemcpyBatchAsync_v2", 13_000),
        (c"cuStreamWaitEvent", 13_000),
    ] {
        let driver = twin(version);
        let mut bench = bench(&driver, driver.options());
        driver.fail(call, 0, 2);
        let transfers = chunk(&bench, 1);
        bench.submit(3, Direction::Store, &transfers);
        let failed = bench.finish();
        assert_eq!(
            (failed.tag, failed.outcome, failed.bytes),
            (3, CopyOutcome::Failed, 0),
            "{call:?}"
        );
        let trouble = bench.copier.report().trouble.unwrap();
        assert!(
            trouble.contains("CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"),
            "{trouble}"
        );
        bench.submit(4, Direction::Store, &transfers);
        assert_eq!(bench.finish().outcome, CopyOutcome::Done, "{call:?}");
        driver.assert_no_violation();
    }
}

#[test]
fn a_batch_without_an_event_is_waited_for() {
    for call in [c"cuEventCreate", c"cuEventRecord"] {
        let driver = twin(13_000);
        let mut bench = bench(&driver, driver.options());
        let transfers = chunk(&bench, 1);
        driver.fail(call, 0, 2);
        bench
            .submit_after(1, Direction::Store, &transfers, After::Nothing)
            .unwrap();
        // The bytes were given to the stream and the thread has seen them arrive.
        assert_eq!(bench.finish().outcome, CopyOutcome::Done, "{call:?}");
    }
}

#[test]
fn a_stream_that_records_a_graph_is_refused() {
    let driver = twin(13_000);
    let mut bench = bench(&driver, driver.options());
    let (stream, transfers) = (bench.rig.stream, chunk(&bench, 1));
    driver.capture_stream(stream, 1);
    let error = bench
        .submit_after(1, Direction::Store, &transfers, After::Stream(stream))
        .unwrap_err();
    assert!(error.to_string().contains("records a graph"), "{error}");
    driver.capture_stream(stream, 0);
    bench.submit(1, Direction::Store, &transfers);
    bench.finish();
    driver.assert_no_violation();
}

/// The engine records its graphs at its start, while the region is being pinned and the first copies may run.
#[test]
fn a_capture_in_another_thread_is_not_spoiled() {
    let driver = twin(13_000);
    driver.order("twin_capture", 1);
    for pin in [true, false] {
        let options = CudaOptions {
            pin,
            ..driver.options()
        };
        // The rig makes streams as an engine does, before it captures.
        driver.order("twin_capture", 0);
        let rig = CudaRig::new(&driver, options, true);
        let mut bench = Bench::new(rig, CacheLayout::simple());
        driver.order("twin_capture", 1);
        let transfers = chunk(&bench, 1);
        for direction in [Direction::Store, Direction::Load] {
            bench.submit(1, direction, &transfers);
            assert_eq!(bench.finish().outcome, CopyOutcome::Done);
        }
        drop(bench);
        driver.assert_no_violation();
    }
    let mut copier = Copier::cuda(&driver.options()).unwrap();
    let region = FakeRegion::new(1 << 20) as Arc<dyn SlotMemory>;
    copier.prepare(&region);
    wait_until(|| copier.report().pinning == PinStage::Pinned);
    driver.assert_no_violation();
}

#[test]
fn copies_want_to_be_told_what_they_come_after() {
    let driver = twin(13_000);
    let mut bench = bench(&driver, driver.options());
    let transfers = chunk(&bench, 1);
    let error = bench
        .submit_after(1, Direction::Store, &transfers, After::Unsaid)
        .unwrap_err();
    assert!(error.to_string().contains("a stream or an event"), "{error}");
}

#[test]
fn pages_that_are_not_the_devices_are_refused_and_named() {
    let driver = twin(13_000);
    let mut copier = Copier::cuda(&driver.options()).unwrap();
    let mut mine = vec![0_u8; 4096];
    let run = |base| PageRun {
        base,
        stride_bytes: 1024,
        page_bytes: 1024,
        page_count: 4,
    };
    // SAFETY: no copy of these pages is ever started.
    let refused = unsafe { copier.set_group(0, 1, vec![run(mine.as_mut_ptr().expose_provenance())]) };
    let error = refused.unwrap_err().to_string();
    assert!(
        error.starts_with("run 0: want memory of CUDA device 0, got memory that is not"),
        "{error}"
    );
    let options = CudaOptions {
        device: Some(1),
        ..driver.options()
    };
    let mut other = Copier::cuda(&options).unwrap();
    let mut rig = CudaRig::new(&driver, driver.options(), true);
    let base = super::super::conformance::Rig::allocate(&mut rig, 4096);
    // SAFETY: no copy of these pages is ever started.
    let error = unsafe { other.set_group(0, 1, vec![run(base)]) }
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("want memory of CUDA device 1, got memory of device 0"),
        "{error}"
    );
}

#[test]
fn a_region_is_pinned_in_pieces_and_unpinned_before_it_goes() {
    let driver = twin(13_000);
    let mut copier = Copier::cuda(&driver.options()).unwrap();
    let region = FakeRegion::new(300 << 10);
    let memory = Arc::clone(&region) as Arc<dyn SlotMemory>;
    copier.prepare(&memory);
    drop(memory);
    wait_until(|| copier.report().pinning == PinStage::Pinned);
    assert_eq!(
        (driver.ask("twin_pinned"), driver.calls(c"cuMemHostRegister_v2")),
        (300 << 10, 5)
    );
    // A second copier shares what is pinned.
    let mut second = Copier::cuda(&driver.options()).unwrap();
    second.prepare(&(Arc::clone(&region) as Arc<dyn SlotMemory>));
    assert_eq!(second.report().pinned_bytes, 300 << 10);
    wait_until(|| Arc::strong_count(&region) == 1);
    drop(region);
    assert_eq!(driver.ask("twin_pinned"), 0);
    assert_eq!(copier.report().pinning, PinStage::None);
}

/// The engine's thread may be the one that finds out that the daemon is gone. Unpinning takes a tenth of a second a GiB.
#[test]
fn a_session_lets_go_of_a_pinned_region_in_the_copiers_thread() {
    let driver = twin(13_000);
    let mut copier = Copier::cuda(&driver.options()).unwrap();
    let region = FakeRegion::new(300 << 10) as Arc<dyn SlotMemory>;
    copier.prepare(&region);
    wait_until(|| copier.report().pinning == PinStage::Pinned);
    driver.order("twin_hold", 1);
    drop_elsewhere(region);
    assert_eq!(
        driver.ask("twin_pinned"),
        300 << 10,
        "nobody has waited for the driver"
    );
    driver.order("twin_hold", 0);
    wait_until(|| driver.ask("twin_pinned") == 0);
    // Without that copier it is the caller who does it.
    let region = FakeRegion::new(300 << 10) as Arc<dyn SlotMemory>;
    copier.prepare(&region);
    wait_until(|| copier.report().pinning == PinStage::Pinned);
    drop(copier);
    drop_elsewhere(region);
    assert_eq!(driver.ask("twin_pinned"), 0);
    driver.assert_no_violation();
}

#[test]
fn a_pinning_that_is_refused_is_rolled_back_and_copies_go_on() {
    let driver = twin(13_000);
    driver.fail(c"cuMemHostRegister_v2", 2, 2);
    let mut bench = bench(&driver, driver.options());
    let report = bench.copier.report();
    assert_eq!(
        (report.pinning, report.pinned_bytes, driver.ask("twin_pinned")),
        (PinStage::Failed, 0, 0)
    );
    let trouble = report.trouble.unwrap();
    assert!(
        trouble.starts_with("the region is not pinned: cuMemHostRegister: CUDA_ERROR_OUT_OF_MEMORY"),
        "{trouble}"
    );
    let transfers = chunk(&bench, 1);
    bench.submit(1, Direction::Store, &transfers);
    assert_eq!(bench.finish().outcome, CopyOutcome::Done);
    assert_eq!(driver.calls(c"cuMemHostRegister_v2"), 3, "it is not tried again");
}

#[test]
fn without_any_pinned_memory_copies_fail_and_nothing_else() {
    let driver = twin(13_000);
    driver.fail(c"cuMemHostRegister_v2", 0, 2);
    driver.fail(c"cuMemHostAlloc", 0, 2);
    let mut bench = bench(&driver, driver.options());
    let transfers = chunk(&bench, 1);
    for expected in [CopyOutcome::Failed, CopyOutcome::Done] {
        bench.submit(1, Direction::Load, &transfers);
        assert_eq!(bench.finish().outcome, expected);
    }
}

#[test]
fn a_copy_through_the_buffer_that_is_refused_halfway_fails() {
    for direction in [Direction::Store, Direction::Load] {
        for (call, after) in [
            (c"cuMemcpyBatchAsync_v2", 2),
            (c"cuEventRecord", 2),
            (c"cuEventSynchronize", 1),
        ] {
            let driver = twin(13_000);
            let options = CudaOptions {
                pin: false,
                bounce_bytes: 8192,
                ..driver.options()
            };
            let mut bench = bench(&driver, options);
            let transfers = chunk(&bench, 1);
            // Two pieces of 4 KiB fill both halves; what comes then is refused.
            driver.fail(call, after, 2);
            bench
                .submit_after(1, direction, &transfers, After::Nothing)
                .unwrap();
            assert_eq!(
                bench.finish().outcome,
                CopyOutcome::Failed,
                "{direction:?} {call:?}"
            );
            bench
                .submit_after(2, direction, &transfers, After::Nothing)
                .unwrap();
            assert_eq!(
                bench.finish().outcome,
                CopyOutcome::Done,
                "{direction:?} {call:?}"
            );
            driver.assert_no_violation();
        }
    }
}

#[test]
fn a_lost_device_ends_every_batch_and_keeps_their_memory() {
    let driver = twin(13_000);
    driver.order("twin_delay", 1_000_000);
    let mut bench = bench(&driver, driver.options());
    let transfers = chunk(&bench, 1);
    for tag in 0..5 {
        bench.submit(tag, Direction::Store, &transfers);
    }
    wait_until(|| driver.calls(c"cuMemcpyBatchAsync_v2") == 5);
    driver.order("twin_lose", 700);
    for _ in 0..5 {
        let result = bench.finish();
        assert_eq!((result.outcome, result.bytes), (CopyOutcome::Lost, 0));
    }
    assert!(bench.copier.report().lost);
    let error = bench
        .submit_after(9, Direction::Store, &transfers, After::Nothing)
        .unwrap_err();
    assert!(
        error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"),
        "{error}"
    );
    // Whether the device still writes cannot be known: the region stays for as long as the process.
    let Bench {
        region,
        window,
        copier,
        ..
    } = bench;
    drop((copier, window));
    assert!(Arc::strong_count(&region) >= 5);
}

#[test]
fn a_copy_that_is_under_way_keeps_the_region_whoever_lets_go_of_it() {
    let driver = twin(13_000);
    driver.order("twin_delay", 50_000);
    let mut bench = bench(&driver, driver.options());
    let transfers = chunk(&bench, 1);
    bench.submit(1, Direction::Store, &transfers);
    let Bench {
        region,
        window,
        mut copier,
        ..
    } = bench;
    drop((region, window));
    assert!(driver.ask("twin_pinned") > 0, "the copy still needs it");
    assert!(copier.wait(Duration::from_mins(1)));
    assert_eq!(copier.poll().unwrap().outcome, CopyOutcome::Done);
    // The last to let go was the copy: the lane's thread unpins, not the one that polled.
    wait_until(|| driver.ask("twin_pinned") == 0);
    driver.assert_no_violation();
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, name) in [
        (
            CudaOptions {
                pin_piece_bytes: 100,
                ..CudaOptions::default()
            },
            "pin_piece_bytes",
        ),
        (
            CudaOptions {
                bounce_bytes: 1,
                ..CudaOptions::default()
            },
            "bounce_bytes",
        ),
    ] {
        let error = Copier::cuda(&options).unwrap_err().to_string();
        assert!(error.starts_with(name), "{error}");
    }
}

#[track_caller]
fn wait_until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_mins(1), "it never came to that");
        std::thread::yield_now();
    }
}
