//! The reference for a store: tasks that put and get objects of the same size in the same bucket, with nothing in between.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use kvstore_types::PAGE_BYTES;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::runtime::Runtime;

use super::raw::Pass;
use super::rig::SLOTS;
use super::server::{BUCKET, KEY, SECRET, Server};

/// What all names begin with.
pub(super) const PREFIX: &str = "raw";

/// A client of the same library, as many requests at a time as the tier has.
pub(super) struct Objects {
    store: AmazonS3,
    runtime: Runtime,
    object: Bytes,
}

impl Objects {
    /// Payloads are not part of the signature, as they are not in the tier.
    pub(super) fn make(server: &Server, block_bytes: u64) -> anyhow::Result<Self> {
        let store = AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_region("us-east-1")
            .with_endpoint(&server.endpoint)
            .with_allow_http(true)
            .with_access_key_id(KEY)
            .with_secret_access_key(SECRET)
            .with_unsigned_payload(true)
            .build()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        // A block's object has a header page.
        let mut object = vec![0; usize::try_from(block_bytes + PAGE_BYTES)?];
        SmallRng::seed_from_u64(2).fill_bytes(&mut object);
        Ok(Self {
            store,
            runtime,
            object: object.into(),
        })
    }

    /// What the reference is, for people.
    pub(super) fn variant() -> String {
        format!("{SLOTS} requests at a time")
    }

    /// Puts or gets so many objects: how long it took.
    pub(super) fn pass(&self, pass: Pass, objects: usize) -> anyhow::Result<Duration> {
        let (next, began) = (AtomicUsize::new(0), Instant::now());
        let work = || async {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= objects {
                    return anyhow::Ok(());
                }
                let path = Path::from(format!("{PREFIX}/{number}"));
                match pass {
                    Pass::Write => {
                        let payload = PutPayload::from_bytes(self.object.clone());
                        self.store.put(&path, payload).await?;
                    }
                    Pass::Read => {
                        let bytes = self.store.get(&path).await?.bytes().await?;
                        anyhow::ensure!(bytes.len() == self.object.len(), "an object came back short");
                    }
                }
            }
        };
        self.runtime
            .block_on(futures_util::future::try_join_all((0..SLOTS).map(|_| work())))
            .context("the plain loop at the S3 server")?;
        Ok(began.elapsed())
    }
}
