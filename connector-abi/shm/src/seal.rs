//! Memfds that cannot change their size.

use std::{io, os::fd::BorrowedFd};

use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat};

/// Fixes the size for ever: whoever maps the file cannot be made to touch a page that is gone.
pub(crate) fn seal_size(fd: BorrowedFd<'_>) -> io::Result<()> {
    fcntl_add_seals(fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(())
}

/// The size of a file that cannot shrink; `None` if it can.
pub(crate) fn sealed_size(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    // What has no seals at all (a pipe, a plain file) is refused with EINVAL, which is the same answer.
    let sealed = fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    let size = u64::try_from(fstat(fd)?.st_size).unwrap_or(0);
    Ok(sealed.then_some(size))
}
