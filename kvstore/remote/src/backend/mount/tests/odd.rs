//! Small files whose names something has that cannot be ours: what is in the way of one name is in the way of nothing else.

use super::*;
use crate::format::LEASE_NAME;

const NAMESPACE: &str = "v1/aa/namespace";

/// Puts something odd under a name: one of these.
fn spoil(path: &Path, kind: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    match kind {
        "socket" => {
            // Its path may be longer than one of a socket can be.
            let short = tempfile::tempdir_in("/tmp").unwrap();
            let made = short.path().join("s");
            drop(std::os::unix::net::UnixListener::bind(&made).unwrap());
            std::fs::rename(made, path).unwrap();
        }
        "fifo" => {
            let made = rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o660),
                0,
            );
            made.unwrap();
        }
        "directory" => std::fs::create_dir(path).unwrap(),
        "dangling" => std::os::unix::fs::symlink("nowhere", path).unwrap(),
        "loop" => std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap(),
        "huge" => std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        other => panic!("{other}"),
    }
}

const KINDS: [&str; 6] = ["socket", "fifo", "directory", "dangling", "loop", "huge"];

fn on_tmp() -> (TempDir, MountBackend) {
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let store = start(&spec(place.path()));
    (place, store)
}

/// A socket under a namespace's name was taken for a mount that is gone, and put the tier out of service for all namespaces.
#[tokio::test]
async fn what_cannot_be_read_under_a_small_files_name_is_told_by_its_name_and_says_nothing_about_the_store() {
    for kind in KINDS {
        let (place, store) = on_tmp();
        spoil(&place.path().join(NAMESPACE), kind);
        let fault = store.get_small(NAMESPACE, 1 << 20).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::NameTaken, "{kind}: {fault}");
        assert!(fault.text.contains(NAMESPACE), "{kind}: {fault}");
        let put = store.put_small(NAMESPACE, "n".into()).await;
        assert_eq!(put, Ok(Written::AlreadyPresent), "{kind}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_in_the_place_of_an_identity_keeps_nobody_from_the_store() {
    for kind in KINDS {
        let (place, store) = on_tmp();
        spoil(&place.path().join("v1/store"), kind);
        for direction in [Direction::Read, Direction::Write] {
            assert_eq!(store.probe(direction).await, Ok(()), "{kind}");
        }
        let put = store.put("v1/aa/00/x", aligned(&[1; 4096]), Mode::Create, hold());
        assert_eq!(put.await, Ok(Written::New), "{kind}");
    }
}

/// It had the highest number for ever, and nobody could sweep.
#[tokio::test]
async fn what_cannot_be_read_among_leases_is_an_empty_one_and_the_next_number_replaces_it() {
    for kind in KINDS {
        let (place, store) = on_tmp();
        spoil(&place.path().join(format!("{LEASE_NAME}.0000010000000000")), kind);
        // On mounts nothing of ours has this name.
        spoil(&place.path().join(LEASE_NAME), kind);
        let found = store.get_small(LEASE_NAME, 4096).await.unwrap().unwrap();
        assert_eq!(found.bytes.len(), 0, "{kind}");
        let again = store.get_small(LEASE_NAME, 4096).await.unwrap();
        assert_eq!(again.as_ref(), Some(&found), "{kind}: it stands still");
        let replaced = store.replace_small(LEASE_NAME, "next".into(), Some(found.version));
        assert!(matches!(replaced.await, Ok(Replaced::Done(_))), "{kind}");
        let now = store.get_small(LEASE_NAME, 4096).await.unwrap().unwrap();
        assert_eq!(&now.bytes[..], b"next", "{kind}");
    }
}
