//! Bytes that show when any of them is lost, doubled or overtaken.
//!
//! It must not know how they are moved.

/// An endless row of bytes that does not repeat within what can wait in a socket.
#[derive(Debug)]
pub struct Row {
    bytes: Vec<u8>,
}

impl Row {
    /// The same row every time.
    pub fn new() -> Self {
        let mut random = Sizes::new();
        let bytes = (0..PERIOD).map(|_| random.next_number().to_le_bytes()[0]);
        Self {
            bytes: bytes.collect(),
        }
    }

    /// Up to `len` bytes from `at` on; at least one unless `len` is 0.
    pub fn part(&self, at: usize, len: usize) -> &[u8] {
        let tail = self.bytes.get(at % PERIOD..).unwrap_or_default();
        tail.get(..len).unwrap_or(tail)
    }

    /// How many of `bytes` are not those from `at` on.
    pub fn differences(&self, at: usize, bytes: &[u8]) -> u64 {
        let (mut done, mut differences) = (0, 0);
        while let Some(left) = bytes.get(done..).filter(|left| !left.is_empty()) {
            let wanted = self.part(at + done, left.len());
            if !left.starts_with(wanted) {
                let pairs = left.iter().zip(wanted);
                differences += pairs.map(|(one, other)| u64::from(one != other)).sum::<u64>();
            }
            done += wanted.len();
        }
        differences
    }
}

impl Default for Row {
    fn default() -> Self {
        Self::new()
    }
}

/// The same random numbers at every start.
#[derive(Debug)]
pub struct Sizes(u64);

impl Sizes {
    /// From the first number on.
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// A size from 1 to `most`.
    pub fn up_to(&mut self, most: usize) -> usize {
        let number = usize::try_from(self.next_number() >> 8).unwrap_or_default();
        number.checked_rem(most).unwrap_or_default() + 1
    }

    /// Xorshift of 64 bits.
    fn next_number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self::new()
    }
}

/// A prime number.
const PERIOD: usize = 1_048_583;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_is_not_in_its_place_is_counted() {
        let row = Row::new();
        let mut bytes = row.part(100, 1000).to_vec();
        assert_eq!(row.differences(100, &bytes), 0);
        bytes[5] ^= 1;
        bytes[999] ^= 1;
        assert_eq!(row.differences(100, &bytes), 2);
        assert!(row.differences(101, &bytes) > 900);
    }

    #[test]
    fn a_row_goes_on_behind_its_period() {
        let row = Row::new();
        let across: Vec<u8> = row
            .part(PERIOD - 3, 3)
            .iter()
            .chain(row.part(0, 7))
            .copied()
            .collect();
        assert_eq!(row.part(PERIOD - 3, 10).len(), 3);
        assert_eq!(row.differences(PERIOD - 3, &across), 0);
    }
}
