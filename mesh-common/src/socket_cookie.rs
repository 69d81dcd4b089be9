//! The cookie of a socket, as `bpf_get_socket_cookie` and `inet_diag` name it.

use core::ffi::c_void;

/// Reads `SO_COOKIE` (Linux 4.12) of the socket `fd`; no other socket of this boot has the same.
///
/// Errors: the errno, `EBADF` when `fd` is no open descriptor.
pub fn socket_cookie(fd: i32) -> Result<u64, i32> {
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    let value: *mut c_void = (&raw mut cookie).cast();
    // SAFETY: `value` points to 8 writable bytes that outlive the call, and `len` says so.
    let code = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_COOKIE, value, &raw mut len) };
    if code == 0 {
        return Ok(cookie);
    }
    // SAFETY: errno's address is always valid for the calling thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; nothing else writes it between the failed call and this read.
    Err(unsafe { *errno })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::socket_cookie;

    #[test]
    fn two_sockets_have_two_cookies() {
        let (a, b) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let cookie = socket_cookie(a.as_raw_fd()).unwrap();
        assert_ne!(Ok(cookie), socket_cookie(b.as_raw_fd()));
        assert_eq!(Ok(cookie), socket_cookie(a.as_raw_fd()));
    }
}
