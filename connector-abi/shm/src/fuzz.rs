//! What the fuzz targets (`fuzz/`) and the replay of their corpus call: every decoder with any bytes.

use zerocopy::IntoBytes;

use crate::{AttachReply, AttachRequest, Completion, Frame, FrameKind, Keys, Request};

/// The bytes in memory that is aligned as messages are; what does not fill eight bytes is left out.
fn aligned(data: &[u8]) -> Vec<u64> {
    let (words, _) = data.as_chunks::<8>();
    words.iter().map(|&word| u64::from_ne_bytes(word)).collect()
}

/// Goes through all that a batch of keys names.
fn walk(keys: &Keys<'_>) -> usize {
    keys.groups().map(|group| group.hashes.len()).sum()
}

/// A message of a client.
///
/// # Panics
/// When a batch of keys has not as many as it says.
pub fn request(data: &[u8]) {
    let memory = aligned(data);
    let request = Request::decode(memory.as_slice().as_bytes());
    if let Ok(Request::ReserveDescribed { runs, .. }) = &request {
        for run in runs.iter() {
            let tokens = run.blocks as usize * run.tokens_per_block as usize;
            assert_eq!(run.tokens.len(), tokens, "a run has other tokens than it says");
        }
    }
    if let Ok(
        Request::Lookup { keys, .. } | Request::Reserve { keys, .. } | Request::ReserveDescribed { keys, .. },
    ) = request
    {
        assert_eq!(
            walk(&keys),
            keys.hash_count(),
            "a batch of keys has another length than it says"
        );
    }
}

/// A message of the daemon.
pub fn completion(data: &[u8]) {
    let memory = aligned(data);
    if let Ok(completion) = Completion::decode(memory.as_slice().as_bytes()) {
        // All of it can be shown.
        let _ = format!("{completion:?}");
    }
}

/// The body of a handshake's frame; its first byte chooses which.
pub fn handshake(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else {
        return;
    };
    let frame = |kind: FrameKind| Frame {
        abi_major: crate::ABI_MAJOR,
        abi_minor: crate::ABI_MINOR,
        kind: kind.code(),
        body: body.to_vec(),
        fds: Vec::new(),
    };
    if choice.is_multiple_of(2) {
        if let Ok(request) = AttachRequest::decode(&frame(FrameKind::AttachRequest)) {
            let _ = request.encode();
        }
    } else if let Ok(reply) = AttachReply::decode(&frame(FrameKind::AttachReply)) {
        let _ = reply.encode();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 3] = [
        ("request", request),
        ("completion", completion),
        ("handshake", handshake),
    ];

    #[test]
    fn the_corpus_of_the_fuzz_targets_is_handled() {
        for (name, target) in TARGETS {
            let place = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../fuzz/corpus")
                .join(name);
            let mut count = 0;
            for entry in fs::read_dir(&place).unwrap() {
                target(&fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count >= 3, "{}: want some files, got {count}", place.display());
        }
    }
}
