//! Node tokens in a directory: one file a node, named like the node. For machines without a Kubernetes API.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::private::{ReadableByOthers, owners_alone};
use super::{Authenticator, NodeName, NotAuthenticated};

/// Tokens of all nodes, read again on [`NodeTokens::reload`].
pub struct NodeTokens {
    dir: PathBuf,
    known: ArcSwap<Known>,
}

type Known = BTreeMap<NodeName, Zeroizing<String>>;

/// Why tokens cannot be used. A file that is wrong spoils all, so that a slip never lets a node in by another's token.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// A file or the directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may use it.
    #[error(transparent)]
    Open(#[from] ReadableByOthers),
    /// It is not one line of at least `MIN_TOKEN` printable characters.
    #[error("{} is not one line of {MIN_TOKEN} or more printable characters", .0.display())]
    Token(PathBuf),
    /// Two nodes have the same.
    #[error("nodes {0} and {1} have the same token")]
    Shared(NodeName, NodeName),
}

impl NodeTokens {
    /// Reads all tokens of `dir`. Blocks.
    pub fn open(dir: PathBuf) -> Result<Self, TokensError> {
        let known = read(&dir)?;
        Ok(Self {
            dir,
            known: ArcSwap::from_pointee(known),
        })
    }

    /// Reads them again; after an error those known stay in force. Blocks. Returns how many there are.
    pub fn reload(&self) -> Result<usize, TokensError> {
        let known = read(&self.dir)?;
        let count = known.len();
        self.known.store(known.into());
        Ok(count)
    }

    fn holder(&self, token: &str) -> Option<NodeName> {
        // All are compared, each in constant time: time tells neither the token nor the node.
        let known = self.known.load();
        let mut holder = None;
        for (node, expected) in known.iter() {
            if bool::from(expected.as_bytes().ct_eq(token.as_bytes())) {
                holder = Some(node.clone());
            }
        }
        holder
    }
}

impl Authenticator for NodeTokens {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<NodeName, NotAuthenticated>> {
        Box::pin(async move { self.holder(token).ok_or(NotAuthenticated::Unknown) })
    }
}

/// Never shows a token.
impl fmt::Debug for NodeTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTokens")
            .field("dir", &self.dir)
            .field("nodes", &self.known.load().len())
            .finish_non_exhaustive()
    }
}

fn read(dir: &Path) -> Result<Known, TokensError> {
    let mut known = Known::new();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TokensError::Read { path, source }
    };
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        // A Secret's own bookkeeping and editors' leftovers.
        if name.is_empty() || name.starts_with('.') || name.ends_with('~') || !path.is_file() {
            continue;
        }
        owners_alone(&path, &fs::metadata(&path).map_err(failed(&path))?)?;
        let text = Zeroizing::new(fs::read_to_string(&path).map_err(failed(&path))?);
        let token = text.trim();
        if token.len() < MIN_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokensError::Token(path));
        }
        let node = NodeName::new(name);
        if let Some((other, _)) = known.iter().find(|(_, known)| known.as_str() == token) {
            return Err(TokensError::Shared(other.clone(), node));
        }
        known.insert(node, Zeroizing::new(token.to_owned()));
    }
    Ok(known)
}

/// 128 bits in base 64 or hexadecimal.
const MIN_TOKEN: usize = 22;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn write(dir: &Path, node: &str, text: &str, mode: u32) {
        let path = dir.join(node);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn two_nodes() -> (tempfile::TempDir, NodeTokens) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "node-a", &format!("{A}\n"), 0o600);
        write(dir.path(), "node-b", B, 0o400);
        let tokens = NodeTokens::open(dir.path().to_owned()).unwrap();
        (dir, tokens)
    }

    #[test]
    fn a_token_names_its_node_and_nothing_else_does() {
        let (_dir, tokens) = two_nodes();
        assert_eq!(tokens.holder(A), Some(NodeName::new("node-a")));
        assert_eq!(tokens.holder(B), Some(NodeName::new("node-b")));
        for wrong in [
            "",
            &A[1..],
            "node-a",
            &format!("{A}a"),
            &format!("{A}\n"),
            &A.to_uppercase(),
        ] {
            assert_eq!(tokens.holder(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_token_that_is_taken_away_is_unknown_after_a_reload() {
        let (dir, tokens) = two_nodes();
        fs::remove_file(dir.path().join("node-a")).unwrap();
        assert_eq!(tokens.reload().unwrap(), 1);
        assert_eq!(tokens.holder(A), None);
    }

    #[test]
    fn a_directory_with_a_wrong_file_is_refused_and_changes_nothing() {
        let (dir, tokens) = two_nodes();
        for (text, mode) in [
            ("short", 0o600),
            ("", 0o600),
            (A, 0o600),
            ("cccccccccccccc cccccccccccccc", 0o600),
            ("dddddddddddddddddddddddddd", 0o644),
        ] {
            write(dir.path(), "node-c", text, mode);
            tokens.reload().unwrap_err();
        }
        assert_eq!(tokens.holder(A), Some(NodeName::new("node-a")));
    }

    #[test]
    fn debug_output_shows_no_token() {
        let (_dir, tokens) = two_nodes();
        let shown = format!("{tokens:?}");
        assert!(!shown.contains(A) && !shown.contains(B), "{shown}");
    }
}
