//! A client that has the descriptors in its own hands, so that it can do what the library would not.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use connector_shm::{AttachReply, AttachRequest, FrameReader};

/// Where the client's cursor of the request ring lies in the control memory.
pub(crate) const REQUEST_TAIL: u64 = 128;
/// Where the request ring begins.
pub(crate) const REQUEST_RING: u64 = 4096;

/// An attached client without a library.
pub(crate) struct RawClient {
    pub(crate) socket: UnixStream,
    pub(crate) control: OwnedFd,
    pub(crate) doorbell: UnixStream,
}

impl RawClient {
    pub(crate) fn open(socket: &Path, request: &AttachRequest) -> Self {
        let mut socket = UnixStream::connect(socket).unwrap();
        socket.write_all(&request.encode().unwrap()).unwrap();
        let mut reader = FrameReader::with_fds(3);
        let frame = super::eventually("the daemon's reply", || reader.advance(socket.as_fd()).unwrap());
        assert_eq!(AttachReply::decode(&frame).unwrap().text, "");
        let mut fds = frame.fds.into_iter();
        let (control, _region, doorbell) = (fds.next().unwrap(), fds.next().unwrap(), fds.next().unwrap());
        Self {
            socket,
            control,
            doorbell: doorbell.into(),
        }
    }

    /// Writes over the control memory.
    pub(crate) fn scribble(&self, bytes: &[u8], offset: u64) {
        assert_eq!(
            rustix::io::pwrite(&self.control, bytes, offset).unwrap(),
            bytes.len()
        );
    }

    /// Wakes the daemon. A daemon that has hung up already is as awake as it gets.
    pub(crate) fn ring(&mut self) {
        let _ = self.doorbell.write_all(&[1]);
    }

    /// Waits until the daemon has hung up.
    pub(crate) fn wait_hung_up(&self) {
        super::eventually("the daemon hangs up", || {
            connector_shm::hung_up(self.socket.as_fd()).unwrap().then_some(())
        });
    }
}
