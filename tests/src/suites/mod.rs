//! The claims that are checked in a lab with the real kernel, and how they are run.
//!
//! A suite has a lab of its own, so that one suite's faults do not colour another's. A claim says what a user can see;
//! it must not look inside of the agent. A suite whose lab does not come up has failed, it is never skipped.

mod ask;
pub mod authz;
mod balance;
mod ca;
mod capture;
mod changes;
mod cni;
mod control;
mod crashes;
mod direct;
mod direct_counts;
mod dns;
mod enrolled;
mod enrolment;
mod exceptions;
mod explain;
mod external;
mod faults;
mod handover;
mod health;
mod hedging;
mod issuers;
mod jwt;
mod kubernetes;
mod kubesource;
mod limits;
mod origination;
mod privileges;
mod program;
mod protocols;
mod readers;
mod resilience;
mod restart;
mod routes;
mod security;
mod shapes;
mod soak;
mod spire;
mod splice;
mod steady;
mod talker;
mod tcproutes;
mod testssl;
mod tls;
mod tlsorigin;

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::interrupt;
use crate::lab::{self, Lab, Options};
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

/// Makes a claim of a function whose name is the claim, of this file or of files below it.
macro_rules! claims {
    ($($file:ident { $($check:ident),+ $(,)? })+) => {
        &[$($($crate::suites::Claim { name: stringify!($check), check: $file::$check }),+),+]
    };
    ($($check:ident),+ $(,)?) => {
        &[$($crate::suites::Claim { name: stringify!($check), check: $check }),+]
    };
}
use claims;

/// All suites; the slowest comes last.
pub fn all() -> Vec<Suite> {
    let suites: &[(_, &[Claim])] = &[
        ("capture", capture::CLAIMS),
        ("protocols", protocols::CLAIMS),
        ("privileges", privileges::CLAIMS),
        ("direct", direct::CLAIMS),
        ("splice", splice::CLAIMS),
        ("routes", routes::CLAIMS),
        ("tcproutes", tcproutes::CLAIMS),
        ("balance", balance::CLAIMS),
        ("resilience", resilience::CLAIMS),
        ("hedging", hedging::CLAIMS),
        ("health", health::CLAIMS),
        ("security", security::CLAIMS),
        ("tls", tls::CLAIMS),
        ("tlsorigin", tlsorigin::CLAIMS),
        ("origination", origination::CLAIMS),
        ("authz", authz::CLAIMS),
        ("jwt", jwt::CLAIMS),
        ("external", external::CLAIMS),
        ("limits", limits::CLAIMS),
        ("explain", explain::CLAIMS),
        ("exceptions", exceptions::CLAIMS),
        ("dns", dns::CLAIMS),
        ("shapes", shapes::CLAIMS),
        ("enrolment", enrolment::CLAIMS),
        ("cni", cni::CLAIMS),
        ("changes", changes::CLAIMS),
        ("control", control::CLAIMS),
        ("faults", faults::CLAIMS),
        ("readers", readers::CLAIMS),
        ("restart", restart::CLAIMS),
        ("handover", handover::CLAIMS),
        ("crashes", crashes::CLAIMS),
        ("authority", ca::CLAIMS),
        ("issuers", issuers::CLAIMS),
        ("soak", soak::CLAIMS),
    ];
    suites
        .iter()
        .map(|&(name, claims)| Suite { name, claims })
        .collect()
}

/// The suite that needs a real API server.
pub const KUBERNETES: Suite = Suite {
    name: "kubernetes",
    claims: kubernetes::CLAIMS,
};

/// The suite of agents that are fed by a real API server.
pub const KUBESOURCE: Suite = Suite {
    name: "kubesource",
    claims: kubesource::CLAIMS,
};

/// The suite that needs a real SPIRE.
pub const SPIRE: Suite = Suite {
    name: "spire",
    claims: spire::CLAIMS,
};

/// The suite that runs testssl.sh.
pub const TESTSSL: Suite = Suite {
    name: "testssl",
    claims: testssl::CLAIMS,
};

/// Suites that run only when they are asked for by name, since they, or what they need, take long.
pub fn on_request() -> Vec<Suite> {
    vec![KUBERNETES, KUBESOURCE, SPIRE, TESTSSL]
}

/// Runs the claims of a suite that `only` picks, in a lab made for them. What was logged is kept in `logs_to`.
pub fn run(
    suite: &Suite,
    only: impl Fn(&Claim) -> bool,
    options: &Options,
    logs_to: &Path,
    hear: &dyn Fn(&Verdict),
) -> Vec<Verdict> {
    let mut judge = Judge {
        suite: suite.name,
        hear,
        verdicts: Vec::new(),
    };
    let made = judge.judge("the_lab_comes_up_within_a_minute", || {
        let began = Instant::now();
        let lab = Lab::up(options, &|_| {})?;
        ensure!(
            began.elapsed() < Duration::from_mins(1),
            "it took {:?}",
            began.elapsed()
        );
        Ok(lab)
    });
    let Some(lab) = made else { return judge.verdicts };
    for claim in suite.claims.iter().filter(|claim| only(claim)) {
        judge.judge(claim.name, || {
            interrupt::check()?;
            // What the claim before took back may be under way.
            lab.running().settled(SETTLING)?;
            (claim.check)(lab.running())
        });
    }
    judge.judge("agents_are_alive_at_the_end", || agents_are_alive(lab.running()));
    judge.judge("what_was_logged_can_be_kept", || {
        keep_logs(lab.running(), &logs_to.join(suite.name))
    });
    judge.judge("the_lab_goes_down_and_leaves_nothing", || {
        lab.down()?;
        let left = lab::remains(&options.site)?;
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    });
    judge.verdicts
}

/// As long as a configuration may take on a busy machine.
const SETTLING: Duration = Duration::from_secs(20);

/// Times checks and collects what came of them.
pub(crate) struct Judge<'h> {
    pub(crate) suite: &'static str,
    pub(crate) hear: &'h dyn Fn(&Verdict),
    pub(crate) verdicts: Vec<Verdict>,
}

impl Judge<'_> {
    pub(crate) fn judge<T>(&mut self, claim: &str, check: impl FnOnce() -> Result<T>) -> Option<T> {
        let began = Instant::now();
        let checked = check();
        let verdict = Verdict {
            suite: self.suite,
            claim: claim.replace('_', " "),
            failure: checked.as_ref().err().map(|error| format!("{error:#}")),
            seconds: began.elapsed().as_secs_f64(),
        };
        (self.hear)(&verdict);
        self.verdicts.push(verdict);
        checked.ok()
    }
}

fn agents_are_alive(lab: &Running) -> Result<()> {
    for node in lab.state.nodes.keys() {
        ensure!(lab.agent(node)?.is_alive(), "the agent of {node} has ended");
        let answer = lab.page(node, "/readyz")?;
        ensure!(
            answer.status == 200,
            "the agent of {node} is not ready: {}",
            answer.body
        );
    }
    Ok(())
}

/// Copies what agents and programs wrote, for a look after the lab is gone.
fn keep_logs(lab: &Running, to: &Path) -> Result<()> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("clear {}", to.display()));
        }
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(lab.site.logs()).context("list the lab's logs")? {
        let path = entry.context("list the lab's logs")?.path();
        if let Some(name) = path.file_name() {
            let copy = to.join(name);
            fs::copy(&path, &copy).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}
