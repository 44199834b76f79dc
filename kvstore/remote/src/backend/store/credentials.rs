//! Credentials from a file that somebody else keeps fresh.
//!
//! What is in it is for each kind of store to say. It is read again when it has changed, so credentials that expire are
//! replaced by replacing the file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use object_store::CredentialProvider;

use crate::read_small_file;

/// Begins the text of every error here, so that it is known again under what wraps it.
pub(super) const CREDENTIALS_ERROR: &str = "credentials file";

/// How often the file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most bytes of a credentials file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is said of credentials that cannot be part of a request.
pub(super) const UNSENDABLE: &str = "has something in it that is no visible ASCII";

/// Whether a header of a request can have it.
pub(super) fn is_sendable(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// A variable's value. Those that are filled from files often end as those do; an empty one is none.
pub(super) fn value_of(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let found = variable(name).map(|value| value.trim_end_matches(['\r', '\n']).to_owned());
    found.filter(|value| !value.is_empty())
}

/// Makes something of the file's text. An error is for people and shows nothing of it.
type Reader<T> = Box<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

/// A file of credentials, and what was made of it last.
pub(super) struct CredentialsFile<T> {
    path: PathBuf,
    reader: Reader<T>,
    state: Mutex<Option<Read<T>>>,
}

struct Read<T> {
    found: Arc<T>,
    looked: Instant,
    modified: Option<SystemTime>,
}

impl<T> CredentialsFile<T> {
    pub(super) fn new(
        path: &Path,
        reader: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            path: path.to_owned(),
            reader: Box::new(reader),
            state: Mutex::new(None),
        }
    }

    /// What is in the file now, or was a moment ago.
    pub(super) fn current(&self, now: Instant) -> Result<Arc<T>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = &*state
            && now.saturating_duration_since(read.looked) < LOOK_EVERY
        {
            return Ok(read.found.clone());
        }
        // A local file, small, and not looked at often: reading it here holds nobody up.
        let failed = |what: String| format!("{CREDENTIALS_ERROR} {}: {what}", self.path.display());
        let meta = std::fs::metadata(&self.path).map_err(|error| failed(error.to_string()))?;
        let modified = meta.modified().ok();
        if let Some(read) = &mut *state
            && read.modified == modified
        {
            read.looked = now;
            return Ok(read.found.clone());
        }
        let bytes = read_small_file(&self.path, FILE_BYTES_MAX).map_err(failed)?;
        let text = str::from_utf8(&bytes).map_err(|_| failed("not UTF-8".to_owned()))?;
        let found = Arc::new((self.reader)(text).map_err(failed)?);
        *state = Some(Read {
            found: found.clone(),
            looked: now,
            modified,
        });
        Ok(found)
    }

    /// The same for a client of a store.
    pub(super) fn provided(&self) -> object_store::Result<Arc<T>> {
        self.current(Instant::now())
            .map_err(|error| object_store::Error::Generic {
                store: "remote",
                source: error.into(),
            })
    }
}

impl<T> fmt::Debug for CredentialsFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<T: Send + Sync + 'static> CredentialProvider for CredentialsFile<T> {
    type Credential = T;

    async fn get_credential(&self) -> object_store::Result<Arc<T>> {
        self.provided()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file that says something if it begins with it.
    fn file(path: &Path) -> CredentialsFile<String> {
        CredentialsFile::new(path, |text| {
            let found = text.strip_prefix("hush ").map(str::to_owned);
            found.ok_or_else(|| "no secret in it".to_owned())
        })
    }

    #[test]
    fn a_file_that_changed_is_read_again_and_one_that_is_gone_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("credentials");
        let (provider, now) = (file(&path), Instant::now());
        assert!(provider.current(now).unwrap_err().starts_with(CREDENTIALS_ERROR));
        fs::write(&path, "hush one").unwrap();
        assert_eq!(*provider.current(now).unwrap(), "one");
        fs::write(&path, "hush two").unwrap();
        let changed = fs::File::options().write(true).open(&path).unwrap();
        changed.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(*provider.current(now).unwrap(), "one", "not looked at yet");
        assert_eq!(*provider.current(now + LOOK_EVERY).unwrap(), "two");
        fs::remove_file(&path).unwrap();
        assert!(provider.current(now + 2 * LOOK_EVERY).is_err());
    }

    #[test]
    fn what_is_no_small_regular_file_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("credentials");
        let told = |path: &Path| file(path).current(Instant::now()).unwrap_err();
        assert_eq!(
            told(Path::new("/dev/zero")),
            "credentials file /dev/zero: not a regular file"
        );
        fs::write(&path, "hush ".to_owned() + &"#".repeat(1 << 20)).unwrap();
        assert!(told(&path).ends_with("too long, want at most 1048576 bytes"));
        let link = place.path().join("link");
        fs::write(&path, "hush one").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(*file(&link).current(Instant::now()).unwrap(), "one");
    }

    #[test]
    fn neither_the_provider_nor_its_errors_show_what_is_in_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("credentials");
        fs::write(&path, "hush hush").unwrap();
        let provider = file(&path);
        provider.current(Instant::now()).unwrap();
        fs::write(&path, "hushhush").unwrap();
        let error = file(&path).current(Instant::now()).unwrap_err();
        for shown in [format!("{provider:?}"), error] {
            assert!(!shown.contains("hush"), "{shown}");
        }
    }
}
