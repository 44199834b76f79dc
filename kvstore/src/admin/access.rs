//! Who may do what: the kernel says whose process is at the other end of the socket.

use std::fmt;

use tonic::service::Interceptor;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Status};
use tracing::warn;

use crate::config::AccessList;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Look.
    Reader,
    /// Change things, too.
    Admin,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) uid: u32,
    /// None if its process lives where it cannot be seen from here.
    pub(super) pid: Option<i32>,
    role: Role,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "uid {} pid {pid}", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

impl Caller {
    /// Who sent this request.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let found = request.extensions().get::<Self>().copied();
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
            what,
            "a reader of the admin API may not change things"
        );
        Err(Status::permission_denied(format!(
            "uid {} may look but not {what}: that is for root and the daemon's own user",
            caller.uid
        )))
    }
}

/// Lets callers in.
#[derive(Clone, Debug)]
pub(super) struct Access {
    own_uid: u32,
    readers: AccessList,
}

impl Access {
    pub(super) fn new(readers: &AccessList) -> Self {
        Self {
            own_uid: rustix::process::geteuid().as_raw(),
            readers: readers.clone(),
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
}

impl Interceptor for Access {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let peer = request.extensions().get::<UdsConnectInfo>();
        let Some(credentials) = peer.and_then(|info| info.peer_cred) else {
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
        request.extensions_mut().insert(Caller { uid, pid, role });
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_may_nothing_readers_look_and_the_owner_may_all() {
        let mut access = Access::new(&AccessList {
            uids: vec![1001],
            gids: vec![50],
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
