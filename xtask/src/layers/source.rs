//! Rust source, looked at closely enough to find which rooms and crates it names.
//!
//! It must not know the layers. It is no parser: it drops comments and strings and then reads paths.

use std::path::Path;

/// A room named somewhere in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) room: String,
    pub(super) line: usize,
}

/// The text with comments, strings and character literals blanked; line breaks stay where they are.
pub(super) fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped_length(rest);
        if skipped == 0 {
            code.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        } else {
            let (gone, after) = rest.split_at(skipped);
            code.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// How many bytes at the start are a comment or a literal.
fn skipped_length(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |end| end + 2);
    }
    if let Some(raw) = text.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw.trim_start_matches('#').starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = 2 + hashes;
            let length = text
                .get(start..)
                .and_then(|inner| inner.find(&end))
                .map(|at| start + at + end.len());
            return length.unwrap_or(text.len());
        }
    }
    if text.starts_with('"') {
        return quoted_length(text, '"');
    }
    // A lifetime is a quote with no closing quote after one character.
    let mut chars = text.chars();
    if chars.next() == Some('\'') && (chars.next() == Some('\\') || chars.next() == Some('\'')) {
        return quoted_length(text, '\'');
    }
    0
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if c == '\\' {
            is_escaped = true;
        } else if c == quote {
            return at + quote.len_utf8();
        }
    }
    text.len()
}

/// The rooms that a file names: `crate::room`, `crate::{room, ...}`, or `super` as far up as the crate's root.
pub(super) fn imported_rooms(path: &Path, code: &str, is_room: impl Fn(&str) -> bool) -> Vec<Import> {
    let mut imports = Vec::new();
    for (at, after) in places_of("crate::", code) {
        if let Some(group) = after.strip_prefix('{') {
            imports.extend(group_heads(group).into_iter().map(|(offset, room)| Import {
                room,
                line: line_at(code, at + "crate::{".len() + offset),
            }));
        } else if let Some(room) = identifier(after) {
            imports.push(Import {
                room: room.to_owned(),
                line: line_at(code, at),
            });
        }
    }
    let depth = module_depth(path);
    for (at, after) in places_of("super::", code) {
        let is_continued = code.get(..at).is_some_and(|before| before.ends_with("super::"));
        let (ups, tail) = supers(after);
        if let Some(room) = identifier(tail).filter(|room| is_room(room))
            && !is_continued
            && ups >= depth
        {
            imports.push(Import {
                room: room.to_owned(),
                line: line_at(code, at),
            });
        }
    }
    imports.sort_by_key(|import| import.line);
    // `crate::Name` of something that lib.rs itself defines is written with a capital or a macro's bang.
    imports.retain(|import| import.room.chars().next().is_some_and(char::is_lowercase));
    imports
}

/// Lines on which a crate or path such as `std::env` is named.
pub(super) fn uses_of(name: &str, code: &str) -> Vec<usize> {
    let mut lines: Vec<_> = places_of(name, code)
        .filter(|(_, after)| after.starts_with("::") || after.starts_with([';', ' ', ',', '}']))
        .filter(|(at, after)| after.starts_with("::") || is_in_use(code, *at))
        .map(|(at, _)| line_at(code, at))
        .collect();
    if let Some((parent, child)) = name.rsplit_once("::") {
        for (at, after) in places_of(&format!("{parent}::{{"), code) {
            if group_heads(after).iter().any(|(_, head)| head == child) {
                lines.push(line_at(code, at));
            }
        }
    }
    lines
}

/// True when the statement at this place is an import.
fn is_in_use(code: &str, at: usize) -> bool {
    let before = code.get(..at).unwrap_or_default();
    let statement = before
        .rfind([';', '}'])
        .and_then(|start| before.get(start + 1..))
        .unwrap_or(before);
    statement
        .trim_start()
        .trim_start_matches("pub ")
        .starts_with("use ")
}

/// Where a path begins, with what follows it; not where it is the tail of a longer word or path.
fn places_of<'c>(path: &str, code: &'c str) -> impl Iterator<Item = (usize, &'c str)> {
    let places: Vec<_> = code
        .match_indices(path)
        .filter(|(at, _)| {
            let before = code.get(..*at).unwrap_or_default();
            let is_tail = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
            // `::tokio` names the crate, `a::tokio` does not.
            let is_inner = before
                .strip_suffix("::")
                .is_some_and(|path| path.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>'));
            !is_tail && (!is_inner || before.ends_with("super::"))
        })
        .filter_map(|(at, found)| Some((at, code.get(at + found.len()..)?)))
        .collect();
    places.into_iter()
}

/// The first words at the top level of a group, up to its closing brace.
fn group_heads(group: &str) -> Vec<(usize, String)> {
    let mut heads = Vec::new();
    let (mut depth, mut is_start) = (0_usize, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if is_start && !c.is_whitespace() => {
                is_start = false;
                let word = group.get(at..).and_then(identifier).unwrap_or_default();
                heads.push((at, word.to_owned()));
            }
            _ => {}
        }
    }
    heads
}

fn supers(after: &str) -> (usize, &str) {
    let (mut ups, mut tail) = (1, after);
    while let Some(next) = tail.strip_prefix("super::") {
        ups += 1;
        tail = next;
    }
    (ups, tail)
}

/// How many modules a file is below the crate's root.
fn module_depth(path: &Path) -> usize {
    let parts = path.components().count();
    if path.file_name().is_some_and(|name| name == "mod.rs") {
        parts - 1
    } else {
        parts
    }
}

fn identifier(text: &str) -> Option<&str> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    text.get(..end).filter(|word| !word.is_empty())
}

fn line_at(code: &str, at: usize) -> usize {
    code.get(..at).unwrap_or_default().matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_literals_but_not_lifetimes() {
        let code = code_only("fn f<'a>(x: &'a str) { g('\\'', 'x', r#\"a\"b\"#, \"\\\"\") } // z\nh");
        assert!(code.contains("fn f<'a>(x: &'a str) { g("), "{code}");
        assert!(!code.contains('x') || code.matches('x').count() == 1, "{code}");
        assert!(!code.contains('z') && code.ends_with("\nh"), "{code}");
    }

    #[test]
    fn keeps_line_numbers() {
        let code = code_only("/* a\nb */\n\"c\nd\"\ne");
        assert_eq!(line_at(&code, code.find('e').unwrap()), 5);
    }
}
