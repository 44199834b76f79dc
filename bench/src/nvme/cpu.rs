//! CPU time of a device's threads, and of the checksum alone.

use std::fs;

use anyhow::Context;
use xxhash_rust::xxh3::Xxh3;

/// As the device takes the bytes out of memory: see `payload_checksum` of kvstore-nvme.
const PIECE_BYTES: usize = 16 << 10;

/// Nanoseconds that the device's threads, and the kernel's for its ring, have been on a CPU. To be read when they sleep:
/// the kernel brings a running thread's count up to date only now and then.
pub(super) fn device_ns() -> anyhow::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir("/proc/self/task").context("could not read /proc/self/task")? {
        let task = task?.path();
        let Ok(name) = fs::read_to_string(task.join("comm")) else {
            continue;
        };
        if ["kvt-nvme", "kvt-maint", "iou-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            total += schedstat(&task.join("schedstat")).unwrap_or(0);
        }
    }
    Ok(total)
}

/// Seconds of CPU that the checksum takes of `count` payloads in buffers of the same size as the slots.
pub(super) fn checksum_seconds(buffers: &[Vec<u8>], count: u32) -> anyhow::Result<f64> {
    let own = std::path::Path::new("/proc/thread-self/schedstat");
    // Sleeping brings the count up to date.
    let settle = || std::thread::sleep(std::time::Duration::from_micros(50));
    settle();
    let before = schedstat(own).context("could not read /proc/thread-self/schedstat")?;
    let mut piece = [0_u8; PIECE_BYTES];
    for buffer in buffers.iter().cycle().take(count as usize) {
        let mut hasher = Xxh3::new();
        for part in buffer.chunks(PIECE_BYTES) {
            let piece = &mut piece[..part.len()];
            std::hint::black_box(&mut *piece).copy_from_slice(part);
            hasher.update(std::hint::black_box(piece));
        }
        std::hint::black_box(hasher.digest128());
    }
    settle();
    let after = schedstat(own).context("could not read /proc/thread-self/schedstat")?;
    Ok(after.saturating_sub(before) as f64 / 1e9)
}

fn schedstat(path: &std::path::Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.split_whitespace().next()?.parse().ok()
}
