//! What is said of the requests behind messages.

use connector_shm::TraceContext;

use super::*;

const CONTEXT: TraceContext = TraceContext {
    trace_id: [1; 16],
    span_id: [2; 8],
    keys: 0,
    zero: 0,
};

#[test]
fn a_look_up_is_preceded_by_whose_it_is() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    assert_eq!(session.traces_below(), Some(1 << 62));
    session.trace_next(7, &[CONTEXT]).unwrap();
    session.lookup(7, &[], 16).unwrap();
    let Request::Trace {
        tag,
        sent_ns,
        contexts,
    } = peer.hear()
    else {
        panic!("no trace came first");
    };
    assert_eq!((tag.0, contexts), (7, &[CONTEXT][..]));
    assert!(sent_ns > 0);
    assert!(matches!(peer.hear(), Request::Lookup { tag, .. } if tag.0 == 7));
}

#[test]
fn traces_without_sense_are_refused() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    let refused = session.trace_next(1, &[]).unwrap_err().to_string();
    assert!(
        refused.contains("context_count: want 1 to 256, got 0"),
        "{refused}"
    );
    let padded = TraceContext { zero: 1, ..CONTEXT };
    let refused = session.trace_next(1, &[padded]).unwrap_err().to_string();
    assert!(
        refused.contains("contexts[0].reserved: want 0, got 1"),
        "{refused}"
    );
    assert!(peer.hears_nothing());
}

#[test]
fn a_daemon_that_is_too_old_is_told_of_no_traces() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    session.pretend_daemon_minor(3);
    assert_eq!(session.traces_below(), None);
    let refused = session.trace_next(1, &[CONTEXT]).unwrap_err();
    assert!(matches!(refused, ClientError::Unsupported(_)), "{refused}");
    assert!(peer.hears_nothing());
}
