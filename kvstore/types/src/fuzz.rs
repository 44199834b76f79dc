//! What the fuzz targets (`fuzz/`) and the replay of their corpus call.
#![allow(
    clippy::missing_panics_doc,
    reason = "a property that does not hold is a panic, which is what a fuzzer looks for"
)]

use crate::BlockDescriptor;

/// A block's descriptor: whatever is accepted has been understood, so encoding it makes the same bytes.
pub fn descriptor(data: &[u8]) {
    if let Ok(descriptor) = BlockDescriptor::decode(data) {
        let again = descriptor.encode().map(|bytes| bytes.as_bytes().to_vec());
        assert!(
            again.as_deref() == Ok(data),
            "a block descriptor has two encodings"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_corpus_of_the_fuzz_target_is_handled() {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/descriptor");
        let mut good = 0;
        for entry in fs::read_dir(&place).unwrap() {
            let data = fs::read(entry.unwrap().path()).unwrap();
            super::descriptor(&data);
            good += usize::from(crate::BlockDescriptor::decode(&data).is_ok());
        }
        assert!(
            good >= 3,
            "{}: want some that are good, got {good}",
            place.display()
        );
    }
}
