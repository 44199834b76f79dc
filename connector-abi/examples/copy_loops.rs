//! Prints what each copy loop reaches on this machine, by size of the pieces: the figures that the thresholds in
//! `copier/copy_loop.rs` rest on. Run with `--release`. Loops take turns, so that noise meets all of them.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a report for people"
)]

use std::time::Instant;

use kvtier::copier::{CopyLoop, Stores};

/// Memory on each side: far beyond any cache.
const POOL_BYTES: usize = 256 << 20;
/// What one measurement copies.
const BATCH_BYTES: usize = 64 << 20;
const ROUNDS: usize = 9;

fn main() {
    let source = vec![1_u8; POOL_BYTES];
    let mut target = vec![2_u8; POOL_BYTES];
    println!(
        "GB/s, median of {ROUNDS}; pieces at scattered places of {} MiB",
        POOL_BYTES >> 20
    );
    print!("{:>12}", "piece");
    for stores in Stores::available() {
        print!("{:>14}", format!("{stores:?}"));
    }
    println!();
    for shift in 8..=23 {
        let bytes = 1_usize << shift;
        let mut figures = vec![Vec::new(); Stores::available().len()];
        for round in 0..ROUNDS {
            for (&stores, figures) in Stores::available().iter().zip(&mut figures) {
                figures.push(measure(stores, &source, &mut target, bytes, round));
            }
        }
        print!("{bytes:>12}");
        for figures in &mut figures {
            figures.sort_by(f64::total_cmp);
            print!("{:>14.2}", figures[ROUNDS / 2]);
        }
        println!();
    }
}

/// Copies pieces in an order that no prefetcher guesses across pieces.
fn measure(stores: Stores, source: &[u8], target: &mut [u8], bytes: usize, round: usize) -> f64 {
    let Some(copy_loop) = CopyLoop::of(stores) else {
        return 0.0;
    };
    let places = POOL_BYTES / bytes;
    let count = BATCH_BYTES / bytes;
    let begin = Instant::now();
    for index in 0..count {
        let place = (index * 7919 + round * count) % places * bytes;
        let (from, to) = (source[place..].as_ptr(), target[place..].as_mut_ptr());
        // SAFETY: both pieces lie within their vectors, which are apart and used by this thread alone.
        unsafe { copy_loop.copy(stores, from, to, bytes) };
    }
    copy_loop.fence();
    (count * bytes) as f64 / begin.elapsed().as_secs_f64() / 1e9
}
