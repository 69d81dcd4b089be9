//! What a pod is told from all others by.
//!
//! Place in the walk: the key of most tables. Must not know: what a pod is.

use std::fmt;
use std::sync::Arc;

/// The `metadata.uid` of a Pod: unlike its address or name it is never used again.
///
/// Each pod and each endpoint of a cluster has one, so it is kept as 16 bytes where it is a UUID, as those are that an API
/// server gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(Written);

/// How it was written; the same text is never kept in both ways.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Written {
    Uuid([u8; 16]),
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
        let bytes = match &self.0 {
            Written::Uuid(bytes) => bytes,
            Written::Otherwise(text) => return f.write_str(text),
        };
        for (position, byte) in bytes.iter().enumerate() {
            let dash = if DASHES.contains(&position) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// `None` unless it would be printed as it was written: 8, 4, 4, 4 and 12 digits in lower case (RFC 9562 section 4).
fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.bytes();
    let mut bytes = [0; 16];
    for (position, byte) in bytes.iter_mut().enumerate() {
        if DASHES.contains(&position) && digits.next()? != b'-' {
            return None;
        }
        *byte = digit(digits.next()?)? << 4 | digit(digits.next()?)?;
    }
    digits.next().is_none().then_some(bytes)
}

fn digit(written: u8) -> Option<u8> {
    match written {
        b'0'..=b'9' => Some(written - b'0'),
        b'a'..=b'f' => Some(written - b'a' + 10),
        _ => None,
    }
}

/// The bytes that one stands before.
const DASHES: [usize; 4] = [4, 6, 8, 10];

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
