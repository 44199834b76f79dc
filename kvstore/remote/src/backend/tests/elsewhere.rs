//! The suite at stores that are no crates: emulators, or the real thing. `tests/README.md` says how they are started.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{conforms, hold};
use crate::backend::store::{StoreBackend, Surroundings};
use crate::backend::{Backend, Mode};
use crate::chance::draw;
use crate::testing::{aligned, writer};
use crate::{Credentials, Direction, FaultKind, StoreKind, StoreSpec};

/// A store of a kind: where the variable says it is, as `http://host:port/path bucket`, and perhaps ` account file`: an account of Azure, or
/// `-`, and a file of credentials. Without the variable nothing is tried, and that is said.
fn place(variable: &str, kind: StoreKind) -> Option<StoreSpec> {
    let Ok(place) = std::env::var(variable) else {
        println!("SKIPPED: {variable} names no store of this kind");
        return None;
    };
    let parts: Vec<&str> = place.split(' ').collect();
    let file = parts.get(3).map(PathBuf::from);
    Some(StoreSpec {
        kind,
        bucket: parts[1].to_owned(),
        account: parts
            .get(2)
            .filter(|account| **account != "-")
            .map(|&account| account.to_owned()),
        // Nothing of an earlier run is in the way.
        prefix: format!("run-{:x}", draw().to_bits()),
        endpoint: Some(parts[0].to_owned()),
        region: None,
        virtual_hosted: false,
        credentials: file.map_or(Credentials::Anonymous, |path| Credentials::File {
            path,
            profile: None,
        }),
        ca_file: None,
        sign_payload: false,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(30),
    })
}

fn backend(spec: &StoreSpec) -> Arc<StoreBackend> {
    Arc::new(StoreBackend::new(spec, &Surroundings::real(), &writer(1)).unwrap())
}

/// What every call says where there is no such bucket.
async fn is_gone(spec: &StoreSpec) {
    let store = backend(&StoreSpec {
        bucket: "no-such-bucket".to_owned(),
        ..spec.clone()
    });
    let name = "v1/aa/00/x";
    let exist = store.exist(&[name.to_owned()], hold()).await;
    let put = store.put(name, aligned(&[1; 4096]), Mode::Create, hold());
    let told = [
        ("exist", exist[0].clone().map(|_| ())),
        ("put", put.await.map(|_| ())),
        ("get", store.get(name, 0..4096, hold()).await.map(|_| ())),
        ("list", store.list("v1", None, 10).await.map(|_| ())),
        ("read", store.probe(Direction::Read).await),
        ("write", store.probe(Direction::Write).await),
        (
            "delete",
            store.delete(vec![name.to_owned()], hold()).await.map(|_| ()),
        ),
    ];
    for (call, result) in told {
        let kind = result.as_ref().map_err(|fault| fault.kind);
        assert_eq!(kind, Err(FaultKind::NotThere), "{call}: {result:?}");
    }
}

#[tokio::test]
async fn a_store_that_speaks_gcs_conforms() {
    let Some(spec) = place("KVTIER_TEST_GCS", StoreKind::Gcs) else {
        return;
    };
    conforms("GCS", backend(&spec)).await;
}

#[tokio::test]
async fn a_store_that_speaks_azure_conforms() {
    let Some(spec) = place("KVTIER_TEST_AZURE", StoreKind::Azure) else {
        return;
    };
    conforms("Azure", backend(&spec)).await;
    is_gone(&spec).await;
    // Another account's key, or an old one.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "b3RoZXI=").unwrap();
    let stranger = backend(&StoreSpec {
        credentials: Credentials::File {
            path: file.path().to_owned(),
            profile: None,
        },
        ..spec
    });
    for direction in [Direction::Read, Direction::Write] {
        let fault = stranger.probe(direction).await.unwrap_err();
        // Azure says AuthenticationFailed, the emulator AuthorizationFailure.
        let kinds = [FaultKind::Credentials, FaultKind::Denied];
        assert!(kinds.contains(&fault.kind), "{fault}");
    }
}
