//! The certificates of the admin API's port: read at the start, and again when the files change or somebody asks for it.
//!
//! What always holds
//! - What is in use is whole: certificate, key and CA that were read together and belong together.
//! - Files that cannot be used change nothing. That is logged once for each state of the files, counted, and shown until they can.
//! - A connection keeps what it began with.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ServerConfig;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::tls::{Contents, Files, PemFile, Server, TlsError};

/// How often the files are looked at. They are small, and a Secret that is renewed has long been at its place.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Certificate, key and CA, as they were last good.
#[derive(Debug)]
pub(crate) struct Certificates {
    paths: Paths,
    state: Mutex<State>,
    asked: Notify,
    taken: AtomicU64,
    refused: AtomicU64,
}

/// What a scrape shows of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CertificatesView {
    /// In seconds since 1970.
    pub(super) certificate_end_s: u64,
    /// The same of the last CA of clients.
    pub(super) client_ca_end_s: u64,
    /// Renewed files that were taken.
    pub(super) taken: u64,
    /// Changed files that could not be used.
    pub(super) refused: u64,
    /// The files cannot be used, and what was read before is.
    pub(super) is_out_of_date: bool,
}

#[derive(Debug)]
struct Paths {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
}

struct State {
    server: Server,
    /// What the files held when they were looked at last; none if they could not be read.
    seen: Option<Contents>,
    /// What is wrong with them, if anything is.
    trouble: Option<String>,
}

impl std::fmt::Debug for State {
    /// Without what the files hold: one of them is a private key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("server", &self.server)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

impl Paths {
    fn files(&self) -> Files<'_> {
        let file = |name, path| PemFile { name, path };
        Files {
            certificate: file("admin.tls-certificate", &self.certificate),
            key: file("admin.tls-key", &self.key),
            ca: file("admin.tls-client-ca", &self.client_ca),
        }
    }
}

impl Certificates {
    /// Reads the files of `admin.tls-…`; none if the admin API is not served over TCP.
    pub(crate) fn read(config: &Config) -> Result<Option<Arc<Self>>, TlsError> {
        let tls = &config.admin.tls;
        // The configuration was refused if one of them is there and not all.
        let (Some(certificate), Some(key), Some(client_ca)) = (&tls.certificate, &tls.key, &tls.client_ca)
        else {
            return Ok(None);
        };
        let paths = Paths {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: client_ca.clone(),
        };
        let contents = paths.files().read()?;
        let server = paths.files().server(&contents)?;
        tell_end(&server);
        let state = State {
            server,
            seen: Some(contents),
            trouble: None,
        };
        Ok(Some(Arc::new(Self {
            paths,
            state: Mutex::new(state),
            asked: Notify::new(),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic leaves it half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the next handshake goes.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state().server.config)
    }

    /// What a scrape shows.
    pub(super) fn view(&self) -> CertificatesView {
        let state = self.state();
        let seconds = |end_s: i64| u64::try_from(end_s).unwrap_or(0);
        CertificatesView {
            certificate_end_s: seconds(state.server.certificate_end_s),
            client_ca_end_s: seconds(state.server.client_ca_end_s),
            taken: self.taken.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            is_out_of_date: state.trouble.is_some(),
        }
    }

    /// Has the files looked at now.
    pub(crate) fn look(&self) {
        self.asked.notify_one();
    }

    /// Looks at the files again and again. Never returns.
    pub(super) async fn watch(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.asked.notified() => {}
            }
            let looking = Arc::clone(&self);
            // A file system that does not answer holds up nobody but this.
            if let Err(cause) = tokio::task::spawn_blocking(move || looking.look_now()).await {
                error!(%cause, "the files of the admin API's port could not be looked at");
            }
        }
    }

    /// Reads the files, and takes what is new and good.
    fn look_now(&self) {
        let files = self.paths.files();
        let contents = match files.read() {
            Ok(contents) => contents,
            Err(cause) => return self.refuse(None, cause.to_string()),
        };
        if self.state().seen.as_ref() == Some(&contents) {
            return;
        }
        match files.server(&contents) {
            Ok(server) => {
                self.taken.fetch_add(1, Ordering::Relaxed);
                info!(
                    certificate_end_s = server.certificate_end_s,
                    client_ca_end_s = server.client_ca_end_s,
                    "the files of the admin API's port have changed; new connections use what is in them now"
                );
                tell_end(&server);
                *self.state() = State {
                    server,
                    seen: Some(contents),
                    trouble: None,
                };
            }
            Err(cause) => self.refuse(Some(contents), cause.to_string()),
        }
    }

    /// Remembers that the files cannot be used. `seen`: none if they cannot even be read.
    fn refuse(&self, seen: Option<Contents>, trouble: String) {
        let mut state = self.state();
        let is_new = seen.is_some() || state.trouble.as_ref() != Some(&trouble);
        if is_new {
            self.refused.fetch_add(1, Ordering::Relaxed);
            error!(
                problem = trouble,
                "the files of the admin API's port cannot be used; what was read before stays in use"
            );
        }
        state.seen = seen;
        state.trouble = Some(trouble);
    }
}

/// Says what clients will not like.
fn tell_end(server: &Server) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let is_over = |end_s: i64| u64::try_from(end_s).unwrap_or(0) <= now.as_secs();
    if is_over(server.certificate_end_s) {
        warn!("admin.tls-certificate: the certificate has expired; no client will take it");
    }
    if is_over(server.client_ca_end_s) {
        warn!("admin.tls-client-ca: every certificate in it has expired; no client will be let in");
    }
}
