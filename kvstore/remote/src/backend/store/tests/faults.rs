//! What each trouble of a store is called, and that nothing secret is in it.

use std::sync::Arc;
use std::time::Duration;

use object_store::client::{DnsError, DnsFuture, DnsResolver};

use super::super::{StoreBackend, Surroundings};
use super::{NO_BUCKET, SECRET, Server, Trouble};
use crate::backend::{Backend, Fault, Hold, Mode, Written};
use crate::testing::{aligned, writer};
use crate::{Credentials, Direction, FaultKind, SpecError, StoreSpec};

fn hold() -> Hold {
    Arc::new(())
}

fn error_body(code: &'static str) -> &'static str {
    // Leaked: few, and only in tests.
    Box::leak(format!("<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>").into_boxed_str())
}

async fn get(store: &dyn Backend) -> Result<Option<u64>, Fault> {
    let body = store.get("v1/aa/00/x", 0..8192, hold()).await?;
    Ok(body.map(|body| body.object_bytes))
}

#[tokio::test]
async fn every_trouble_of_a_read_has_its_kind_and_passes() {
    let server = Server::start();
    let store = server.backend(&StoreSpec {
        request_timeout: Duration::from_millis(700),
        ..server.spec()
    });
    let object = aligned(&[1; 8192]);
    store
        .put("v1/aa/00/x", object, Mode::Create, hold())
        .await
        .unwrap();
    let answer = |status, headers, code| Trouble::Answer(status, headers, error_body(code));
    let cases = [
        (Trouble::Reset, FaultKind::Connection),
        (Trouble::Close, FaultKind::Connection),
        (Trouble::Stall, FaultKind::Stalled),
        (Trouble::Truncate(100), FaultKind::Truncated),
        (Trouble::Truncate(5000), FaultKind::Truncated),
        (Trouble::ResetAfter(5000), FaultKind::Truncated),
        (Trouble::Drip(64, Duration::from_millis(20)), FaultKind::Stalled),
        (answer("403 Forbidden", "", "AccessDenied"), FaultKind::Denied),
        (answer("403 Forbidden", "", "Strange"), FaultKind::Denied),
        (
            answer("403 Forbidden", "", "RequestTimeTooSkewed"),
            FaultKind::Credentials,
        ),
        (
            answer("400 Bad Request", "", "ExpiredToken"),
            FaultKind::Credentials,
        ),
        (answer("401 Unauthorized", "", "Strange"), FaultKind::Credentials),
        (answer("404 Not Found", "", "NoSuchBucket"), FaultKind::NotThere),
        (
            answer("429 Too Many Requests", "", "Strange"),
            FaultKind::Throttled,
        ),
        (
            answer("503 Slow Down", "retry-after: 7\r\n", "SlowDown"),
            FaultKind::Throttled,
        ),
        (
            answer("500 Internal Server Error", "", "InternalError"),
            FaultKind::Server,
        ),
        (answer("502 Bad Gateway", "", "Strange"), FaultKind::Server),
        (answer("200 OK", "", "Strange"), FaultKind::Protocol),
        (answer("301 Moved", "", "Strange"), FaultKind::Protocol),
    ];
    for (trouble, kind) in cases {
        server.talk.trouble("GET", "v1/aa/00/x", trouble.clone());
        let fault = get(&*store).await.unwrap_err();
        assert_eq!(fault.kind, kind, "{trouble:?}: {fault}");
        assert!(
            !fault.text.contains(SECRET) && !fault.text.contains("first"),
            "{fault}"
        );
        if matches!(trouble, Trouble::Answer("503 Slow Down", ..)) {
            assert_eq!(fault.retry_after, Some(Duration::from_secs(7)));
        }
        server.talk.calm();
        assert_eq!(get(&*store).await, Ok(Some(8192)), "after {trouble:?}");
    }
    server
        .talk
        .trouble("GET", "v1/aa/00/x", answer("404 Not Found", "", "NoSuchKey"));
    assert_eq!(get(&*store).await, Ok(None));
}

#[tokio::test]
async fn a_redirect_is_named_and_not_followed() {
    let (server, other) = (Server::start(), Server::start());
    let store = server.backend(&server.spec());
    let to = format!("location: {}/bucket/some/where/v1/aa/00/x\r\n", other.endpoint());
    // Leaked: once, and only in a test.
    let to: &'static str = Box::leak(to.into_boxed_str());
    for status in [
        "301 Moved",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        server.talk.calm();
        server.talk.trouble("", "v1/", Trouble::Answer(status, to, ""));
        let put = store.put("v1/aa/00/x", aligned(&[1; 8192]), Mode::Create, hold());
        let exist = store.exist(&["v1/aa/00/x".to_owned()], hold()).await;
        let faults = [
            put.await.unwrap_err(),
            get(&*store).await.unwrap_err(),
            exist[0].clone().unwrap_err(),
            store.probe(Direction::Read).await.unwrap_err(),
        ];
        for fault in faults {
            assert_eq!(fault.kind, FaultKind::Protocol, "{status}: {fault}");
            assert!(
                fault.text.contains("a redirect, which is not followed"),
                "{fault}"
            );
            assert_eq!(
                fault.text.contains("region"),
                status.starts_with("301"),
                "{fault}"
            );
        }
    }
    assert_eq!(other.talk.requests(""), Vec::<String>::new());
}

#[derive(Debug, Default)]
struct Asked(std::sync::Mutex<Vec<String>>);

impl DnsResolver for Asked {
    fn resolve(&self, host: &str) -> DnsFuture {
        self.0.lock().unwrap().push(host.to_owned());
        Box::pin(async { Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()]) })
    }
}

#[tokio::test]
async fn the_bucket_is_in_the_path_or_before_the_host() {
    let server = Server::start();
    server.talk.trouble("", "", Trouble::Answer("500 Broken", "", ""));
    for (virtual_hosted, host, path) in [
        (false, "store.invalid", "GET /bucket/some/where/v1/aa/00/x"),
        (true, "bucket.store.invalid", "GET /some/where/v1/aa/00/x"),
    ] {
        let asked = Arc::<Asked>::default();
        let spec = StoreSpec {
            endpoint: Some(format!("http://store.invalid:{}/", server.port)),
            virtual_hosted,
            ..server.spec()
        };
        let surroundings = Surroundings {
            resolver: Some(asked.clone()),
            ..Surroundings::real()
        };
        let store = StoreBackend::new(&spec, &surroundings, &writer(1)).unwrap();
        get(&store).await.unwrap_err();
        assert_eq!(*asked.0.lock().unwrap(), [host]);
        assert_eq!(server.talk.requests("").pop().as_deref(), Some(path));
    }
}

#[tokio::test]
async fn a_head_that_is_refused_says_why() {
    let server = Server::start();
    let store = server.backend(&server.spec());
    let names: Vec<String> = (0..3).map(|number| format!("v1/aa/00/{number}")).collect();
    let cases = [
        ("400 Bad Request", "ExpiredToken", FaultKind::Credentials),
        ("403 Forbidden", "RequestTimeTooSkewed", FaultKind::Credentials),
        ("403 Forbidden", "AccessDenied", FaultKind::Denied),
        ("400 Bad Request", "Strange", FaultKind::Protocol),
    ];
    for (status, code, kind) in cases {
        server.talk.calm();
        server
            .talk
            .trouble("HEAD", "v1/", Trouble::Answer(status, "", ""));
        server
            .talk
            .trouble("GET", "v1/", Trouble::Answer(status, "", error_body(code)));
        let gets = server.talk.requests("GET").len();
        for result in store.exist(&names, hold()).await {
            assert_eq!(result.unwrap_err().kind, kind, "{code}");
        }
        assert_eq!(
            server.talk.requests("GET").len(),
            gets + 1,
            "one is asked for all"
        );
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_there_when_it_is_repeated() {
    let server = Server::start();
    let store = server.backend(&server.spec());
    let put = || store.put("v1/aa/00/x", aligned(&[1; 8192]), Mode::Create, hold());
    server.talk.trouble("PUT", "v1/aa/00/x", Trouble::Swallow);
    assert_eq!(put().await.unwrap_err().kind, FaultKind::Connection);
    server.talk.calm();
    assert_eq!(put().await, Ok(Written::AlreadyPresent));
    // Somebody else is writing it, and may fail.
    let conflict = Trouble::Answer("409 Conflict", "", error_body("ConditionalRequestConflict"));
    server.talk.trouble("PUT", "v1/aa/00/x", conflict);
    assert_eq!(put().await.unwrap_err().kind, FaultKind::Server);
    let full = Trouble::Answer("507 Insufficient Storage", "", error_body("Strange"));
    server.talk.calm();
    server.talk.trouble("PUT", "v1/aa/00/x", full);
    assert_eq!(put().await.unwrap_err().kind, FaultKind::NoSpace);
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_a_fault_and_not_a_miss() {
    let server = Server::start();
    let store = server.backend(&StoreSpec {
        bucket: "other".into(),
        ..server.spec()
    });
    server.talk.trouble("", "/other/", NO_BUCKET);
    for direction in Direction::ALL {
        let fault = store.probe(direction).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::NotThere, "{direction:?}: {fault}");
    }
    assert_eq!(get(&*store).await.unwrap_err().kind, FaultKind::NotThere);
}

#[tokio::test]
async fn wrong_keys_are_a_fault_that_names_no_key() {
    let server = Server::start();
    let store = server.backend(&server.spec());
    assert_eq!(get(&*store).await, Ok(None));
    for (id, secret) in [("first", "wrong-secret"), ("nobody", SECRET)] {
        let stranger = server.backend(&server.spec());
        server.write_credentials(id, secret);
        let fault = get(&*stranger).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Credentials, "{fault}");
        assert!(
            !fault.text.contains(secret) && !fault.text.contains(id),
            "{fault}"
        );
    }
    std::fs::remove_file(server.credentials()).unwrap();
    let fault = get(&*server.backend(&server.spec())).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Credentials, "{fault}");
}

#[derive(Debug)]
struct NoNames;

impl DnsResolver for NoNames {
    fn resolve(&self, _host: &str) -> DnsFuture {
        Box::pin(async { Err(DnsError::from("no such host")) })
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_a_fault_of_its_own() {
    let server = Server::start();
    let spec = StoreSpec {
        endpoint: Some("http://store.invalid:9000".into()),
        ..server.spec()
    };
    let surroundings = Surroundings {
        resolver: Some(Arc::new(NoNames)),
        ..Surroundings::real()
    };
    let store = StoreBackend::new(&spec, &surroundings, &writer(1)).unwrap();
    let fault = get(&store).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Resolve, "{fault}");
}

#[tokio::test]
async fn nobody_listening_is_a_fault_of_the_connection() {
    let server = Server::start();
    let (spec, port) = (server.spec(), server.port);
    let store = server.backend(&spec);
    drop(server);
    // The runtime ends in the background: until then the port may still answer.
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let result = get(&*store).await;
    // Its credentials are gone with it, or the connection is refused: whichever is looked at first.
    let kind = result.unwrap_err().kind;
    assert!(
        [FaultKind::Connection, FaultKind::Credentials].contains(&kind),
        "{kind:?}"
    );
}

fn refused(spec: &StoreSpec, variable: &(dyn Fn(&str) -> Option<String> + Sync)) -> String {
    let surroundings = Surroundings {
        variable,
        ..Surroundings::real()
    };
    match StoreBackend::new(spec, &surroundings, &writer(1)) {
        Err(SpecError::Store(text)) => text,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{spec:?} was taken"),
    }
}

#[test]
fn bad_settings_are_refused_by_name_and_show_no_secret() {
    let server = Server::start();
    let none = |_: &str| None;
    let with = |endpoint: &str| StoreSpec {
        endpoint: Some(endpoint.into()),
        ..server.spec()
    };
    for endpoint in [
        "store",
        "ftp://store",
        "https://",
        "http://host:99999",
        "http://host name",
        "http://[::1",
        "https://user:hush@store",
        "https://store?key=hush",
    ] {
        let (spec, told) = (with(endpoint), refused(&with(endpoint), &none));
        assert!(told.starts_with("endpoint: want"), "{told}");
        assert!(
            !told.contains("hush") && !format!("{spec:?}").contains("hush"),
            "{spec:?}"
        );
    }
    let unnamed = StoreSpec {
        virtual_hosted: true,
        ..server.spec()
    };
    assert!(refused(&unnamed, &none).starts_with("endpoint: want a host with a name"));
    let nameless = StoreSpec {
        bucket: String::new(),
        ..server.spec()
    };
    assert_eq!(refused(&nameless, &none), "want the name of a bucket");
    let environment = StoreSpec {
        credentials: Credentials::Environment,
        ..server.spec()
    };
    let told = refused(&environment, &|name| {
        (name == "AWS_ACCESS_KEY_ID").then(|| "id".into())
    });
    assert_eq!(
        told,
        "credentials from the environment: AWS_SECRET_ACCESS_KEY is not set"
    );
    let unread = StoreSpec {
        ca_file: Some("/nowhere/ca.pem".into()),
        ..server.spec()
    };
    assert!(refused(&unread, &none).starts_with("CA file /nowhere/ca.pem: "));
    let empty = server.place.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let nothing = StoreSpec {
        ca_file: Some(empty),
        ..server.spec()
    };
    assert!(refused(&nothing, &none).ends_with("no certificate in it"));
}

#[tokio::test]
async fn keys_come_from_the_environment_if_that_is_asked_for() {
    let server = Server::start();
    let spec = StoreSpec {
        credentials: Credentials::Environment,
        ..server.spec()
    };
    let variable = |name: &str| match name {
        "AWS_ACCESS_KEY_ID" => Some("first".to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some(SECRET.to_owned()),
        _ => None,
    };
    let surroundings = Surroundings {
        variable: &variable,
        ..Surroundings::real()
    };
    let store = StoreBackend::new(&spec, &surroundings, &writer(1)).unwrap();
    assert_eq!(get(&store).await, Ok(None));
    assert!(!store.describe().contains(SECRET));
}
