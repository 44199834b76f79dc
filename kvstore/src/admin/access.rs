//! Who may do what: the kernel says whose process is at the other end of the socket, and over TCP a certificate says who it is.

use std::fmt;
use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::{Request, Status};
use tracing::warn;

use super::peer::{Peer, PeerCertificate};
use crate::config::{AccessList, AdminConfig};

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Look.
    Reader,
    /// Change things, too.
    Admin,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// None if it calls over TCP.
    pub(super) uid: Option<u32>,
    /// None if its process lives where it cannot be seen from here.
    pub(super) pid: Option<i32>,
    /// The names and serial number of its certificate, if it calls over TCP.
    certificate: Option<Arc<str>>,
    role: Role,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.uid, self.pid, &self.certificate) {
            (Some(uid), Some(pid), _) => write!(f, "uid {uid} pid {pid}"),
            (Some(uid), None, _) => write!(f, "uid {uid}"),
            (None, _, Some(certificate)) => write!(f, "certificate {certificate}"),
            (None, _, None) => f.write_str("nobody"),
        }
    }
}

impl Caller {
    /// Who sent this request.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let found = request.extensions().get::<Self>().cloned();
        found.ok_or_else(|| Status::internal("the caller is not known"))
    }

    /// The same, if it may change things.
    pub(super) fn admin<T>(request: &Request<T>, what: &'static str) -> Result<Self, Status> {
        let caller = Self::of(request)?;
        if caller.role == Role::Admin {
            return Ok(caller);
        }
        warn!(
            uid = caller.uid,
            pid = caller.pid,
            certificate = caller.certificate(),
            what,
            "a reader of the admin API may not change things"
        );
        let text = match (caller.uid, &caller.certificate) {
            (Some(uid), _) => {
                format!("uid {uid} may look but not {what}: that is for root and the daemon's own user")
            }
            _ => {
                format!("{caller} may look but not {what}: that is for the names in admin.tls-administrators")
            }
        };
        Err(Status::permission_denied(text))
    }

    /// The names and serial number of its certificate.
    pub(super) fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }
}

/// Lets callers in.
#[derive(Clone, Debug)]
pub(super) struct Access {
    own_uid: u32,
    readers: AccessList,
    /// Names in certificates.
    administrators: Arc<[String]>,
}

impl Access {
    pub(super) fn new(config: &AdminConfig) -> Self {
        Self {
            own_uid: rustix::process::geteuid().as_raw(),
            readers: config.readers.clone(),
            administrators: config.tls.administrators.clone().into(),
        }
    }

    fn role(&self, uid: u32, gid: u32) -> Option<Role> {
        if uid == 0 || uid == self.own_uid {
            Some(Role::Admin)
        } else if self.readers.allows(uid, gid) {
            Some(Role::Reader)
        } else {
            None
        }
    }

    fn of_certificate(&self, certificate: &PeerCertificate) -> Caller {
        let role = if certificate.is_one_of(&self.administrators) {
            Role::Admin
        } else {
            Role::Reader
        };
        Caller {
            uid: None,
            pid: None,
            certificate: Some(certificate.label().into()),
            role,
        }
    }
}

impl Interceptor for Access {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let credentials = match request.extensions().get::<Peer>() {
            Some(Peer::Certificate(certificate)) => {
                let caller = self.of_certificate(certificate);
                request.extensions_mut().insert(caller);
                return Ok(request);
            }
            Some(Peer::Process(info)) => info.peer_cred,
            None => None,
        };
        let Some(credentials) = credentials else {
            return Err(Status::unauthenticated("the system does not say who calls"));
        };
        let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
        let Some(role) = self.role(uid, gid) else {
            warn!(uid, gid, pid, "a call to the admin API was refused");
            return Err(Status::permission_denied(format!(
                "uid {uid} gid {gid} may not use the admin API; the daemon's administrator can add it to \
                 admin.reader-uids or admin.reader-gids"
            )));
        };
        let pid = pid.filter(|pid| *pid != 0);
        request.extensions_mut().insert(Caller {
            uid: Some(uid),
            pid,
            certificate: None,
            role,
        });
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_may_nothing_readers_look_and_the_owner_may_all() {
        let mut access = Access::new(&AdminConfig {
            readers: AccessList {
                uids: vec![1001],
                gids: vec![50],
            },
            ..AdminConfig::default()
        });
        access.own_uid = 1000;
        let cases = [
            (0, 0, Some(Role::Admin)),
            (1000, 7, Some(Role::Admin)),
            (1001, 7, Some(Role::Reader)),
            (1002, 50, Some(Role::Reader)),
            (1002, 7, None),
        ];
        for (uid, gid, role) in cases {
            assert_eq!(access.role(uid, gid), role, "uid {uid} gid {gid}");
        }
    }
}
