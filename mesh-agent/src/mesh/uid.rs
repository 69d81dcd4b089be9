//! What a pod is told from all others by.
//!
//! Place in the walk: the key of most tables. Must not know: what a pod is.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The `metadata.uid` of a Pod: unlike its address or name it is never used again.
///
/// Each pod and each endpoint of a cluster has one, so it is kept as 16 bytes where it is a UUID, as those are that an API
/// server gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(Written);

/// How it was written; the same text is never kept in both ways.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Written {
    Uuid(Uuid),
    Otherwise(Arc<str>),
}

impl WorkloadUid {
    /// Wraps the uid as the API server printed it.
    pub fn new(uid: &str) -> Self {
        Self(uuid(uid).map_or_else(|| Written::Otherwise(uid.into()), Written::Uuid))
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Written::Uuid(uuid) => uuid.hyphenated().fmt(f),
            Written::Otherwise(text) => f.write_str(text),
        }
    }
}

/// `None` unless it would be printed as it was written.
fn uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    let mut buffer = Uuid::encode_buffer();
    let printed: &str = uuid.hyphenated().encode_lower(&mut buffer);
    (printed == text).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_printed_as_it_was_written_and_equal_to_no_other() {
        let written = [
            "0b6d3c5e-9d6a-4f7e-8a55-1c0de1f1a2b3",
            "0B6D3C5E-9D6A-4F7E-8A55-1C0DE1F1A2B3",
            "0b6d3c5e9d6a4f7e8a551c0de1f1a2b3",
            "0b6d3c5e-9d6a-4f7e-8a55-1c0de1f1a2b3-",
            "0b6d3c5e-9d6a-4f7e-8a55-1c0de1f1a2b",
            "0b6d3c5e+9d6a-4f7e-8a55-1c0de1f1a2b3",
            "0b6d3c5e-9d6a-4f7e-8a55-1c0de1f1a2bg",
            "shop/web",
            "",
        ];
        let uids: Vec<_> = written.iter().copied().map(WorkloadUid::new).collect();
        for (position, (uid, written)) in uids.iter().zip(written).enumerate() {
            assert_eq!(uid.to_string(), written);
            assert_eq!(matches!(uid.0, Written::Uuid(_)), position == 0, "{written}");
            let equal = uids.iter().filter(|other| *other == uid).count();
            assert_eq!(equal, 1, "{written}");
        }
    }
}
