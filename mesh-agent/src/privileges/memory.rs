//! Who may look into the process, and what programs that it starts may do.
//!
//! Place in the walk: none. Must not know: which secrets there are.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// No core dump, and nobody without `CAP_SYS_PTRACE` attaches or reads the memory (prctl(2), `PR_SET_DUMPABLE`): keys and
/// tokens stay where they are.
pub(super) fn keep_secret() -> Result<(), Errno> {
    prctl::set_dumpable(false)?;
    // A pattern of core(5) that begins with a pipe heeds only the first.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// A program that the process starts gets no more than it has, whatever the program's file says.
pub(super) fn no_new_privileges() -> Result<(), Errno> {
    prctl::set_no_new_privs()
}

pub(super) fn has_no_new_privileges() -> Result<bool, Errno> {
    prctl::get_no_new_privs()
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::getrlimit;

    use super::*;

    #[test]
    fn memory_is_in_no_core_dump_and_closed_to_debuggers() {
        keep_secret().unwrap();
        assert!(!prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }

    #[test]
    fn programs_get_no_new_privileges() {
        std::thread::spawn(|| {
            no_new_privileges().unwrap();
            assert!(has_no_new_privileges().unwrap());
        })
        .join()
        .unwrap();
    }
}
