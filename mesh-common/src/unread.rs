//! How many bytes wait in a socket, as `ioctl(FIONREAD)` and with it Java's `available()` say.

/// Asks the socket `fd`.
///
/// Errors: the errno, `EBADF` when `fd` is no open descriptor, `ENOTTY` when it is nothing that can be asked.
pub fn unread(fd: i32) -> Result<u32, i32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one `int`, which outlives it.
    let code = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) };
    if code == 0 {
        return Ok(bytes.unsigned_abs());
    }
    // SAFETY: errno's address is always valid for the calling thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; nothing else writes it between the failed call and this read.
    Err(unsafe { *errno })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;

    use super::unread;

    #[test]
    fn counts_what_was_sent_and_not_read() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        assert_eq!(unread(reader.as_raw_fd()), Ok(0));
        writer.write_all(b"hello").unwrap();
        assert_eq!(unread(reader.as_raw_fd()), Ok(5));
    }

    #[test]
    fn a_closed_descriptor_is_an_error() {
        assert_eq!(unread(-1), Err(libc::EBADF));
    }
}
