//! The admin API over its own socket, as `kvtier` speaks it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::path::Path;

use rustix::process::Signal;
use support::Place;
use support::blocks::{CHAIN, Cache};
use support::client::{Pair, hash};
use support::command::{json, kvtier, refused, shown, with_nvme};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[test]
fn a_person_sees_tiers_devices_namespaces_and_sessions() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..4);
    assert_eq!(cache.load_all(0..4), 4 * CHAIN);
    let blocks = u64::from(4 * CHAIN);
    let tiers = json(&place, &["tiers"]);
    let (host, nvme) = (&tiers["tiers"][0], &tiers["tiers"][1]);
    assert_eq!((&host["tier"], &nvme["tier"]), (&"host".into(), &"nvme".into()));
    assert_eq!(
        (&host["blocks"], &nvme["blocks"]),
        (&blocks.into(), &blocks.into())
    );
    assert_eq!(host["hit_blocks"], blocks);
    assert!(shown(&place, &["tiers"]).contains("serving"));
    let devices = json(&place, &["devices"]);
    assert_eq!(devices["devices"][0]["state"], "serving");
    let table = shown(&place, &["devices"]);
    assert!(
        table.contains("nvme/default  serving") && table.contains("demand"),
        "{table}"
    );
    let namespaces = json(&place, &["namespaces"]);
    let namespace = &namespaces["namespaces"][0];
    assert_eq!(namespace["published"], blocks);
    assert_eq!(
        (&namespace["engines"], &namespace["lookups_missed"]),
        (&1.into(), &0.into())
    );
    let name = namespace["namespace"].as_str().unwrap();
    let described = shown(&place, &["namespaces", &name[..6]]);
    assert!(described.contains("model.id                 m"), "{described}");
    let sessions = json(&place, &["sessions"]);
    let sessions = sessions["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions[0]["pid"], std::process::id());
    assert!(sessions.iter().any(|session| session["role"] == "scheduler"));
    assert!(shown(&place, &["sessions"]).contains("worker 0"));
}

#[test]
fn blocks_are_looked_up_by_their_names() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..1);
    let namespaces = json(&place, &["namespaces"]);
    let namespace = namespaces["namespaces"][0]["namespace"].as_str().unwrap();
    let here = hash(0).to_string();
    let found = json(&place, &["lookup", "--namespace", &namespace[..8], &here]);
    assert_eq!(found["blocks"][0]["tiers"], serde_json::json!(["host", "nvme"]));
    let key = format!("{namespace}/0/{here}");
    assert!(shown(&place, &["lookup", &key]).contains("host, nvme"));
    let nowhere = format!("{namespace}/0/{}", hash(9999));
    let (code, out, _) = kvtier(&place, &["lookup", &key, &nowhere]);
    assert_eq!(code, 3);
    assert_eq!(out.lines().count(), 3);
    let (code, error) = refused(&place, &["lookup", &here]);
    assert_eq!(code, 64);
    assert!(error.contains("want --namespace beside a hash"), "{error}");
    let (code, error) = refused(&place, &["lookup", "ffff/0/b"]);
    assert_eq!((code, error.trim()), (64, "no namespace begins with ffff"));
    let (code, error) = refused(&place, &["lookup", "--namespace", "ffff", &here]);
    assert_eq!((code, error.trim()), (64, "no namespace begins with ffff"));
    let (code, error) = refused(&place, &["tiers", "--tenant", "nobody"]);
    assert_eq!(
        (code, error.trim()),
        (64, "tenant: want one of default, got \"nobody\"")
    );
}

#[test]
fn a_daemon_that_does_not_answer_costs_the_timeout() {
    let place = Place::new();
    let daemon = place.start();
    daemon.signal(Signal::STOP);
    let (code, error) = refused(&place, &["status", "--timeout", "200ms"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("no answer in time") || error.contains("timed out"),
        "{error}"
    );
    daemon.signal(Signal::CONT);
    shown(&place, &["status"]);
}

#[test]
fn how_long_to_wait_has_bounds() {
    let place = Place::new();
    let _daemon = place.start();
    shown(&place, &["status", "--timeout", "8760h"]);
    for time in ["99999999999h", "0s"] {
        let (code, error) = refused(&place, &["status", "--timeout", time]);
        assert_eq!(code, 64);
        assert!(
            error.contains("want a duration of more than 0 and at most 8760h"),
            "{error}"
        );
    }
}

#[test]
fn a_daemon_that_starts_is_told_from_none() {
    let place = Place::new();
    let daemon = place.start();
    daemon.signal(Signal::STOP);
    // As it is before it is bound, and after it is unbound.
    std::fs::remove_file(place.admin_socket()).unwrap();
    let (code, error) = refused(&place, &["status"]);
    assert_eq!(code, 1);
    let pid = std::fs::read_to_string(place.path("run/kvtier-admin.sock.lock")).unwrap();
    let expected = format!(
        "kvtierd (pid {}) is starting or ending and does not answer",
        pid.trim()
    );
    assert!(error.contains(&expected), "{error}");
    daemon.signal(Signal::CONT);
    drop(daemon);
    let (code, error) = refused(&place, &["status"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("no daemon at the socket; start kvtierd"),
        "{error}"
    );
}

#[test]
fn what_is_no_socket_is_called_that() {
    let place = Place::new();
    std::fs::write(place.path("file"), "").unwrap();
    for path in [place.path("file"), place.path(".")] {
        let path = path.display().to_string();
        let (code, error) = refused(&place, &["status", "--socket", &path]);
        assert_eq!(code, 1);
        assert!(error.contains(&format!("{path}: is no socket")), "{error}");
    }
}

#[test]
fn a_killed_daemons_admin_socket_is_taken_over() {
    let place = Place::new();
    let mut daemon = place.start();
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert!(place.admin_socket().exists());
    let (code, error) = refused(&place, &["status"]);
    assert_eq!(code, 1);
    assert!(error.contains("one was there and is gone"), "{error}");
    let _next = place.start();
    shown(&place, &["status"]);
}

#[test]
fn a_file_in_the_admin_sockets_place_keeps_the_daemon_from_starting() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("run")).unwrap();
    std::fs::write(place.admin_socket(), "precious").unwrap();
    let (code, said) = support::run(&mut place.command());
    assert_eq!(code, 73, "{said}");
    assert!(
        said.contains("kvtier-admin.sock exists and is not a socket"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(place.admin_socket()).unwrap(), "precious");
}

/// Only root can become somebody else.
#[test]
fn readers_look_and_strangers_do_not() {
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let daemon = place.start_with(&[("KVTIER_ADMIN_READER_UIDS", "65533")]);
    // The build directory may be closed to other users.
    let program = place.copy_of(env!("CARGO_BIN_EXE_kvtier").as_ref());
    let as_user = |uid, arguments: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command
            .args(arguments)
            .env("KVTIER_ADMIN_SOCKET", place.admin_socket())
            .uid(uid)
            .gid(0);
        let output = command.output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(as_user(65_533, &["status"]), (0, String::new()));
    let changes: [&[&str]; 3] = [&["set", "log.level=debug"], &["evict", "--all"], &["drain"]];
    for arguments in changes {
        let (code, error) = as_user(65_533, arguments);
        assert_eq!(code, 77);
        assert!(error.contains("uid 65533 may look but not"), "{error}");
    }
    for arguments in [&["status"] as &[&str], &["set", "log.level=debug"]] {
        let (code, error) = as_user(65_534, arguments);
        assert_eq!(code, 77);
        assert!(
            error.contains("uid 65534 gid 0 may not use the admin API"),
            "{error}"
        );
    }
    daemon.says("a call to the admin API was refused");
    assert!(!daemon.log().contains("audit:"));
}

#[test]
fn two_tenants_are_told_apart() {
    let place = Place::new();
    let file = place.path("kvtierd.toml");
    std::fs::write(&file, "[tenant.blue]\n[tenant.red]\n").unwrap();
    let daemon = place.start_file(&file, &[]);
    let mut blue = Pair::open_with(daemon.socket(), 1, "blue", 4096);
    blue.store(0..4);
    let tiers = json(&place, &["tiers"]);
    let blocks: Vec<_> = tiers["tiers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tier| (tier["tenant"].as_str().unwrap(), tier["blocks"].as_u64().unwrap()))
        .collect();
    assert_eq!(blocks, [("blue", 4), ("red", 0)]);
    assert_eq!(
        json(&place, &["sessions", "--tenant", "red"])["sessions"],
        serde_json::json!([])
    );
    let (code, error) = refused(&place, &["evict", "--all"]);
    assert_eq!((code, error.trim()), (64, "tenant: want one of blue, red"));
    let evicted = json(&place, &["evict", "--all", "--tenant", "blue"]);
    assert_eq!(evicted["host_blocks"], 4);
    assert_eq!(
        json(&place, &["status", "--tenant", "red"])["tenants"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

/// A client of its own, for what `kvtier` does not speak.
#[test]
fn health_and_reflection_answer_and_deadlines_are_kept() {
    let place = Place::new();
    let daemon = place.start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let channel = channel(&place.admin_socket()).await;
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
        for service in ["", "kvtier.v1.Admin"] {
            let request = tonic_health::pb::HealthCheckRequest {
                service: service.to_owned(),
            };
            let answer = health.check(request).await.unwrap().into_inner();
            assert_eq!(
                answer.status(),
                tonic_health::pb::health_check_response::ServingStatus::Serving
            );
        }
        let request = tonic_reflection::pb::v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = ServerReflectionClient::new(channel.clone())
            .server_reflection_info(tokio_stream::once(request))
            .await
            .unwrap()
            .into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("want a list of services, got {answer:?}")
        };
        assert!(
            list.service
                .iter()
                .any(|service| service.name == "kvtier.v1.Admin")
        );
        // A deadline that the daemon cannot keep.
        let mut admin = kvtier_proto::v1::admin_client::AdminClient::new(channel);
        daemon.signal(Signal::STOP);
        let mut request = tonic::Request::new(kvtier_proto::v1::GetStatusRequest {});
        request.set_timeout(std::time::Duration::from_millis(200));
        let status = admin.get_status(request).await.unwrap_err();
        daemon.signal(Signal::CONT);
        assert!(
            matches!(
                status.code(),
                tonic::Code::Cancelled | tonic::Code::DeadlineExceeded
            ),
            "{status:?}"
        );
        // Another call of the same connection is answered.
        admin
            .get_status(kvtier_proto::v1::GetStatusRequest {})
            .await
            .unwrap();
    });
}

async fn channel(socket: &Path) -> tonic::transport::Channel {
    let address = format!("unix://{}", socket.display());
    tonic::transport::Endpoint::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap()
}
