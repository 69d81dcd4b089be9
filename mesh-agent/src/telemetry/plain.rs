//! Lines that only say something: what a terminal, an editor or a log viewer would obey is spelled out.
//!
//! JSON escapes ASCII's control characters and no others: U+009B begins a terminal's escape sequence too, and U+202E
//! turns the rest of a line round (CVE-2021-42574). Place in the walk: under both logs. Must not know: what is logged.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Longest value of a peer's that is kept for a log line, in bytes: what waits to be written is bounded by it.
pub const MAX_VALUE: usize = 2_048;

/// `lines` of JSON or of plain text with everything but printable characters and line ends as `\uXXXX`.
pub fn harmless(lines: &[u8]) -> Cow<'_, [u8]> {
    if lines.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) {
        return Cow::Borrowed(lines);
    }
    let lines = String::from_utf8_lossy(lines);
    if !lines.contains(is_obeyed) {
        return Cow::Owned(lines.into_owned().into_bytes());
    }
    let spelled = lines
        .chars()
        .fold(String::with_capacity(lines.len()), |mut text, char| {
            if is_obeyed(char) {
                // A string takes everything.
                write!(text, "\\u{:04x}", u32::from(char)).ok();
            } else {
                text.push(char);
            }
            text
        });
    Cow::Owned(spelled.into_bytes())
}

/// `text`, or as much of it as a log line shows.
pub fn clipped(text: &str) -> String {
    if text.len() <= MAX_VALUE {
        return text.to_owned();
    }
    let kept = text.floor_char_boundary(MAX_VALUE);
    format!("{}…", text.get(..kept).unwrap_or_default())
}

/// Control characters, and what changes direction or line without being seen.
fn is_obeyed(char: char) -> bool {
    let is_format = matches!(
        char,
        '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    );
    is_format || (char.is_control() && char != '\n')
}

/// Writes whole lines, harmless.
#[derive(Debug)]
pub(super) struct Plain<W>(pub(super) W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.write_all(&harmless(lines))?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        String::from_utf8(harmless(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn what_a_terminal_would_obey_is_spelled_out() {
        for (text, expected) in [
            ("GET /a?b=\"c\"\n", "GET /a?b=\"c\"\n"),
            ("größe 東京 🦀", "größe 東京 🦀"),
            ("\u{1b}[2J", "\\u001b[2J"),
            ("\u{9b}2J", "\\u009b2J"),
            ("a\rb\tc\u{7f}", "a\\u000db\\u0009c\\u007f"),
            ("admin\u{202e}gpj", "admin\\u202egpj"),
            ("one\u{2028}two\u{2029}\u{85}", "one\\u2028two\\u2029\\u0085"),
            ("zero\u{200b}width\u{feff}", "zero\\u200bwidth\\ufeff"),
        ] {
            assert_eq!(shown(text), expected);
        }
        assert_eq!(harmless(b"\xff\xfe"), "\u{fffd}\u{fffd}".as_bytes());
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(clipped("short"), "short");
        let long = format!("a{}", "ü".repeat(MAX_VALUE));
        let kept = clipped(&long);
        assert!(kept.len() <= MAX_VALUE + '…'.len_utf8(), "{}", kept.len());
        assert!(kept.ends_with("ü…"));
    }

    proptest! {
        #[test]
        fn json_means_the_same_and_holds_nothing_that_is_obeyed(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let plain = shown(&json);
            prop_assert_eq!(serde_json::from_str::<String>(&plain).unwrap(), text);
            prop_assert!(!plain.contains(|char| is_obeyed(char) || char == '\n'));
        }
    }
}
