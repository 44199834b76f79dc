//! Sleeping without losing a wake-up.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use connector_shm::Sleep;
use kvstore_types::SessionId;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::command::CommandReceiver;
use super::core::Core;

/// What epoll calls the command bell. No session has this number.
pub(super) const COMMAND_BELL: u64 = u64::MAX;

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        // Far enough away to be never.
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Watches a bell.
pub(super) fn watch(epoll: impl AsFd, bell: impl AsFd, name: u64) -> io::Result<()> {
    Ok(epoll::add(
        epoll,
        bell,
        epoll::EventData::new_u64(name),
        epoll::EventFlags::IN,
    )?)
}

impl Core {
    /// Tells all clients that they have to ring, looks once more, and sleeps until somebody rings or the engine wants
    /// to be woken. Returns how long.
    ///
    /// `bells` is memory that is used again.
    pub(super) fn sleep(
        &mut self,
        commands: &CommandReceiver,
        bells: &mut Vec<epoll::Event>,
    ) -> io::Result<Duration> {
        let began = Instant::now();
        bells.clear();
        if self.all_quiet() {
            // Commands ring the bell after they are queued, so none can slip through here.
            let left = self
                .wakes_at()
                .map(|moment| timespec(moment.saturating_duration_since(began)));
            match epoll::wait(&self.epoll, spare_capacity(bells), left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for session in self.sessions.values_mut() {
            session.end.end_sleep();
        }
        let ended = Instant::now();
        for bell in bells.iter() {
            self.answer_bell(bell.data.u64(), commands, ended);
        }
        Ok(ended.duration_since(began))
    }

    /// Raises all flags. `false`: somebody has something for us.
    fn all_quiet(&mut self) -> bool {
        // A cursor that is not sound keeps us awake, too: the next round finds it and ends the session.
        self.sessions
            .values_mut()
            .all(|session| matches!(session.begin_sleep(), Ok(Sleep::Go)))
    }

    fn answer_bell(&mut self, name: u64, commands: &CommandReceiver, now: Instant) {
        if name == COMMAND_BELL {
            commands.quiet_bell();
            return;
        }
        let id = SessionId(name);
        let gone = self
            .sessions
            .get(&id)
            .is_some_and(|session| session.end.doorbell().drain().is_err());
        if gone {
            self.hung_up(id, now);
        }
    }
}
