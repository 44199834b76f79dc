//! Places for handshakes that wait for words of their client, so many for each process.

use std::cell::RefCell;
use std::collections::BTreeMap;

use connector_shm::PeerCredentials;

/// A process as its credentials show it: by its id, or by its user if it lives where its id cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    /// A process of our own namespace of process ids.
    Process(u32),
    /// All processes of a user in other namespaces.
    User(u32),
}

impl Peer {
    pub(super) fn of(credentials: PeerCredentials) -> Self {
        credentials.pid.map_or(Self::User(credentials.uid), Self::Process)
    }
}

/// How many places each process has taken.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: RefCell<BTreeMap<Peer, usize>>,
}

/// One place. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place<'a> {
    places: &'a Places,
    peer: Peer,
}

/// The process has all it may have.
#[derive(Debug, thiserror::Error)]
#[error(
    "{max} handshakes of this process are not finished, and it may have no more at one time (limits.handshakes); \
     finish them first"
)]
pub(super) struct PlacesTaken {
    max: usize,
}

impl Places {
    /// Takes a place for this process, of `max` that it may have.
    pub(super) fn take(&self, peer: Peer, max: usize) -> Result<Place<'_>, PlacesTaken> {
        let mut taken = self.taken.borrow_mut();
        let count = taken.entry(peer).or_default();
        if *count >= max {
            return Err(PlacesTaken { max });
        }
        *count += 1;
        Ok(Place { places: self, peer })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.borrow_mut();
        match taken.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_so_many_places_and_leaves_the_others_theirs() {
        let places = Places::default();
        let first = places.take(Peer::Process(7), 2).unwrap();
        let _second = places.take(Peer::Process(7), 2).unwrap();
        assert!(places.take(Peer::Process(7), 2).is_err());
        assert!(places.take(Peer::User(7), 2).is_ok());
        drop(first);
        assert!(places.take(Peer::Process(7), 2).is_ok());
        assert_eq!(places.taken.borrow().len(), 1);
    }
}
