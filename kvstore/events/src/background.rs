//! How a thread stands back behind those that somebody waits for.

use std::io;

/// How much less than others the thread gets where all want a core: a tenth.
const NICENESS: i32 = 10;

/// Lets the calling thread wait, when it wakes, until whoever runs has had its turn (`SCHED_BATCH`), and run less than others
/// where cores are scarce.
///
/// Woken threads interrupt others otherwise, however nice they are; at 50,000 blocks a second that made the slowest hundredth of
/// look-ups a fifth and more slower (bench/README.md). In the idle class it would be nothing, but such a thread does
/// not run at all on a machine whose cores are busy.
///
/// # Errors
/// Those of `setpriority` and `sched_setscheduler`: not where nothing but the kernel decides, but a seccomp profile may refuse one
/// of them. What the other one does holds all the same.
pub(crate) fn stand_back() -> io::Result<()> {
    // On Linux this is the calling thread's own niceness.
    let nice = rustix::process::setpriority_process(None, NICENESS);
    interrupt_nobody()?;
    Ok(nice?)
}

#[expect(unsafe_code, reason = "no library has the call")]
fn interrupt_nobody() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the parameters live until the call is over.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_thread_is_a_batch_thread_and_nice() {
        let stands = std::thread::spawn(|| {
            super::stand_back().unwrap();
            std::fs::read_to_string("/proc/thread-self/stat").unwrap()
        });
        let stat = stands.join().unwrap();
        // proc_pid_stat(5): behind the name in brackets, field 19 is the niceness and field 41 the policy.
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split_whitespace().collect();
        assert_eq!((fields[17], fields[39]), ("10", "3"));
    }
}
