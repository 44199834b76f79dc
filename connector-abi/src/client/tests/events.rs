//! Block events, and the credit for them.

use super::*;

#[test]
fn events_come_to_whom_asks_for_them() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    session.request_events(8).unwrap();
    assert_eq!(peer.hear(), Request::Events { credit: 8 });
    for batch in [Some(&[0x93, 1, 0x90, 0xc0][..]), None] {
        peer.say(&Completion::Events { batch });
        assert_eq!(session.poll().unwrap(), Some(Completion::Events { batch }));
    }
    let refused = session.request_events(0).unwrap_err().to_string();
    assert!(refused.contains("credit: want at least 1, got 0"), "{refused}");
}

#[test]
fn a_daemon_that_is_too_old_is_not_asked() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    session.pretend_daemon_minor(2);
    let refused = session.request_events(1).unwrap_err();
    assert!(matches!(refused, ClientError::Unsupported(_)), "{refused}");
    assert!(peer.hears_nothing());
}
