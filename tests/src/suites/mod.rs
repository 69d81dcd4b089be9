//! The claims that are checked in a lab with the real kernel, and how they are run.
//!
//! A suite has a lab of its own, so that one suite's faults do not colour another's. A claim says what a user can see;
//! it must not look inside of the agent. A suite whose lab does not come up has failed, it is never skipped.

mod ask;
mod capture;
mod control;
mod exceptions;
mod faults;
mod protocols;
mod routes;
mod security;
mod soak;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::interrupt;
use crate::lab::{Lab, Options};
use crate::running::Running;

/// Something that must hold in a lab.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The claim in words.
    pub name: &'static str,
    /// Checks it.
    pub check: fn(&Running) -> Result<()>,
}

/// Claims that share a lab.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// Its name.
    pub name: &'static str,
    /// Its claims, in order.
    pub claims: &'static [Claim],
}

/// What came of a claim.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The suite.
    pub suite: &'static str,
    /// The claim in words.
    pub claim: String,
    /// Why it does not hold; `None` when it holds.
    pub failure: Option<String>,
    /// How long the check took.
    pub seconds: f64,
}

/// Makes a claim of a function whose name is the claim.
macro_rules! claims {
    ($($check:ident),+ $(,)?) => {
        &[$($crate::suites::Claim { name: stringify!($check), check: $check }),+]
    };
}
use claims;

/// All suites; the slowest comes last.
pub fn all() -> Vec<Suite> {
    vec![
        Suite {
            name: "capture",
            claims: capture::CLAIMS,
        },
        Suite {
            name: "protocols",
            claims: protocols::CLAIMS,
        },
        Suite {
            name: "routes",
            claims: routes::CLAIMS,
        },
        Suite {
            name: "security",
            claims: security::CLAIMS,
        },
        Suite {
            name: "exceptions",
            claims: exceptions::CLAIMS,
        },
        Suite {
            name: "control",
            claims: control::CLAIMS,
        },
        Suite {
            name: "faults",
            claims: faults::CLAIMS,
        },
        Suite {
            name: "soak",
            claims: soak::CLAIMS,
        },
    ]
}

/// Runs the claims of a suite that `only` picks, in a lab made for them. Logs go to `logs_to` when one fails.
pub fn run(
    suite: &Suite,
    only: impl Fn(&Claim) -> bool,
    options: &Options,
    logs_to: &Path,
    hear: &dyn Fn(&Verdict),
) -> Vec<Verdict> {
    let claims: Vec<_> = suite.claims.iter().filter(|claim| only(claim)).collect();
    let mut verdicts = Vec::new();
    if claims.is_empty() {
        return verdicts;
    }
    let mut judge = |claim: &str, check: &dyn Fn() -> Result<()>| {
        let began = Instant::now();
        let failure = check().err().map(|error| format!("{error:#}"));
        let claim = claim.replace('_', " ");
        let verdict = Verdict {
            suite: suite.name,
            claim,
            failure,
            seconds: began.elapsed().as_secs_f64(),
        };
        hear(&verdict);
        verdicts.push(verdict);
    };
    let made = RefCell::new(None);
    judge("the_lab_comes_up_within_a_minute", &|| {
        let began = Instant::now();
        *made.borrow_mut() = Some(Lab::up(options, &|_| {})?);
        anyhow::ensure!(
            began.elapsed() < Duration::from_mins(1),
            "it took {:?}",
            began.elapsed()
        );
        Ok(())
    });
    let Some(lab) = made.into_inner() else {
        return verdicts;
    };
    for claim in claims {
        judge(claim.name, &|| {
            interrupt::check()?;
            (claim.check)(lab.running())
        });
    }
    judge("agents_are_alive_at_the_end", &|| agents_are_alive(lab.running()));
    let saved = keep_logs(lab.running(), &logs_to.join(suite.name));
    judge("logs_can_be_kept", &|| {
        saved
            .as_ref()
            .map(|_| ())
            .map_err(|error| anyhow::anyhow!("{error:#}"))
    });
    let site = options.site.clone();
    let down = RefCell::new(Some(lab));
    judge("the_lab_goes_down_and_leaves_nothing", &|| {
        if let Some(lab) = down.take() {
            lab.down()?;
        }
        let left = crate::lab::remains(&site)?;
        anyhow::ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    });
    verdicts
}

fn agents_are_alive(lab: &Running) -> Result<()> {
    for node in lab.state.nodes.keys() {
        anyhow::ensure!(lab.agent(node)?.is_alive(), "the agent of {node} has ended");
        let answer = lab.page(node, "/readyz")?;
        anyhow::ensure!(
            answer.status == 200,
            "the agent of {node} is not ready: {}",
            answer.body
        );
    }
    Ok(())
}

/// Copies what agents and programs wrote, for a look after the lab is gone.
fn keep_logs(lab: &Running, to: &Path) -> Result<Vec<PathBuf>> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("clear {}", to.display()));
        }
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let mut kept = Vec::new();
    for entry in fs::read_dir(lab.site.logs()).context("list the lab's logs")? {
        let path = entry.context("list the lab's logs")?.path();
        if let Some(name) = path.file_name() {
            let copy = to.join(name);
            fs::copy(&path, &copy).with_context(|| format!("copy {}", path.display()))?;
            kept.push(copy);
        }
    }
    Ok(kept)
}
