//! Hedging and fallbacks: what clients get while endpoints are slow or gone, and how often endpoints are asked for it.
//!
//! The back ends of these claims are started by them, one beside each replica.

use anyhow::{Context, Result, ensure};

use super::ask::{equal, get};
use super::resilience::{Program, REPLICAS};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    hedging_answers_from_others_while_one_of_five_is_slow,
    hedging_never_sends_a_post_twice,
    hedging_stays_within_its_budget_when_all_are_slow,
    a_fallback_answers_for_a_service_without_endpoints,
    a_fallback_service_answers_when_nobody_listens,
    a_fallback_is_none_for_what_a_policy_denies,
];

const CLIENT: &str = "shop/client";
const NODE: &str = "node-a";
const PORT: u16 = 8087;
/// On another node than the client.
const SLOW: usize = 3;

/// A server that is slow while the claim wants it to be.
struct Moody<'l> {
    program: Program<'l>,
    /// Requests before the claim.
    before: usize,
}

impl<'l> Moody<'l> {
    fn start(lab: &'l Running, pod: &'static str) -> Result<Self> {
        let name = pod.strip_prefix("shop/").unwrap_or(pod);
        let script = format!(
            "rm -f \"$SCRATCH/mood\"; touch \"$SCRATCH/asked\"; exec python3 ../programs/moody.py {PORT} {name} \"$SCRATCH\""
        );
        let program = Program::start(lab, pod, &script, PORT)?;
        let mut moody = Self { program, before: 0 };
        moody.before = moody.lines("")?;
        Ok(moody)
    }

    fn all(lab: &'l Running) -> Result<Vec<Self>> {
        REPLICAS.into_iter().map(|pod| Self::start(lab, pod)).collect()
    }

    /// Lets each request wait so long from now on.
    fn waits(&self, seconds: &str) -> Result<()> {
        let script =
            format!("echo {seconds} > \"$SCRATCH/mood.new\" && mv \"$SCRATCH/mood.new\" \"$SCRATCH/mood\"");
        self.program.run(&script).map(drop)
    }

    /// How often it was asked in this claim.
    fn asked(&self) -> Result<usize> {
        Ok(self.lines("")? - self.before)
    }

    /// Lines of what it was asked that begin so.
    fn lines(&self, beginning: &str) -> Result<usize> {
        let said = self
            .program
            .run(&format!("grep -c '^{beginning}' \"$SCRATCH/asked\" || true"))?;
        said.trim().parse().with_context(|| format!("no number: {said}"))
    }
}

/// The answers to `count` requests, one after the other: status and server.
fn ask(lab: &Running, count: usize, arguments: &str) -> Result<Vec<String>> {
    let script = format!(
        "for n in $(seq {count}); do curl -s --noproxy '*' -w '%{{http_code}} ' {arguments} | tr '\\n' ' '; echo; done"
    );
    let said = lab.exec(CLIENT, &["sh", "-c", &script])?.success()?.stdout;
    Ok(said.lines().map(|line| line.trim().to_owned()).collect())
}

/// The value of a counter of the client's agent.
fn counted(lab: &Running, series: &str) -> Result<u64> {
    let page = lab.page(NODE, "/metrics")?.body;
    let line = page.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    });
    let value = line.and_then(|line| line.rsplit(' ').next());
    value
        .with_context(|| format!("no {series}"))?
        .parse()
        .with_context(|| format!("no number in {series}"))
}

fn hedging_answers_from_others_while_one_of_five_is_slow(lab: &Running) -> Result<()> {
    let servers = Moody::all(lab)?;
    let slow = servers.get(SLOW).context("no such server")?;
    let answers = ask(lab, 60, "-m 10 http://hedged/")?;
    ensure!(
        answers.iter().all(|answer| answer.ends_with("200")),
        "{answers:?}"
    );
    let before = slow.asked()?;
    slow.waits("3600")?;
    let answers = ask(lab, 40, "-m 10 http://hedged/")?;
    let good = |answer: &&String| answer.ends_with("200") && !answer.contains("replica-4");
    equal("answers of others", answers.iter().filter(good).count(), 40)?;
    // It was asked in its turn each time, by a first try or by a second one.
    let asked = slow.asked()? - before;
    ensure!((4..=16).contains(&asked), "the slow one was asked {asked} times");
    let won = counted(lab, "mesh_hedges_total{outcome=\"won\"}")?;
    ensure!(won >= 4, "{won} hedges won");
    Ok(())
}

fn hedging_never_sends_a_post_twice(lab: &Running) -> Result<()> {
    let servers = Moody::all(lab)?;
    let answers = ask(lab, 60, "-m 10 http://hedged/")?;
    ensure!(
        answers.iter().all(|answer| answer.ends_with("200")),
        "{answers:?}"
    );
    let slow = servers.get(SLOW).context("no such server")?;
    slow.waits("3600")?;
    let posts =
        |servers: &[Moody<'_>]| -> Result<usize> { servers.iter().map(|server| server.lines("POST")).sum() };
    let before = posts(&servers)?;
    // Those that the slow one gets are given up by their client, after the time in which a GET is long hedged.
    let answers = ask(lab, 15, "-m 2 -d order http://hedged/")?;
    let lost = answers.iter().filter(|answer| answer.ends_with("000")).count();
    equal("given up", lost, 3)?;
    equal("sent", posts(&servers)? - before, 15)
}

fn hedging_stays_within_its_budget_when_all_are_slow(lab: &Running) -> Result<()> {
    let servers = Moody::all(lab)?;
    let answers = ask(lab, 40, "-m 10 http://sparingly-hedged/")?;
    ensure!(
        answers.iter().all(|answer| answer.ends_with("200")),
        "{answers:?}"
    );
    for server in &servers {
        server.waits("0.4")?;
    }
    let refused = counted(lab, "mesh_hedges_total{outcome=\"over_budget\"}")?;
    let answers = ask(lab, 30, "-m 10 http://sparingly-hedged/")?;
    ensure!(
        answers.iter().all(|answer| answer.ends_with("200")),
        "{answers:?}"
    );
    let asked: usize = servers.iter().map(Moody::asked).sum::<Result<_>>()?;
    ensure!((70..=70 + 7).contains(&asked), "{asked} tries of 70 requests");
    let refused = counted(lab, "mesh_hedges_total{outcome=\"over_budget\"}")? - refused;
    ensure!(refused > 0, "no request was slow");
    Ok(())
}

fn a_fallback_answers_for_a_service_without_endpoints(lab: &Running) -> Result<()> {
    let reply = get(lab, CLIENT, "http://deserted/")?;
    equal("status", reply.status, 200)?;
    equal("body", reply.body.as_str(), "{\"items\":[]}")
}

fn a_fallback_service_answers_when_nobody_listens(lab: &Running) -> Result<()> {
    let server = Moody::start(lab, REPLICAS.get(SLOW).context("no such replica")?)?;
    let answers = ask(lab, 10, "-m 10 -d order http://closed/")?;
    let of_stand_in = |answer: &&String| *answer == "replica-4 200";
    equal(
        "answers of the stand-in",
        answers.iter().filter(of_stand_in).count(),
        10,
    )?;
    equal("asked", server.asked()?, 10)
}

fn a_fallback_is_none_for_what_a_policy_denies(lab: &Running) -> Result<()> {
    // Nobody listens: what is let in falls back.
    let reply = get(lab, CLIENT, "http://guarded/")?;
    equal("let in", (reply.status, reply.body.as_str()), (200, "fallback"))?;
    let _servers = Moody::all(lab)?;
    for _ in REPLICAS {
        equal("denied", get(lab, CLIENT, "http://guarded/denied")?.status, 403)?;
    }
    Ok(())
}
