//! The four calls of `bpf(2)` on links that aya has no safe name for: open a pin, pin, change the program, detach.
//!
//! Errors are the errno.

extern crate std;

use core::ffi::{CStr, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Opens what is pinned at `path`. Errors: `ENOENT` when nothing is.
pub fn open_pinned(path: &CStr) -> Result<OwnedFd, i32> {
    let fd = bpf(OBJ_GET, &mut PinAttr::of(path, 0))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins `link` at `path`, which must lie on a BPF file system.
pub fn pin(link: BorrowedFd<'_>, path: &CStr) -> Result<(), i32> {
    bpf(OBJ_PIN, &mut PinAttr::of(path, link.as_raw_fd())).map(drop)
}

/// Puts `program` in the place of the one that `link` holds at its hook: no packet meets neither or both.
/// Errors: `ENOLINK` when the cgroup or namespace is gone.
pub fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), i32> {
    let mut attr = UpdateAttr {
        link: link.as_raw_fd(),
        program: program.as_raw_fd(),
        flags: 0,
        old_program: 0,
    };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Takes the program away from its hook, whoever else holds `link`. Doing it twice is no error.
pub fn detach(link: BorrowedFd<'_>) -> Result<(), i32> {
    let mut attr = DetachAttr {
        link: link.as_raw_fd(),
    };
    bpf(LINK_DETACH, &mut attr).map(drop)
}

/// What `BPF_OBJ_PIN` and `BPF_OBJ_GET` read of `union bpf_attr`.
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: i32,
    flags: u32,
}

impl PinAttr {
    fn of(path: &CStr, fd: i32) -> Self {
        let path = u64::try_from(path.as_ptr().addr()).unwrap_or_default();
        Self { path, fd, flags: 0 }
    }
}

/// What `BPF_LINK_UPDATE` reads of it.
#[repr(C)]
struct UpdateAttr {
    link: i32,
    program: i32,
    flags: u32,
    old_program: u32,
}

/// What `BPF_LINK_DETACH` reads of it.
#[repr(C)]
struct DetachAttr {
    link: i32,
}

fn bpf<A>(command: c_long, attr: &mut A) -> Result<i32, i32> {
    let attr: *mut A = attr;
    // SAFETY: `attr` points to `size_of::<A>()` readable and writable bytes without padding; the kernel takes the rest
    // of its union for zero. The only address in it is that of a C string which the caller borrows over the call.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<A>()) };
    if code >= 0 {
        return Ok(i32::try_from(code).unwrap_or(i32::MAX));
    }
    // SAFETY: errno's address is always valid for the calling thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; nothing else writes it between the failed call and this read.
    Err(unsafe { *errno })
}

// `enum bpf_cmd` of include/uapi/linux/bpf.h.
const OBJ_PIN: c_long = 6;
const OBJ_GET: c_long = 7;
const LINK_UPDATE: c_long = 29;
const LINK_DETACH: c_long = 34;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_no_pin_and_what_is_no_link_are_errors() {
        let nowhere = c"/nonexistent/pin";
        assert!(open_pinned(nowhere).is_err());
        let file = File::open("/dev/null").unwrap();
        assert!(pin(file.as_fd(), nowhere).is_err());
        assert!(update(file.as_fd(), file.as_fd()).is_err());
        assert!(detach(file.as_fd()).is_err());
    }
}
