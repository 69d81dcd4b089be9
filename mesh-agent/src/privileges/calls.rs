//! System calls that an agent never makes once it serves, and that the kernel then refuses it.
//!
//! A list of what is refused and not of what is allowed: the latter would be a guess about every version of the C
//! library and the allocator, found wrong in production. Place in the walk: none. Must not know: who asks for it.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::PrivilegeError;

/// What is refused with EPERM, whatever the arguments.
pub const CALLS: &[(&str, c_long)] = &[
    // Other programs: the agent starts none.
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    // Other processes' memory, descriptors and threads.
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("process_madvise", libc::SYS_process_madvise),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("kcmp", libc::SYS_kcmp),
    // The kernel itself.
    ("kexec_load", libc::SYS_kexec_load),
    ("kexec_file_load", KEXEC_FILE_LOAD),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("reboot", libc::SYS_reboot),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("syslog", libc::SYS_syslog),
    // Its keys.
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("keyctl", libc::SYS_keyctl),
    // File systems: the BPF one is mounted before.
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("move_mount", libc::SYS_move_mount),
    ("open_tree", libc::SYS_open_tree),
    ("fsopen", libc::SYS_fsopen),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fspick", libc::SYS_fspick),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("mknodat", libc::SYS_mknodat),
    ("swapon", libc::SYS_swapon),
    ("swapoff", libc::SYS_swapoff),
    ("quotactl", libc::SYS_quotactl),
    ("acct", libc::SYS_acct),
    // Namespaces of its own: it enters those that there are.
    ("unshare", libc::SYS_unshare),
    // What belongs to the machine.
    ("sethostname", libc::SYS_sethostname),
    ("setdomainname", libc::SYS_setdomainname),
    ("settimeofday", libc::SYS_settimeofday),
    ("clock_settime", libc::SYS_clock_settime),
    ("clock_adjtime", libc::SYS_clock_adjtime),
    ("adjtimex", libc::SYS_adjtimex),
    ("personality", libc::SYS_personality),
    // Calls by another way, which no filter sees.
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    #[cfg(target_arch = "x86_64")]
    ("fork", libc::SYS_fork),
    #[cfg(target_arch = "x86_64")]
    ("vfork", libc::SYS_vfork),
    #[cfg(target_arch = "x86_64")]
    ("mknod", libc::SYS_mknod),
    #[cfg(target_arch = "x86_64")]
    ("iopl", libc::SYS_iopl),
    #[cfg(target_arch = "x86_64")]
    ("ioperm", libc::SYS_ioperm),
    #[cfg(target_arch = "x86_64")]
    ("modify_ldt", libc::SYS_modify_ldt),
];

/// Has the kernel refuse all threads of the process the calls of [`CALLS`] and new processes, for good.
///
/// Errors: the kernel has no such filters, or a thread of the process has other ones.
pub fn refuse_calls() -> Result<(), PrivilegeError> {
    for program in programs()? {
        seccompiler::apply_filter_all_threads(&program).map_err(PrivilegeError::Calls)?;
    }
    Ok(())
}

/// One filter for each answer.
fn programs() -> Result<[BpfProgram; 2], PrivilegeError> {
    let mut refused: BTreeMap<c_long, Vec<SeccompRule>> = CALLS
        .iter()
        .flat_map(|(_, call)| aliases(*call))
        .map(|call| (call, Vec::new()))
        .collect();
    for call in aliases(libc::SYS_clone) {
        refused.insert(call, vec![new_process()?]);
    }
    // Its flags lie in memory, where no filter can look. The C library starts threads by clone where the kernel has no
    // clone3, which this answer feigns.
    let absent = aliases(libc::SYS_clone3).map(|call| (call, Vec::new())).collect();
    Ok([program(refused, libc::EPERM)?, program(absent, libc::ENOSYS)?])
}

/// `clone` that makes no thread of this process.
fn new_process() -> Result<SeccompRule, PrivilegeError> {
    const THREAD: u64 = 0x0001_0000;
    let no_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(THREAD), 0);
    let rule = no_thread.and_then(|condition| SeccompRule::new(vec![condition]));
    rule.map_err(|error| PrivilegeError::Calls(error.into()))
}

fn program(calls: BTreeMap<c_long, Vec<SeccompRule>>, answer: i32) -> Result<BpfProgram, PrivilegeError> {
    let build = || -> Result<BpfProgram, seccompiler::BackendError> {
        let filter = SeccompFilter::new(
            calls,
            SeccompAction::Allow,
            SeccompAction::Errno(answer.unsigned_abs()),
            ARCH,
        )?;
        filter.try_into()
    };
    build().map_err(|error| PrivilegeError::Calls(error.into()))
}

/// A call and its number in the x32 ABI, which the filter's test of the architecture does not tell from x86-64
/// (seccomp(2)).
#[cfg(target_arch = "x86_64")]
fn aliases(call: c_long) -> impl Iterator<Item = c_long> {
    const X32: c_long = 0x4000_0000;
    // arch/x86/entry/syscalls/syscall_64.tbl: those of x32 alone.
    let own = match call {
        libc::SYS_execve => Some(520),
        libc::SYS_ptrace => Some(521),
        libc::SYS_kexec_load => Some(528),
        libc::SYS_process_vm_readv => Some(539),
        libc::SYS_process_vm_writev => Some(540),
        libc::SYS_execveat => Some(545),
        _ => None,
    };
    [call, call | X32].into_iter().chain(own.map(|own| own | X32))
}

#[cfg(not(target_arch = "x86_64"))]
fn aliases(call: c_long) -> impl Iterator<Item = c_long> {
    std::iter::once(call)
}

/// include/uapi/asm-generic/unistd.h; the crate `libc` does not name it for musl there.
#[cfg(all(target_arch = "aarch64", target_env = "musl"))]
const KEXEC_FILE_LOAD: c_long = 294;
#[cfg(not(all(target_arch = "aarch64", target_env = "musl")))]
const KEXEC_FILE_LOAD: c_long = libc::SYS_kexec_file_load;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

#[cfg(test)]
mod tests {
    use std::io;
    use std::process::Command;

    use nix::errno::Errno;

    use super::*;

    /// Runs `claim` on a thread of its own that has the filters; the other tests' threads have not.
    fn refused<T: Send + 'static>(claim: impl FnOnce() -> T + Send + 'static) -> T {
        let alone = std::thread::spawn(|| {
            for program in programs().unwrap() {
                seccompiler::apply_filter(&program).unwrap();
            }
            claim()
        });
        alone.join().unwrap()
    }

    #[test]
    fn no_program_takes_the_place_of_the_agent() {
        // Were it let through, this test would end with the exit code of that program.
        let error = refused(|| nix::unistd::execv(c"/bin/false", &[c"false"]).unwrap_err());
        assert_eq!(error, Errno::EPERM);
    }

    #[test]
    fn no_process_is_started() {
        let error = refused(|| Command::new("/bin/true").spawn().unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn no_namespace_is_made_and_no_debugger_attached() {
        use nix::sched::{CloneFlags, unshare};
        let error = refused(|| unshare(CloneFlags::CLONE_NEWUSER).unwrap_err());
        assert_eq!(error, Errno::EPERM);
    }

    #[test]
    fn threads_start_sockets_open_and_files_are_read() {
        refused(|| {
            let read = std::thread::spawn(|| std::fs::read_to_string("/proc/thread-self/status"));
            assert!(read.join().unwrap().unwrap().contains("Seccomp:\t2"));
            assert!(std::net::TcpListener::bind(("127.0.0.1", 0)).is_ok());
        });
    }

    #[test]
    fn each_call_is_named_once() {
        let mut numbers: Vec<_> = CALLS.iter().map(|(_, number)| number).collect();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), CALLS.len());
    }
}
