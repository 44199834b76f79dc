//! How urgently a thread runs beside others on the same core.
//!
//! On a node the daemon's threads share cores with the engines' and with each other. Linux's fair scheduler (EEVDF) lets a thread
//! that wakes run before the one that runs if the one that wakes asks for less time at once, and protects the one that runs until
//! what it has asked for is over: 1 to 3 ms, if it has not said. A look-up takes less than that. So
//!
//! - whoever somebody waits for asks for little at a time ([`answer_soon`]): it is let in at once;
//! - whoever nobody waits for asks for little at a time, wakes without interrupting, and gets less ([`stand_back`]): it is
//!   soon made to give way.
//!
//! Nobody gets more of a core by it, and no privilege is needed. What it is worth for look-ups is in bench/README.md. Kernels
//! before 6.12 know niceness and policy only.
//!
//! Source: `sched_setattr(2)`; Linux, kernel/sched/fair.c, "custom slice" and `PREEMPT_SHORT`.
// No library has the call for threads that are not real-time.
#![deny(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")
)]

use std::io;

/// What a thread asks for at a time, in nanoseconds: the least that the kernel grants.
const SLICE_NS: u64 = 100_000;
const ATTRIBUTES_BYTES: u32 = {
    assert!(
        size_of::<libc::sched_attr>() == 48,
        "the first version of the structure"
    );
    48
};
/// How much less than others a thread gets that stands back, where all want a core: a tenth. In the idle class it would get
/// nothing at all on a machine whose cores are busy, and could never catch up.
const NICENESS: i32 = 10;

/// Lets the calling thread be let in soon when it wakes: somebody waits for it.
///
/// # Errors
/// Those of `sched_setattr`: a seccomp profile may refuse it. Nothing has changed then.
pub fn answer_soon() -> io::Result<()> {
    // To be less nice than before would need a privilege.
    let niceness = rustix::process::getpriority_process(None)?;
    schedule(libc::SCHED_OTHER, niceness)
}

/// Lets the calling thread wait, when it wakes, until whoever runs has had its turn, and give way to others: nobody waits
/// for it.
///
/// # Errors
/// Those of `setpriority` and `sched_setattr`: a seccomp profile may refuse one of them. What the other one does holds all the same.
pub fn stand_back() -> io::Result<()> {
    // On Linux both are about the calling thread alone.
    let niceness = rustix::process::getpriority_process(None)?.max(NICENESS);
    let nice = rustix::process::setpriority_process(None, niceness);
    schedule(libc::SCHED_BATCH, niceness)?;
    Ok(nice?)
}

#[expect(unsafe_code, reason = "no library has the call")]
fn schedule(policy: i32, niceness: i32) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: ATTRIBUTES_BYTES,
        sched_policy: policy.cast_unsigned(),
        sched_flags: 0,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: 0 is the calling thread, and the attributes live until the call is over.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::thread;

    /// What the kernel says of the calling thread: policy, niceness, and the time it asks for at once.
    #[expect(unsafe_code, reason = "no library has the call")]
    fn attributes() -> (i32, i32, u64) {
        let mut found = std::mem::MaybeUninit::<libc::sched_attr>::zeroed();
        let size = size_of::<libc::sched_attr>();
        // SAFETY: the kernel writes at most as many bytes as it is told there are.
        let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, found.as_mut_ptr(), size, 0) };
        assert_eq!(answer, 0, "{}", io::Error::last_os_error());
        // SAFETY: all fields are numbers, of which every bit pattern is one.
        let found = unsafe { found.assume_init() };
        (
            found.sched_policy.cast_signed(),
            found.sched_nice,
            found.sched_runtime,
        )
    }

    /// Kernels before 6.12 say 0.
    fn is_short(nanoseconds: u64) -> bool {
        [0, 100_000].contains(&nanoseconds)
    }

    #[test]
    fn who_answers_asks_for_little_and_keeps_its_class() {
        let (before, after) = thread::spawn(|| {
            let before = attributes();
            super::answer_soon().unwrap();
            (before, attributes())
        })
        .join()
        .unwrap();
        assert_eq!((after.0, after.1), (libc::SCHED_OTHER, before.1));
        assert!(is_short(after.2), "{after:?}");
    }

    #[test]
    fn who_stands_back_is_a_batch_thread_and_nice() {
        let after = thread::spawn(|| {
            super::stand_back().unwrap();
            attributes()
        })
        .join()
        .unwrap();
        assert_eq!((after.0, after.1), (libc::SCHED_BATCH, super::NICENESS));
        assert!(is_short(after.2), "{after:?}");
    }

    #[test]
    fn other_threads_stay_as_they_are() {
        let before = attributes();
        thread::spawn(|| super::stand_back().unwrap()).join().unwrap();
        assert_eq!(attributes(), before);
    }
}
