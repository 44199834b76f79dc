//! A server that speaks S3, the proxy in front of it, and what a store may do wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{StoreBackend, Surroundings};
use crate::backend::Backend;
use crate::testing::writer;
use crate::unwell::BUCKET;
use crate::{Credentials, StoreKind, StoreSpec};

mod clouds;
mod faults;
mod tls;

pub(crate) use crate::unwell::{NO_BUCKET, SECRET, Server, Trouble};

impl Server {
    pub(crate) fn spec(&self) -> StoreSpec {
        StoreSpec {
            kind: StoreKind::S3,
            bucket: BUCKET.into(),
            account: None,
            prefix: "some/where".into(),
            endpoint: Some(self.endpoint()),
            region: None,
            virtual_hosted: false,
            credentials: Credentials::File {
                path: self.credentials(),
                profile: None,
            },
            ca_file: None,
            sign_payload: false,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
        }
    }

    #[expect(clippy::unused_self, reason = "a backend of this server, by its own spec")]
    pub(crate) fn backend(&self, spec: &StoreSpec) -> Arc<dyn Backend> {
        Arc::new(StoreBackend::new(spec, &Surroundings::real(), &writer(1)).unwrap())
    }

    /// Where the server keeps an object.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.bucket().join("some/where").join(name)
    }
}
