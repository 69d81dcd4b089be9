//! Bytes that show when any of them is lost, doubled or overtaken.

/// An endless row of bytes that does not repeat within what can wait in a socket.
#[derive(Debug)]
pub(super) struct Row {
    bytes: Vec<u8>,
}

impl Row {
    pub(super) fn new() -> Self {
        let mut random = Sizes::new();
        let bytes = (0..PERIOD).map(|_| random.next().to_le_bytes()[0]);
        Self {
            bytes: bytes.collect(),
        }
    }

    /// Up to `len` bytes from `at` on; at least one.
    pub(super) fn part(&self, at: usize, len: usize) -> &[u8] {
        let tail = self.bytes.get(at % PERIOD..).unwrap_or_default();
        tail.get(..len).unwrap_or(tail)
    }

    /// Whether `bytes` are those from `at` on.
    pub(super) fn has(&self, at: usize, bytes: &[u8]) -> bool {
        let mut done = 0;
        while let Some(left) = bytes.get(done..).filter(|left| !left.is_empty()) {
            let wanted = self.part(at + done, left.len());
            if left.get(..wanted.len()) != Some(wanted) {
                return false;
            }
            done += wanted.len();
        }
        true
    }
}

/// The same random numbers at every start.
pub(super) struct Sizes(u64);

impl Sizes {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The next number (xorshift64).
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A size from 1 to `most`.
    pub(super) fn up_to(&mut self, most: usize) -> usize {
        let number = usize::try_from(self.next() >> 8).unwrap_or_default();
        number.checked_rem(most).unwrap_or_default() + 1
    }
}

/// A prime number.
const PERIOD: usize = 1_048_583;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_where_it_is_and_nowhere_else() {
        let row = Row::new();
        let end = PERIOD - 3;
        assert_eq!(row.part(end, 10).len(), 3);
        let across: Vec<u8> = row.part(end, 3).iter().chain(row.part(0, 7)).copied().collect();
        assert!(row.has(end, &across));
        assert!(!row.has(end + 1, &across));
        assert!(row.has(5, &[]));
    }

    #[test]
    fn sizes_stay_within_their_bound() {
        let mut sizes = Sizes::new();
        assert!((0..1000).all(|_| (1..=7).contains(&sizes.up_to(7))));
    }
}
