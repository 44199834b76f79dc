//! Which store a directory is: what it says of itself, and that it goes on saying so.

use std::io::Read;

use super::{At, Root, fault};
use crate::MountCheck;
use crate::backend::Fault;
use crate::backend::mount::files::{Files, open_to_read};
use crate::backend::mount::is_absent;
use crate::format::StoreId;

/// Where the object lies that says which store it is.
pub(in crate::backend::mount) const IDENTITY_NAME: &str = "v1/store";

/// Most bytes of it that are read.
const IDENTITY_BYTES_MAX: u64 = 4096;

impl Root {
    /// Looks whether what the store says of itself is still there, for whoever writes. The directory is the one that is held: what it says
    /// now is what it is, and if it says nothing any more it is to be told again.
    pub(in crate::backend::mount) fn look_at_identity(&self, at: &At) {
        if self.check == MountCheck::Off || self.lock().identity.is_none() {
            return;
        }
        // What cannot be read says nothing; others find out why.
        let Ok(there) = read_identity(at) else { return };
        let is_file = matches!(at.kind(IDENTITY_NAME), Ok(Some(_)));
        let mut state = self.lock();
        if state.last == Some(at.place) {
            // One that is damaged is left alone, for people to see.
            state.is_identity_lost = there.is_none() && !is_file;
            state.identity = there.or(state.identity);
        }
    }

    /// Whether the store's identity is known and is not there any more.
    pub(in crate::backend::mount) fn has_lost_identity(&self) -> bool {
        self.lock().is_identity_lost
    }

    /// The identity that is not there any more.
    pub(in crate::backend::mount) fn lost_identity(&self) -> Option<StoreId> {
        let state = self.lock();
        state.identity.filter(|_| state.is_identity_lost)
    }

    /// Whether the store has no identity yet that is known, and is to have one.
    pub(in crate::backend::mount) fn wants_identity(&self) -> bool {
        self.check != MountCheck::Off && self.lock().identity.is_none()
    }

    /// Learns which store it is.
    pub(in crate::backend::mount) fn learn_identity(&self, at: &At) -> Result<(), Fault> {
        let identity = read_identity(at)?;
        let mut state = self.lock();
        if state.last == Some(at.place) {
            state.identity = identity;
            state.is_identity_lost = false;
        }
        Ok(())
    }
}

/// Which store is there; `None`: it does not say.
pub(super) fn read_identity(at: &At) -> Result<Option<StoreId>, Fault> {
    let what = format!(
        "read which store it is, {IDENTITY_NAME} below {}",
        at.place_name()
    );
    let failed = |error: &std::io::Error| fault(&what, error);
    let file = match open_to_read(&at.path(IDENTITY_NAME), 0) {
        Ok(file) => file,
        Err(error) if is_absent(&error) || Files::is_no_file(at, IDENTITY_NAME) => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let meta = file.metadata().map_err(|error| failed(&error))?;
    if !meta.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(IDENTITY_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error))?;
    Ok(StoreId::decode(&bytes))
}
