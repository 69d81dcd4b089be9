//! Splits the text of a manifest file into objects: multi-document YAML, JSON, and lists of either.
//!
//! Place in the walk: between the files and the translation. Must not know: what any kind means.

use std::sync::Arc;

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::bounded::{BoundedValue, Budget};
use crate::mesh::facts::Rejection;

/// One object as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Document {
    /// The file.
    pub(super) origin: Arc<str>,
    /// Where in the file, for objects that have no name.
    pub(super) place: String,
    /// The object.
    pub(super) value: Value,
}

/// The objects of one file. What cannot be read is named, and the other documents are read all the same.
pub(super) fn documents(origin: &str, text: &str, is_json: bool) -> (Vec<Document>, Vec<Rejection>) {
    let mut reading = Reading {
        origin: origin.into(),
        found: Vec::new(),
        rejections: Vec::new(),
        is_full: false,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_json {
        reading.json(text);
    } else {
        for (index, chunk) in yaml_chunks(text).enumerate() {
            reading.yaml(index + 1, &chunk);
        }
    }
    (reading.found, reading.rejections)
}

/// A file that is being read.
#[derive(Debug)]
struct Reading {
    origin: Arc<str>,
    found: Vec<Document>,
    rejections: Vec<Rejection>,
    is_full: bool,
}

impl Reading {
    /// JSON values one after the other.
    fn json(&mut self, text: &str) {
        let budget = Budget::for_text(text.len());
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let mut number = 0_usize;
        while deserializer.end().is_err() {
            number += 1;
            let place = format!("document {number}");
            match BoundedValue(&budget).deserialize(&mut deserializer) {
                Ok(value) => self.take(place, value),
                Err(error) => return self.reject(&place, error.to_string()),
            }
        }
    }

    fn yaml(&mut self, number: usize, chunk: &Chunk<'_>) {
        let place = format!("document {number} (line {})", chunk.first_line);
        if let Some(reason) = too_much(chunk.text) {
            return self.reject(&place, reason);
        }
        let budget = Budget::for_text(chunk.text.len());
        for document in serde_yaml_ng::Deserializer::from_str(chunk.text) {
            match BoundedValue(&budget).deserialize(document) {
                Ok(value) => self.take(place.clone(), value),
                Err(error) => return self.reject(&place, chunk.explain(&error)),
            }
        }
    }

    fn take(&mut self, place: String, value: Value) {
        match value {
            Value::Null => {}
            Value::Object(mut list) if is_list(&list) => {
                let inherited = inherited_type(&list);
                let Some(Value::Array(items)) = list.remove("items") else {
                    return;
                };
                for (index, mut item) in items.into_iter().enumerate() {
                    inherit_type(&mut item, inherited.as_ref());
                    self.take(format!("{place}, items[{index}]"), item);
                }
            }
            value @ (Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_)) => {
                self.keep(place, value);
            }
        }
    }

    fn keep(&mut self, place: String, value: Value) {
        if self.found.len() < MAX_OBJECTS {
            self.found.push(Document {
                origin: Arc::clone(&self.origin),
                place,
                value,
            });
        } else if !self.is_full {
            self.is_full = true;
            self.reject(
                &place,
                format!("the file holds more than {MAX_OBJECTS} objects; the rest is left out, split it"),
            );
        }
    }

    fn reject(&mut self, place: &str, reason: String) {
        self.rejections.push(Rejection {
            origin: self.origin.as_ref().to_owned(),
            object: place.to_owned(),
            field: String::new(),
            reason,
        });
    }
}

/// `kind: List`, and the typed lists of the API (`PodList`).
fn is_list(object: &serde_json::Map<String, Value>) -> bool {
    let has_list_kind = object
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    has_list_kind && object.get("items").is_some_and(Value::is_array)
}

/// The items of a typed list do not say what they are: its own type says it.
fn inherited_type(list: &serde_json::Map<String, Value>) -> Option<(String, String)> {
    let kind = list
        .get("kind")?
        .as_str()?
        .strip_suffix("List")
        .filter(|kind| !kind.is_empty())?;
    Some((list.get("apiVersion")?.as_str()?.to_owned(), kind.to_owned()))
}

fn inherit_type(item: &mut Value, inherited: Option<&(String, String)>) {
    if let (Value::Object(item), Some((api_version, kind))) = (item, inherited) {
        item.entry("apiVersion")
            .or_insert_with(|| Value::String(api_version.clone()));
        item.entry("kind").or_insert_with(|| Value::String(kind.clone()));
    }
}

/// The text of one YAML document.
#[derive(Debug)]
struct Chunk<'t> {
    text: &'t str,
    first_line: usize,
}

impl Chunk<'_> {
    /// The error with its line counted from the beginning of the file.
    fn explain(&self, error: &serde_yaml_ng::Error) -> String {
        let text = error.to_string();
        let Some(location) = error.location() else {
            return text;
        };
        let within = format!("line {} column", location.line());
        let in_file = format!("line {} column", location.line() + self.first_line - 1);
        text.replacen(&within, &in_file, 1)
    }
}

/// Cuts at `---` in the first column, which YAML allows nowhere but between documents, so that a syntax error
/// spoils no document but its own. Chunks with nothing but comments and directives are dropped.
fn yaml_chunks(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let mut starts = vec![(0, 1)];
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) && offset > 0 {
            starts.push((offset, index + 1));
        }
        offset += line.len();
    }
    let ends: Vec<_> = starts
        .iter()
        .skip(1)
        .map(|(start, _)| *start)
        .chain([text.len()])
        .collect();
    starts
        .into_iter()
        .zip(ends)
        .filter_map(|((start, first_line), end)| {
            Some(Chunk {
                text: text.get(start..end)?,
                first_line,
            })
        })
        .filter(|chunk| chunk.text.lines().any(has_content))
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(line: &str) -> bool {
    let line = if is_separator(line) {
        line.get(3..).unwrap_or_default()
    } else {
        line
    };
    let line = line.trim();
    !(line.is_empty() || line.starts_with(['#', '%']) || line == "...")
}

/// Why a YAML text is refused unread: the parser takes in a whole document before anything can be counted.
///
/// It goes over all open brackets for each token, so that a text that opens 100,000 keeps it busy for a minute; and
/// it takes some 300 bytes for each key, item and bracket.
fn too_much(text: &str) -> Option<String> {
    let (mut open, mut deepest, mut nodes) = (0_usize, 0_usize, 0_usize);
    for byte in text.bytes() {
        nodes += usize::from(matches!(byte, b'\n' | b',' | b':' | b'[' | b'{'));
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    if deepest > MAX_OPEN_BRACKETS {
        return Some(format!("more than {MAX_OPEN_BRACKETS} brackets are open at once"));
    }
    (nodes > MAX_NODES).then(|| {
        format!("the document has more than {MAX_NODES} keys and items; split it, or write it as JSON")
    })
}

/// Far beyond the 128 levels that are read; scripts within manifests may hold unpaired brackets.
const MAX_OPEN_BRACKETS: usize = 2000;
/// Half a gigabyte at worst while one document is parsed.
const MAX_NODES: usize = 2_000_000;
/// More than any cluster's dump holds in one file.
const MAX_OBJECTS: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, is_json: bool) -> (Vec<String>, Vec<Rejection>) {
        let (documents, rejections) = documents("f", text, is_json);
        let name = |document: Document| {
            let field = |name| {
                document
                    .value
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or("?")
                    .to_owned()
            };
            format!("{}/{}", field("kind"), field("n"))
        };
        (documents.into_iter().map(name).collect(), rejections)
    }

    #[test]
    fn reads_every_form_of_manifest() {
        for (text, is_json, expected) in [
            ("kind: A\nn: x\n", false, vec!["A/x"]),
            (
                "---\nkind: A\nn: x\n---\nkind: B\nn: y\n",
                false,
                vec!["A/x", "B/y"],
            ),
            (
                "# only a comment\n---\r\nkind: A\r\nn: x\r\n---\r\n\r\n",
                false,
                vec!["A/x"],
            ),
            ("%YAML 1.1\n---\nkind: A\nn: x\n...\n", false, vec!["A/x"]),
            (
                "--- {kind: A, n: x}\n--- # next\nkind: B\nn: |\n  y\n",
                false,
                vec!["A/x", "B/y\n"],
            ),
            ("\u{feff}kind: A\nn: '---'\n", false, vec!["A/---"]),
            (
                "kind: List\nitems: [{kind: A, n: x}, {kind: B, n: y}]\n",
                false,
                vec!["A/x", "B/y"],
            ),
            (
                r#"{"kind":"PodList","apiVersion":"v1","items":[{"n":"x"}]}"#,
                true,
                vec!["Pod/x"],
            ),
            (
                r#" {"kind":"A","n":"x"} {"kind":"B","n":"y"} "#,
                true,
                vec!["A/x", "B/y"],
            ),
            ("", false, vec![]),
            ("", true, vec![]),
            ("---\nnull\n---\n", false, vec![]),
        ] {
            let (found, rejections) = names(text, is_json);
            assert_eq!(found, expected, "{text:?}");
            assert_eq!(rejections, [], "{text:?}");
        }
    }

    #[test]
    fn a_broken_document_spoils_no_other_and_its_line_is_named() {
        let (found, rejections) = names("kind: A\nn: x\n---\nkind: ]\n---\nkind: B\nn: y\n", false);
        assert_eq!(found, ["A/x", "B/y"]);
        assert_eq!(rejections.len(), 1);
        assert_eq!(rejections[0].object, "document 2 (line 3)");
        assert!(
            rejections[0].reason.contains("line 4 column"),
            "{}",
            rejections[0].reason
        );
    }

    #[test]
    fn refuses_what_would_be_read_otherwise_than_it_looks() {
        for (text, is_json, reason) in [
            ("a: 1\na: 2\n", false, "given twice"),
            ("a: &x {b: 1}\nc: {<<: *x}\n", false, "merge keys"),
            ("a: .nan\n", false, "finite"),
            ("a: !tag x\n", false, "plain YAML"),
            (r#"{"a":1,"a":2}"#, true, "given twice"),
            (r#"{"a":"#, true, "EOF"),
            (r#"{"a":1}]"#, true, "expected value"),
        ] {
            let (_, rejections) = names(text, is_json);
            assert_eq!(rejections.len(), 1, "{text:?}");
            assert!(
                rejections[0].reason.contains(reason),
                "{text:?}: {}",
                rejections[0].reason
            );
        }
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let level = |level: usize| {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            format!("a{level}: &a{level} [{aliases}]")
        };
        let levels: Vec<_> = (1..12).map(level).collect();
        let bomb = format!("a0: &a0 [x, x, x, x, x, x, x, x, x]\n{}\n", levels.join("\n"));
        let (found, rejections) = names(&bomb, false);
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(rejections.len(), 1);
    }

    #[test]
    fn depth_is_limited() {
        for text in [
            "[".repeat(1000),
            "[".repeat(1_000_000),
            "{\"a\": ".repeat(1_000_000),
            "- ".repeat(1_000_000),
        ] {
            for is_json in [true, false] {
                let (_, rejections) = names(&text, is_json);
                assert_eq!(rejections.len(), 1, "json: {is_json}");
            }
        }
    }

    #[test]
    fn a_document_that_would_fill_the_memory_is_refused_as_yaml_and_read_as_json() {
        let items = MAX_NODES / 2;
        let (found, rejections) = names(&"- {a: 1}\n".repeat(items), false);
        assert_eq!((found.len(), rejections.len()), (0, 1));
        let (found, rejections) = names(&format!("[0{}]", ",0".repeat(items)), true);
        assert_eq!((found.len(), rejections.len()), (1, 0));
    }

    #[test]
    fn a_file_of_ordinary_aliases_is_read() {
        let (documents, rejections) = documents("f", "a: &x {k: v}\nb: *x\nc: [*x, *x]\n", false);
        assert_eq!(rejections, []);
        let expected = serde_json::json!({"a": {"k": "v"}, "b": {"k": "v"}, "c": [{"k": "v"}, {"k": "v"}]});
        assert_eq!(documents[0].value, expected);
    }
}
