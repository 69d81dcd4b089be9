//! How soon a thread runs again once it is woken, and how much of a core it gets beside others.

/// Asks the kernel for a time slice of `nanoseconds` for the calling thread (`sched_setattr(2)`, `sched_runtime`): since Linux 6.12
/// a thread that is woken interrupts one whose slice is longer, as long as it has not had more than its share. The kernel
/// keeps it within 0.1 and 100 ms. Earlier kernels take no notice.
///
/// Class and nice value stay as they are; a thread of a real-time class is left alone.
///
/// Errors: the errno, `EPERM` where a filter of system calls forbids it.
pub fn set_time_slice(nanoseconds: u64) -> Result<(), i32> {
    change(|attributes| attributes.runtime = nanoseconds)
}

/// Gives the calling thread the nice value `nice` (`sched(7)`), -20 to 19: with each step up it weighs a fifth less against the other
/// threads of its cgroup. Its time slice is the kernel's own again.
///
/// Class and time slice as with [`set_time_slice`]: a thread of a real-time class is left alone.
///
/// Errors: the errno, `EPERM` or `EACCES` for one that is below the thread's own without `CAP_SYS_NICE`.
pub fn set_nice(nice: i32) -> Result<(), i32> {
    change(|attributes| {
        attributes.nice = nice;
        attributes.runtime = 0;
    })
}

fn change(change: impl FnOnce(&mut SchedAttr)) -> Result<(), i32> {
    let mut attributes = SchedAttr::default();
    // SAFETY: the pointer is to `SIZE` writable bytes that outlive the call; 0 names the calling thread.
    let code = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    errno_of(code)?;
    if attributes.policy != libc::SCHED_OTHER.unsigned_abs()
        && attributes.policy != libc::SCHED_BATCH.unsigned_abs()
    {
        return Ok(());
    }
    attributes.size = SIZE;
    change(&mut attributes);
    // SAFETY: the pointer is to `SIZE` readable bytes that outlive the call; 0 names the calling thread.
    let code = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    errno_of(code)
}

fn errno_of(code: libc::c_long) -> Result<(), i32> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: errno's address is always valid for the calling thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; nothing else writes it between the failed call and this read.
    Err(unsafe { *errno })
}

/// `struct sched_attr` of linux/sched/types.h, as far as all kernels know it (`SCHED_ATTR_SIZE_VER0`).
#[repr(C)]
#[derive(Debug, Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Bytes of it.
const SIZE: u32 = 48;

const _: () = assert!(size_of::<SchedAttr>() == 48);

#[cfg(test)]
mod tests {
    extern crate std;
    use std::fs;
    use std::string::String;

    use super::*;

    /// What the kernel says of the calling thread: "se.slice : 100000" (proc(5), sched).
    fn slice() -> Option<u64> {
        let text = fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = text.lines().find(|line| line.starts_with("se.slice"))?;
        let value: String = line.chars().filter(char::is_ascii_digit).collect();
        value.parse().ok()
    }

    #[test]
    fn a_thread_gets_the_slice_that_it_asks_for() {
        let Some(before) = slice() else {
            // Kernels before 6.8, or without its debugging files, do not tell.
            assert_eq!(set_time_slice(100_000), Ok(()));
            return;
        };
        assert_ne!(before, 100_000);
        set_time_slice(100_000).unwrap();
        assert_eq!(slice(), Some(100_000));
    }

    #[test]
    fn a_thread_is_as_nice_as_it_asks_to_be() {
        // Field 19 of proc(5), stat; the name before it may hold anything.
        let nice = || {
            let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
            let after_name = stat.rsplit_once(')').unwrap().1;
            after_name
                .split_whitespace()
                .nth(16)
                .unwrap()
                .parse::<i32>()
                .unwrap()
        };
        let wanted = (nice() + 3).min(19);
        set_nice(wanted).unwrap();
        assert_eq!(nice(), wanted);
    }
}
