//! The suite at stores that are no crates: emulators, or the real thing. `tests/README.md` says how they are started.

use std::time::Duration;

use super::conforms;
use crate::backend::store::{StoreBackend, Surroundings};
use crate::chance::draw;
use crate::testing::writer;
use crate::{Credentials, StoreKind, StoreSpec};

/// Runs the suite at what the variable names: `http://host:port/path bucket`. Without it nothing is tried, and that is said.
async fn try_at(variable: &str, kind: StoreKind, credentials: Credentials) {
    let Ok(place) = std::env::var(variable) else {
        println!("SKIPPED: {variable} names no store of this kind");
        return;
    };
    let (endpoint, bucket) = place.split_once(' ').expect("an endpoint and a bucket");
    let spec = StoreSpec {
        kind,
        bucket: bucket.to_owned(),
        // Nothing of an earlier run is in the way.
        prefix: format!("run-{:x}", draw().to_bits()),
        endpoint: Some(endpoint.to_owned()),
        region: None,
        virtual_hosted: false,
        credentials,
        ca_file: None,
        sign_payload: false,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(30),
    };
    let store = StoreBackend::new(&spec, &Surroundings::real(), &writer(1)).unwrap();
    conforms(variable, std::sync::Arc::new(store)).await;
}

#[cfg(feature = "gcp")]
#[tokio::test]
async fn a_store_that_speaks_gcs_conforms() {
    try_at("KVTIER_TEST_GCS", StoreKind::Gcs, Credentials::Anonymous).await;
}

#[cfg(feature = "azure")]
#[tokio::test]
async fn a_store_that_speaks_azure_conforms() {
    try_at("KVTIER_TEST_AZURE", StoreKind::Azure, Credentials::Environment).await;
}
