//! What is claimed on real nodes, and how the claims are run; `cargo xtask kube test` asks for them.
//!
//! A claim says what a user of the cluster can see; it must not look inside of the agent.

mod admission;
mod changing;
mod churn;
mod faults;
mod kinds;
mod load;
mod mesh;
mod network;
mod plain;
mod probes;
mod seen;
mod traces;
mod upgrade;

use anyhow::{Result, ensure};

use super::{Cluster, Options, down, remains};
use crate::interrupt;
use crate::suites::{Judge, Verdict};

/// Something that must hold on real nodes.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The claim in words.
    pub name: &'static str,
    /// Checks it.
    pub check: fn(&Cluster) -> Result<()>,
}

/// Makes a claim of a function whose name is the claim.
macro_rules! claims {
    ($($check:ident),+ $(,)?) => {
        &[$($crate::cluster::claims::Claim { name: stringify!($check), check: $check }),+]
    };
}
use claims;

/// The names of all claims, in order.
pub fn all() -> impl Iterator<Item = &'static str> {
    plain::CLAIMS
        .iter()
        .chain(of_mesh())
        .map(|claim| claim.name)
        .chain([OWN_SUITE])
}

/// The claims that need the mesh, in order.
fn of_mesh() -> impl Iterator<Item = &'static Claim> {
    [
        mesh::CLAIMS,
        probes::CLAIMS,
        changing::CLAIMS,
        network::CLAIMS,
        churn::CLAIMS,
        kinds::CLAIMS,
        faults::CLAIMS,
        admission::CLAIMS,
        upgrade::CLAIMS,
    ]
    .into_iter()
    .flatten()
}

/// What these claims need and do not know how to do.
#[expect(missing_debug_implementations, reason = "functions have nothing to show")]
pub struct Hands<'h> {
    /// Puts the mesh into the cluster, where a claim about it is picked.
    pub install: &'h dyn Fn(&Cluster) -> Result<()>,
    /// Runs Gateway API's own conformance suite; fails unless all of it passes.
    pub own_suite: &'h dyn Fn(&Cluster) -> Result<()>,
}

const OWN_SUITE: &str = "gateway_apis_own_suite_passes";

/// How many of a hundred pods that dial at once were not captured in time; none where that was not tried to its end.
pub fn uncaptured_starts() -> Option<u64> {
    changing::uncaptured_starts()
}

/// How many requests failed while an application changed; none where that was not tried to its end.
pub fn failed_requests() -> Option<u64> {
    changing::failed_requests()
}

/// Makes a cluster, checks the claims that `only` picks by name, and takes it down; logs are kept where the options say.
pub fn run(
    options: &Options,
    only: &dyn Fn(&str) -> bool,
    hands: &Hands<'_>,
    hear: &dyn Fn(&Verdict),
) -> Vec<Verdict> {
    changing::forget();
    let mut judge = Judge {
        suite: "nodes",
        hear,
        verdicts: Vec::new(),
    };
    let made = judge.judge("two_nodes_and_the_clusters_dns_get_ready", || {
        Cluster::up(options, &|_| {})
    });
    let Some(cluster) = made else {
        return judge.verdicts;
    };
    check(&mut judge, &cluster, plain::CLAIMS.iter(), only);
    if of_mesh().map(|claim| claim.name).chain([OWN_SUITE]).any(only) {
        let installed = judge.judge("the_mesh_gets_ready_on_all_nodes", || (hands.install)(&cluster));
        if installed.is_some() {
            check(&mut judge, &cluster, of_mesh(), only);
            if only(OWN_SUITE) {
                judge.judge(OWN_SUITE, || (hands.own_suite)(&cluster));
            }
        }
    }
    judge.judge("every_program_of_the_cluster_is_alive_at_the_end", || {
        let ended: Vec<_> = cluster
            .processes()?
            .into_iter()
            .filter(|(_, is_alive)| !is_alive)
            .collect();
        ensure!(ended.is_empty(), "ended: {ended:?}");
        Ok(())
    });
    judge.judge("what_was_logged_can_be_kept", || options.keep_logs());
    judge.judge("the_cluster_goes_down_and_leaves_nothing", || {
        interrupt::forget();
        down(&options.site)?;
        let left = remains(&options.site)?;
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    });
    judge.verdicts
}

fn check(
    judge: &mut Judge<'_>,
    cluster: &Cluster,
    claims: impl Iterator<Item = &'static Claim>,
    only: &dyn Fn(&str) -> bool,
) {
    for claim in claims.filter(|claim| only(claim.name)) {
        judge.judge(claim.name, || {
            interrupt::check()?;
            (claim.check)(cluster)
        });
    }
}
