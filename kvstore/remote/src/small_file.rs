//! Reading files that somebody else writes, and that are small.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The bytes of a file, if it is one and has no more than these. An error is for people, and shows nothing of it.
pub fn read_small_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    // Looked at before it is opened: opening a pipe waits for somebody who writes into it.
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("too long, want at most {bytes_max} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_only_so_much_of_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read_small_file(&path, 100), Ok(vec![7; 100]));
        assert_eq!(
            read_small_file(&path, 99).unwrap_err(),
            "too long, want at most 99 bytes"
        );
        // As a Secret's files are in a pod.
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_small_file(&link, 100), Ok(vec![7; 100]));
        for other in [Path::new("/dev/zero"), place.path()] {
            assert_eq!(read_small_file(other, 100).unwrap_err(), "not a regular file");
        }
        // It says that it is empty, and is not.
        assert_eq!(
            read_small_file(Path::new("/proc/self/status"), 10).unwrap_err(),
            "too long, want at most 10 bytes"
        );
    }
}
