//! What the driver says when it refuses something, and whether the device can still be trusted to end what it began.

use super::driver::Status;
use crate::ClientError;

/// A call of the driver that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {name} ({status}): {text}")]
pub struct DriverError {
    /// The driver's function.
    pub call: &'static str,
    /// Its answer.
    pub status: i32,
    /// The name of that answer.
    pub name: String,
    /// The driver's sentence about it.
    pub text: String,
}

pub(super) const INVALID_VALUE: Status = 1;
pub(super) const NOT_READY: Status = 600;
pub(super) const NOT_SUPPORTED: Status = 801;
/// Answers that say that some thread records a graph: they are about the call, not about what it asked for.
const CAPTURE: std::ops::RangeInclusive<Status> = 900..=908;

/// Answers after which the context does no more work, whoever caused them.
const LOST: [Status; 22] = [
    4,   // deinitialised: the process ends
    46,  // the device is unavailable
    214, // uncorrectable ECC error
    220, // uncorrectable NVLink error
    226, // contained error
    700, // illegal address
    702, // launch timed out
    709, // the context was destroyed
    710, // a kernel's assertion
    714, // hardware stack error
    715, // illegal instruction
    716, // misaligned address
    717, // invalid address space
    718, // invalid program counter
    719, // launch failed
    721, // tensor memory leak
    805, // MPS: connection failed
    806, // MPS: call failed
    807, // MPS: server not ready
    810, // MPS: client terminated
    802, // the system is not ready
    999, // unknown
];

impl DriverError {
    /// Whether the device does no more work. What it was copying may or may not be over.
    pub(super) fn is_loss(&self) -> bool {
        LOST.contains(&self.status)
    }

    /// Whether the answer is about a graph that is being captured.
    pub(super) fn is_capture(&self) -> bool {
        CAPTURE.contains(&self.status)
    }
}

impl From<DriverError> for ClientError {
    fn from(error: DriverError) -> Self {
        if error.is_loss() {
            return Self::DeviceLost(error.to_string());
        }
        Self::Device(error)
    }
}
