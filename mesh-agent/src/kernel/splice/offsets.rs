//! Where the running kernel keeps what the programs of the splice read, by the kernel's own description (BTF).
//!
//! Must not know: what the programs do with it. Format: <https://docs.kernel.org/bpf/btf.html>.

use std::path::Path;

/// Offsets in bytes of members of the kernel's structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// `tcp_sock.write_seq`.
    pub write_seq: u32,
    /// `tcp_sock.copied_seq`.
    pub copied_seq: u32,
}

impl Offsets {
    /// Asks the running kernel. Errors: it has no description of itself, or knows no such members.
    pub fn of_this_kernel() -> Result<Self, String> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let bytes = std::fs::read(path).map_err(|error| format!("open {}: {error}", path.display()))?;
        Self::of(&bytes)
    }

    fn of(bytes: &[u8]) -> Result<Self, String> {
        let btf = Description::of(bytes).ok_or("the kernel's BTF cannot be read")?;
        let tcp = |member| btf.offset("tcp_sock", member);
        let (Some(write_seq), Some(copied_seq)) = (tcp("write_seq"), tcp("copied_seq")) else {
            return Err("the kernel's BTF lacks members of tcp_sock".into());
        };
        Ok(Self {
            write_seq,
            copied_seq,
        })
    }
}

/// The type and string sections.
struct Description<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Description<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut header = Words(bytes);
        let magic_and_version = header.next()?.to_ne_bytes();
        let [magic_low, magic_high, _, _] = magic_and_version;
        if u16::from_ne_bytes([magic_low, magic_high]) != MAGIC {
            return None;
        }
        let body = bytes.get(size(header.next()?)..)?;
        let (type_at, type_len) = (header.next()?, header.next()?);
        let (string_at, string_len) = (header.next()?, header.next()?);
        let section = |at, len| body.get(size(at)..)?.get(..size(len));
        Some(Self {
            types: section(type_at, type_len)?,
            strings: section(string_at, string_len)?,
        })
    }

    /// Offset of a member of a structure, in bytes; `None` for a bit field.
    fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let mut words = Words(self.types);
        loop {
            let (name, info, _) = (words.next()?, words.next()?, words.next()?);
            let (kind, count, has_bit_fields) = ((info >> 24) & 0x1f, info & 0xffff, info >> 31 == 1);
            if kind != STRUCT || !self.is_named(name, structure) {
                words.skip(trailing_words(kind, count)?)?;
                continue;
            }
            for _ in 0..count {
                let (name, _, bits) = (words.next()?, words.next()?, words.next()?);
                if self.is_named(name, member) {
                    return in_bytes(bits, has_bit_fields);
                }
            }
            return None;
        }
    }

    fn is_named(&self, at: u32, name: &str) -> bool {
        let text = self.strings.get(size(at)..).unwrap_or_default();
        text.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// The offset of a member in whole bytes; where there are bit fields its upper byte is their size.
fn in_bytes(bits: u32, has_bit_fields: bool) -> Option<u32> {
    let bits = if has_bit_fields { bits & 0x00ff_ffff } else { bits };
    (bits % 8 == 0).then_some(bits / 8)
}

/// How many words follow the three of every type; `None` for a kind that nobody knows.
fn trailing_words(kind: u32, count: u32) -> Option<u32> {
    Some(match kind {
        // Pointers, names and functions say all in the first three.
        2 | 7..=12 | 16 | 18 => 0,
        // An integer, a variable, a tag.
        1 | 14 | 17 => 1,
        // An array.
        3 => 3,
        // Structures, unions, sections, 64-bit enumerations.
        STRUCT | 5 | 15 | 19 => count.checked_mul(3)?,
        // Enumerations, parameters.
        6 | 13 => count.checked_mul(2)?,
        _ => return None,
    })
}

/// Reads words in the machine's byte order, as the kernel writes them for itself.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*word))
    }

    fn skip(&mut self, words: u32) -> Option<()> {
        self.0 = self.0.get(size(words).checked_mul(4)?..)?;
        Some(())
    }
}

/// An offset or length as an index; what does not fit is beyond every section.
fn size(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// `int`, a pointer, `socket { sk }`, `tcp_sock { write_seq, copied_seq }` in a description made by hand.
    fn description(copied_seq_bits: u32) -> Vec<u8> {
        let strings = b"\0int\0socket\0sk\0tcp_sock\0write_seq\0copied_seq\0".to_vec();
        let at = |name: &str| {
            let wanted = [b"\0", name.as_bytes(), b"\0"].concat();
            let found = strings.windows(wanted.len()).position(|window| window == wanted);
            u32::try_from(found.unwrap() + 1).unwrap()
        };
        let types: Vec<u32> = vec![
            at("int"),
            1 << 24,
            4,
            0x20,
            0,
            2 << 24,
            1,
            at("socket"),
            4 << 24 | 1,
            32,
            at("sk"),
            2,
            24 * 8,
            at("tcp_sock"),
            4 << 24 | 2,
            2000,
            at("write_seq"),
            1,
            1500 * 8,
            at("copied_seq"),
            1,
            copied_seq_bits,
        ];
        let type_len = u32::try_from(types.len() * 4).unwrap();
        let string_len = u32::try_from(strings.len()).unwrap();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let header = [24, 0, type_len, type_len, string_len];
        let words = header.into_iter().chain(types);
        bytes.extend(words.flat_map(u32::to_ne_bytes));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn finds_members_behind_other_types() {
        assert_eq!(
            Offsets::of(&description(1508 * 8)),
            Ok(Offsets {
                write_seq: 1500,
                copied_seq: 1508
            })
        );
    }

    #[test]
    fn a_bit_field_has_no_offset() {
        assert!(Offsets::of(&description(1508 * 8 + 3)).is_err());
    }

    #[test]
    fn what_is_cut_short_is_an_error_and_no_panic() {
        let whole = description(1508 * 8);
        for len in 0..whole.len() - 1 {
            assert!(Offsets::of(whole.get(..len).unwrap()).is_err(), "{len}");
        }
    }
}
