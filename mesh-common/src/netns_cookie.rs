//! The cookie of a network namespace, as `bpf_get_netns_cookie` names it in the kernel.

use core::ffi::c_void;

/// Reads `SO_NETNS_COOKIE` (Linux 5.14) of the namespace that the socket `fd` lives in.
///
/// Errors: the errno, `ENOPROTOOPT` on kernels before 5.14, `EBADF` when `fd` is no open descriptor.
pub fn netns_cookie(fd: i32) -> Result<u64, i32> {
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    let value: *mut c_void = (&raw mut cookie).cast();
    // SAFETY: `value` points to 8 writable bytes that outlive the call, and `len` says so.
    let code = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut len) };
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

    use super::netns_cookie;

    #[test]
    fn two_sockets_of_one_namespace_share_a_cookie() {
        let (a, b) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let cookie = netns_cookie(a.as_raw_fd()).unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(netns_cookie(b.as_raw_fd()), Ok(cookie));
    }

    #[test]
    fn a_closed_descriptor_is_an_error() {
        assert_eq!(netns_cookie(-1), Err(libc::EBADF));
    }
}
