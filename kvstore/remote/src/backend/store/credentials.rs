//! Credentials from the environment, and from a file that somebody else keeps fresh.
//!
//! The file is in the form of AWS's shared credentials: sections with `aws_access_key_id`, `aws_secret_access_key` and
//! perhaps `aws_session_token`. It is read again when it has changed, so credentials that expire are replaced by replacing
//! the file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use crate::read_small_file;

/// Begins the text of every error here, so that it is known again under what wraps it.
pub(super) const CREDENTIALS_ERROR: &str = "credentials file";

/// How often the file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most bytes of a credentials file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is said of credentials that cannot be part of a request.
const UNSENDABLE: &str = "has something in it that is no visible ASCII";

/// Whether a header of a request can have it.
fn is_sendable(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The credentials of the environment, or all that is wrong with them. What is there is not shown.
pub(super) fn of_environment(
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<AwsCredential, Vec<String>> {
    let mut wrong = Vec::new();
    let mut value = |name: &str, is_wanted: bool| {
        // Variables that are filled from files often end as those do.
        let found = variable(name).map(|value| value.trim_end_matches(['\r', '\n']).to_owned());
        let found = found.filter(|value| !value.is_empty());
        match &found {
            None if is_wanted => wrong.push(format!("{name} is not set")),
            Some(value) if !is_sendable(value) => wrong.push(format!("{name} {UNSENDABLE}")),
            _ => {}
        }
        found
    };
    let credential = AwsCredential {
        key_id: value("AWS_ACCESS_KEY_ID", true).unwrap_or_default(),
        secret_key: value("AWS_SECRET_ACCESS_KEY", true).unwrap_or_default(),
        token: value("AWS_SESSION_TOKEN", false),
    };
    if wrong.is_empty() {
        Ok(credential)
    } else {
        Err(wrong)
    }
}

/// The provider.
pub(super) struct FileCredentials {
    path: PathBuf,
    profile: String,
    state: Mutex<Option<Read>>,
}

struct Read {
    credential: Arc<AwsCredential>,
    looked: Instant,
    modified: Option<SystemTime>,
}

impl FileCredentials {
    pub(super) fn new(path: &Path, profile: Option<&str>) -> Self {
        Self {
            path: path.to_owned(),
            profile: profile.unwrap_or("default").to_owned(),
            state: Mutex::new(None),
        }
    }

    /// The credentials as they are in the file now, or were a moment ago.
    pub(super) fn current(&self, now: Instant) -> Result<Arc<AwsCredential>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = &*state
            && now.saturating_duration_since(read.looked) < LOOK_EVERY
        {
            return Ok(read.credential.clone());
        }
        // A local file, small, and not looked at often: reading it here holds nobody up.
        let failed = |what: String| format!("{CREDENTIALS_ERROR} {}: {what}", self.path.display());
        let meta = std::fs::metadata(&self.path).map_err(|error| failed(error.to_string()))?;
        let modified = meta.modified().ok();
        if let Some(read) = &mut *state
            && read.modified == modified
        {
            read.looked = now;
            return Ok(read.credential.clone());
        }
        let bytes = read_small_file(&self.path, FILE_BYTES_MAX).map_err(failed)?;
        let text = str::from_utf8(&bytes).map_err(|_| failed("not UTF-8".to_owned()))?;
        let credential = Arc::new(parse(text, &self.profile).map_err(failed)?);
        *state = Some(Read {
            credential: credential.clone(),
            looked: now,
            modified,
        });
        Ok(credential)
    }
}

/// The credentials of one section. Errors name what is missing, never what is there.
fn parse(text: &str, profile: &str) -> Result<AwsCredential, String> {
    let mut is_inside = false;
    let mut is_found = false;
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_inside = section.trim() == profile;
            is_found |= is_inside;
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| is_inside) else {
            continue;
        };
        let place = match name.trim() {
            "aws_access_key_id" => &mut key_id,
            "aws_secret_access_key" => &mut secret_key,
            "aws_session_token" => &mut token,
            _ => continue,
        };
        *place = Some(value.trim().to_owned());
    }
    if !is_found {
        return Err(format!("no section [{profile}]"));
    }
    for (value, name) in [
        (&key_id, "aws_access_key_id"),
        (&secret_key, "aws_secret_access_key"),
        (&token, "aws_session_token"),
    ] {
        if !value.as_deref().is_none_or(is_sendable) {
            return Err(format!("{name} in [{profile}] {UNSENDABLE}"));
        }
    }
    let want = |value: Option<String>, name: &str| value.ok_or_else(|| format!("no {name} in [{profile}]"));
    Ok(AwsCredential {
        key_id: want(key_id, "aws_access_key_id")?,
        secret_key: want(secret_key, "aws_secret_access_key")?,
        token,
    })
}

impl fmt::Debug for FileCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileCredentials")
            .field("path", &self.path)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialProvider for FileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.current(Instant::now())
            .map_err(|error| object_store::Error::Generic {
                store: "S3",
                source: error.into(),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEXT: &str = "# ours\n[other]\naws_access_key_id = no\n[default]\naws_access_key_id = id\n \
                        aws_secret_access_key=hush = hush\naws_session_token = token\nregion = here\n";

    #[test]
    fn the_section_is_read_and_what_is_missing_is_named() {
        let found = parse(TEXT, "default").unwrap();
        let (id, secret, token) = (&*found.key_id, &*found.secret_key, found.token.as_deref());
        assert_eq!((id, secret, token), ("id", "hush = hush", Some("token")));
        let missing = parse(TEXT, "other").unwrap_err();
        assert_eq!(missing, "no aws_secret_access_key in [other]");
        assert_eq!(parse("", "default").unwrap_err(), "no section [default]");
    }

    #[test]
    fn a_file_that_changed_is_read_again_and_one_that_is_gone_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("credentials");
        let (provider, now) = (FileCredentials::new(&path, None), Instant::now());
        assert!(provider.current(now).unwrap_err().starts_with(CREDENTIALS_ERROR));
        fs::write(&path, TEXT).unwrap();
        assert_eq!(provider.current(now).unwrap().key_id, "id");
        fs::write(&path, TEXT.replace("= id", "= id2")).unwrap();
        let changed = fs::File::options().write(true).open(&path).unwrap();
        changed.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(provider.current(now).unwrap().key_id, "id", "not looked at yet");
        assert_eq!(provider.current(now + LOOK_EVERY).unwrap().key_id, "id2");
        fs::remove_file(&path).unwrap();
        assert!(provider.current(now + 2 * LOOK_EVERY).is_err());
    }

    #[test]
    fn what_is_no_small_regular_file_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("credentials");
        let told = |path: &Path| {
            let provider = FileCredentials::new(path, None);
            provider.current(Instant::now()).unwrap_err()
        };
        assert_eq!(
            told(Path::new("/dev/zero")),
            "credentials file /dev/zero: not a regular file"
        );
        let long = TEXT.to_owned() + &"#".repeat(1 << 20);
        fs::write(&path, long).unwrap();
        assert!(told(&path).ends_with("too long, want at most 1048576 bytes"));
        let link = place.path().join("link");
        fs::write(&path, TEXT).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let provider = FileCredentials::new(&link, None);
        assert_eq!(provider.current(Instant::now()).unwrap().key_id, "id");
    }

    #[test]
    fn what_cannot_be_part_of_a_request_is_refused_and_not_shown() {
        for strange in ["hush\u{7}", "hüsh"] {
            let text = TEXT.replace("token = token", &format!("token = {strange}"));
            let told = parse(&text, "default").unwrap_err();
            assert_eq!(told, format!("aws_session_token in [default] {UNSENDABLE}"));
        }
        let with = |id: &str, token: &str| {
            let (id, token) = (id.to_owned(), token.to_owned());
            of_environment(&move |name| match name {
                "AWS_ACCESS_KEY_ID" => Some(id.clone()),
                "AWS_SECRET_ACCESS_KEY" => Some("hush".to_owned()),
                _ => Some(token.clone()),
            })
        };
        let found = with("id\n", "token\r\n").unwrap();
        assert_eq!((&*found.key_id, found.token.as_deref()), ("id", Some("token")));
        assert_eq!(with("id", "").unwrap().token, None);
        let wrong = with("i\nd", "to\nken").unwrap_err();
        let names = ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"];
        assert_eq!(wrong, names.map(|name| format!("{name} {UNSENDABLE}")));
    }

    #[test]
    fn neither_the_provider_nor_its_errors_show_a_secret() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("credentials");
        fs::write(&path, TEXT).unwrap();
        let provider = FileCredentials::new(&path, None);
        provider.current(Instant::now()).unwrap();
        let other = FileCredentials::new(&path, Some("other"));
        let error = other.current(Instant::now()).unwrap_err();
        for shown in [format!("{provider:?}"), error] {
            assert!(!shown.contains("hush") && !shown.contains("token"), "{shown}");
        }
    }
}
