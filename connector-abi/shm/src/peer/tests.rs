use std::{
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
};

use super::*;

const WATCHDOG: Duration = Duration::from_secs(20);

#[test]
fn this_process_at_the_other_end_is_known_and_alive() {
    let (one, two) = UnixStream::pair().unwrap();
    let peer = peer_credentials(one.as_fd()).unwrap();
    assert_eq!(peer.pid, Some(std::process::id()));
    let (process, again) = (
        PeerProcess::of_socket(one.as_fd()).unwrap(),
        PeerProcess::of_socket(two.as_fd()).unwrap(),
    );
    assert!(!process.is_dead().unwrap());
    assert!(process.is_same(&again).unwrap());
    assert_eq!(process.pid(), Some(std::process::id()));
}

#[test]
fn a_process_that_dies_fires_its_handle_however_that_was_got() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let process = PeerProcess::of_pid(Some(child.id())).unwrap();
    let (one, _two) = UnixStream::pair().unwrap();
    assert_eq!(process.source(), PidfdSource::Pid);
    assert!(!process.is_dead().unwrap());
    assert!(
        !process
            .is_same(&PeerProcess::of_socket(one.as_fd()).unwrap())
            .unwrap()
    );
    child.kill().unwrap();
    assert!(process.wait_dead(WATCHDOG).unwrap());
    child.wait().unwrap();
    assert!(process.is_dead().unwrap());
    assert!(matches!(
        PeerProcess::of_pid(Some(child.id())),
        Err(PeerError::Gone)
    ));
}

#[test]
fn a_peer_that_cannot_be_seen_is_an_error_and_not_pid_zero() {
    assert!(matches!(PeerProcess::of_pid(None), Err(PeerError::Invisible)));
}

#[test]
fn a_hang_up_is_seen_without_taking_anything_out_of_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let client = UnixStream::connect(directory.path().join("socket")).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert!(!hung_up(server.as_fd()).unwrap());
    drop(client);
    assert!(hung_up(server.as_fd()).unwrap());
}
