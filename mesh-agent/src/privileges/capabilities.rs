//! The capability sets of a thread.
//!
//! Place in the walk: none. Must not know: which are needed, and why.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// Names of those of `wanted` that the process is not permitted; sorted.
pub(super) fn missing(wanted: &CapsHashSet) -> Result<Vec<String>, CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    Ok(names(wanted.difference(&permitted)))
}

/// Names of those that the process is permitted; sorted.
pub(super) fn permitted() -> Result<Vec<String>, CapsError> {
    Ok(names(caps::read(None, CapSet::Permitted)?.iter()))
}

/// Gives up all but `kept` in every set: for good, since neither the bounding nor the permitted set can grow.
pub(super) fn keep(kept: &CapsHashSet) -> Result<(), CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    // Only who has CAP_SETPCAP can shrink the bounding set. It bounds what programs get that are started, and without
    // new privileges they get nothing.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for unneeded in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *unneeded)?;
        }
    }
    caps::clear(None, CapSet::Inheritable)?;
    // The permitted set may not shrink below the effective one.
    caps::set(None, CapSet::Effective, kept)?;
    caps::set(None, CapSet::Permitted, kept)
}

fn names<'c>(capabilities: impl Iterator<Item = &'c Capability>) -> Vec<String> {
    let mut names: Vec<_> = capabilities.map(ToString::to_string).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets belong to threads, so each claim has one of its own.
    fn alone<T: Send + 'static>(claim: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(claim).join().unwrap()
    }

    fn set(of: CapSet) -> CapsHashSet {
        caps::read(None, of).unwrap()
    }

    #[test]
    fn nothing_is_left_in_any_set_but_what_is_kept() {
        alone(|| {
            let before = set(CapSet::Permitted);
            let kept: CapsHashSet = before.iter().copied().take(1).collect();
            keep(&kept).unwrap();
            assert_eq!(
                (set(CapSet::Permitted), set(CapSet::Effective)),
                (kept.clone(), kept.clone())
            );
            assert_eq!(
                (set(CapSet::Inheritable), set(CapSet::Ambient)),
                (CapsHashSet::new(), CapsHashSet::new())
            );
            if before.contains(&Capability::CAP_SETPCAP) {
                assert!(set(CapSet::Bounding).is_subset(&kept));
            }
        });
    }

    #[test]
    fn what_was_given_up_does_not_come_back() {
        alone(|| {
            keep(&CapsHashSet::new()).unwrap();
            let wanted: CapsHashSet = [Capability::CAP_SYS_ADMIN].into();
            assert!(caps::set(None, CapSet::Permitted, &wanted).is_err());
            assert_eq!(missing(&wanted).unwrap(), ["CAP_SYS_ADMIN"]);
        });
    }
}
