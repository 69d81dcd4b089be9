//! Files that hold a secret: nobody but their owner may use them.
//!
//! Place in the walk: none; asked before a key or a token is read. Must not know: what the file is for.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Others than the owner may read a file that holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} may be read by others (mode {mode:03o}); set it to 600", path.display())]
pub struct ReadableByOthers {
    /// Which file.
    path: PathBuf,
    /// Its permissions.
    mode: u32,
}

/// Errors: group or others have any right to the file at `path`, which `metadata` is of.
pub(super) fn owners_alone(path: &Path, metadata: &Metadata) -> Result<(), ReadableByOthers> {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ReadableByOthers {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn any_right_of_others_is_named_and_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, is_private) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o602, false),
            (0o601, false),
        ] {
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let judged = owners_alone(file.path(), &fs::metadata(file.path()).unwrap());
            assert_eq!(judged.is_ok(), is_private, "{mode:o}");
            if let Err(error) = judged {
                assert!(error.to_string().contains(&format!("mode {mode:03o}")), "{error}");
            }
        }
    }
}
