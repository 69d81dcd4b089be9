//! The corpus of tests/lab/smuggling: bytes of a client, and what may come of them.
//!
//! It must not know how an agent parses: only what was sent, what came back, and what a raw recorder saw.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::running::Running;
use serde::Deserialize;
use serde_json::json;

use crate::conformance::outcome::Outcome;
use crate::conformance::programs::{CLIENT, LIMIT};
use crate::workspace;

/// One case of a corpus file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// As sent, each character one byte; `<a*1000>` stands for a thousand of them.
    bytes: String,
    expect: Expect,
}

/// What may come of it: exactly one of `refused`, `forwarded` and `unfinished`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expect {
    /// The status with which it is refused; nothing reaches the recorder.
    refused: Option<u16>,
    /// How many whole messages reach the recorder, each answered with 200.
    forwarded: Option<usize>,
    /// The status of one answer more.
    then: Option<u16>,
    /// No whole message reaches the recorder, and no 200 the client: what is wrong comes after the head.
    unfinished: bool,
    /// The first message's request line.
    line: Option<String>,
    /// The first message's body.
    body: Option<String>,
    /// Fields that the first message must not have.
    absent: Vec<String>,
}

/// What was observed of a case.
#[derive(Debug, Default, Deserialize)]
struct Observed {
    name: String,
    answer: String,
    closed: bool,
    seen: Vec<Message>,
}

/// What the recorder took for one message; one without a line was cut short, or is none.
#[derive(Debug, Default, Deserialize)]
struct Message {
    line: Option<String>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    fields: Vec<(String, String)>,
    /// What made no sense to the recorder, or never ended.
    broken: Option<String>,
}

/// Tries all cases.
pub(crate) fn run(lab: &Running) -> Result<Vec<Outcome>> {
    let cases = corpus()?;
    let sent: Vec<_> = cases
        .iter()
        .map(|case| Ok(json!({ "name": case.name, "bytes": expanded(&case.bytes)? })))
        .collect::<Result<_>>()?;
    let file = lab.site.scratch(&CLIENT.parse()?).join("smuggling.json");
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    fs::write(&file, serde_json::to_string(&sent)?).with_context(|| file.display().to_string())?;
    let file = file.display().to_string();
    let program = [
        "python3",
        "../programs/raw_client.py",
        "recorder",
        "8080",
        "9000",
        &file,
    ];
    let output = lab.exec_within(LIMIT, CLIENT, &program)?.success()?;
    let observed: Vec<Observed> = serde_json::from_str(&output.stdout).context("what the client says")?;
    ensure!(
        observed.len() == cases.len(),
        "{} of {} cases were tried",
        observed.len(),
        cases.len()
    );
    cases
        .iter()
        .zip(&observed)
        .map(|(case, observed)| case.outcome(observed))
        .collect()
}

impl Case {
    fn outcome(&self, observed: &Observed) -> Result<Outcome> {
        ensure!(observed.name == self.name, "the client mixed up its cases");
        Ok(Outcome {
            name: self.name.clone(),
            failure: self.expect.difference(observed)?,
            skipped: None,
        })
    }
}

impl Expect {
    /// What was not as expected.
    fn difference(&self, observed: &Observed) -> Result<Option<String>> {
        let statuses = statuses(&observed.answer);
        let whole: Vec<&Message> = observed
            .seen
            .iter()
            .filter(|message| message.line.is_some())
            .collect();
        let is_good = match (self.refused, self.forwarded, self.unfinished) {
            (Some(status), None, false) => statuses == [status] && observed.seen.is_empty(),
            (None, Some(count), false) => {
                let mut expected = vec![200; count];
                expected.extend(self.then);
                statuses == expected && whole.len() == count && whole.len() == observed.seen.len()
            }
            (None, None, true) => whole.is_empty() && !statuses.contains(&200),
            _ => bail!("a case must expect one of refused, forwarded and unfinished"),
        };
        let is_sane = observed.seen.iter().all(|message| message.broken.is_none());
        let is_good =
            is_good && is_sane && observed.closed && whole.first().is_none_or(|first| self.fits(first));
        Ok((!is_good).then(|| {
            let seen: Vec<_> = whole
                .iter()
                .map(|message| {
                    format!(
                        "{:?} {:?} {:?}",
                        message.line,
                        message.fields,
                        shortened(&message.body)
                    )
                })
                .collect();
            format!(
                "answers {statuses:?}, {}; {} whole messages, {} others; {}",
                if observed.closed { "closed" } else { "left open" },
                whole.len(),
                observed.seen.len() - whole.len(),
                seen.join(" then ")
            )
        }))
    }

    fn fits(&self, message: &Message) -> bool {
        let has = |name: &String| message.fields.iter().any(|(field, _)| field == name);
        let is_line = |line: &String| message.line.as_ref() == Some(line);
        self.line.as_ref().is_none_or(is_line)
            && self.body.as_ref().is_none_or(|body| *body == message.body)
            && !self.absent.iter().any(has)
    }
}

/// The statuses of all final answers in what a client read. The recorder's answers and the agents' have no line that
/// looks like a status line in their bodies.
fn statuses(answer: &str) -> Vec<u16> {
    let starts = answer.split("HTTP/1.").skip(1);
    let statuses = starts.filter_map(|rest| rest.get(2..5)?.parse().ok());
    statuses.filter(|status| *status >= 200).collect()
}

fn shortened(text: &str) -> &str {
    text.get(..200).unwrap_or(text)
}

/// Writes out the runs.
fn expanded(bytes: &str) -> Result<String> {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some((before, after)) = rest.split_once('<') {
        let (run, after) = after.split_once('>').context("a run without an end")?;
        let (what, count) = run.split_once('*').context("a run without a count")?;
        text.push_str(before);
        text.push_str(&what.repeat(count.parse().context("a run's count")?));
        rest = after;
    }
    Ok(text + rest)
}

fn corpus() -> Result<Vec<Case>> {
    let dir = workspace::root().join("tests/lab/smuggling");
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .with_context(|| dir.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let more: Vec<Case> = serde_yaml_ng::from_str(&text).with_context(|| file.display().to_string())?;
        cases.extend(more);
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(answer: &str, lines: &[&str]) -> Observed {
        let message = |line: &&str| Message {
            line: Some((*line).to_owned()),
            ..Message::default()
        };
        Observed {
            answer: answer.to_owned(),
            closed: true,
            seen: lines.iter().map(message).collect(),
            ..Observed::default()
        }
    }

    #[test]
    fn the_corpus_has_at_least_a_hundred_cases_with_one_expectation_each() {
        let cases = corpus().unwrap();
        assert!(cases.len() >= 100, "{}", cases.len());
        for case in cases {
            assert!(
                expanded(&case.bytes).unwrap().chars().all(|c| u32::from(c) < 256),
                "{}",
                case.name
            );
            let nothing = Observed {
                name: case.name.clone(),
                ..Observed::default()
            };
            assert!(case.outcome(&nothing).is_ok(), "{}", case.name);
        }
    }

    #[test]
    fn a_smuggled_request_is_a_difference() {
        let one = Expect {
            forwarded: Some(1),
            ..Expect::default()
        };
        let ok = "HTTP/1.1 200 OK\r\n\r\nok";
        assert_eq!(one.difference(&observed(ok, &["GET / HTTP/1.1"])).unwrap(), None);
        let two = observed(ok, &["GET / HTTP/1.1", "GET /smuggled HTTP/1.1"]);
        assert!(one.difference(&two).unwrap().is_some());
        let refused = Expect {
            refused: Some(400),
            ..Expect::default()
        };
        let bad = "HTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(refused.difference(&observed(bad, &[])).unwrap(), None);
        assert!(
            refused
                .difference(&observed(bad, &["GET / HTTP/1.1"]))
                .unwrap()
                .is_some()
        );
        assert!(refused.difference(&observed(ok, &[])).unwrap().is_some());
        let unfinished = Expect {
            unfinished: true,
            ..Expect::default()
        };
        assert!(
            unfinished
                .difference(&observed("", &["POST / HTTP/1.1"]))
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn what_the_recorder_cannot_read_is_a_difference() {
        let mut seen = observed("", &[]);
        let unfinished = Expect {
            unfinished: true,
            ..Expect::default()
        };
        seen.seen.push(Message::default());
        assert_eq!(unfinished.difference(&seen).unwrap(), None);
        seen.seen.push(Message {
            broken: Some("no message".to_owned()),
            ..Message::default()
        });
        assert!(unfinished.difference(&seen).unwrap().is_some());
    }

    #[test]
    fn runs_are_written_out() {
        assert_eq!(expanded("x<ab*3>y").unwrap(), "xabababy");
    }
}
