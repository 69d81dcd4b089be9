//! What was found of one workload against one peer, for the report, the terminal and the page.
//!
//! It must not measure.

use serde::Serialize;

use crate::bench::blocks::{Block, Comparison, Side, median};
use crate::bench::proxies::peer::Peer;
use crate::bench::proxies::proof::Proof;
use crate::bench::proxies::sample::{Cost, Sample};
use crate::bench::proxies::taken::Taken;
use crate::bench::proxies::workload::{Figure, Workload};

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    #[serde(skip)]
    pub(crate) workload: Workload,
    #[serde(skip)]
    pub(crate) peer: Peer,
    /// What the ratio is one of.
    pub(crate) figure: &'static str,
    /// The unit of `ours` and `theirs`.
    pub(crate) unit: &'static str,
    /// The ratio; absent when no block could be taken.
    #[serde(flatten)]
    pub(crate) judged: Option<Comparison>,
    /// Requests that failed, on either side.
    pub(crate) errors: u32,
    /// Blocks that were given up for what else ran on the machine.
    pub(crate) refused: usize,
    /// The rest of what samples of requests say.
    #[serde(flatten)]
    pub(crate) requests: Option<Requests>,
}

/// What blocks of requests say.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Requests {
    /// Processor time a request of all that works for it, in µs.
    pub(crate) whole_path: Option<Comparison>,
    /// Of the proxies alone.
    pub(crate) proxies: Option<Comparison>,
    /// Requests answered in a second: more is better.
    #[serde(rename = "requests_per_second")]
    pub(crate) rate: Option<Comparison>,
    /// The parts of the whole path with the mesh, medians in µs.
    pub(crate) cost_ours: Option<Cost>,
    /// With the peer.
    pub(crate) cost_theirs: Option<Cost>,
    /// Cores that were busy with something else, the worst sample that counted.
    pub(crate) foreign: f64,
    /// How it is known which way the requests went.
    pub(crate) proof_ours: Proof,
    /// With the peer.
    pub(crate) proof_theirs: Proof,
}

impl Row {
    /// A row of requests.
    pub(crate) fn of_requests(
        workload: Workload,
        peer: Peer,
        taken: &Taken,
        [proof_ours, proof_theirs]: [Proof; 2],
    ) -> Self {
        let blocks = &taken.blocks;
        let whole_path = Comparison::of(blocks, |sample| sample.cost.whole_path());
        let proxies = Comparison::of(blocks, |sample| sample.cost.proxies);
        let figure = workload.figure();
        Self {
            workload,
            peer,
            figure: figure.title(),
            unit: figure.unit(),
            judged: match figure {
                Figure::WholePath => whole_path.clone(),
                Figure::Proxies => proxies.clone(),
                Figure::Memory => None,
            },
            errors: taken.errors,
            refused: taken.refused,
            requests: Some(Requests {
                whole_path,
                proxies,
                rate: Comparison::of(blocks, |sample| sample.done.rate()),
                cost_ours: cost(blocks, Side::Ours),
                cost_theirs: cost(blocks, Side::Theirs),
                foreign: samples(blocks, Side::Ours)
                    .chain(samples(blocks, Side::Theirs))
                    .map(|sample| sample.noise.foreign)
                    .fold(0.0, f64::max),
                proof_ours,
                proof_theirs,
            }),
        }
    }

    /// A row of memory. A connection that fails ends the sample, so there are no errors to count.
    pub(crate) fn of_memory(workload: Workload, peer: Peer, judged: Option<Comparison>) -> Self {
        Self {
            workload,
            peer,
            figure: workload.figure().title(),
            unit: workload.figure().unit(),
            judged,
            errors: 0,
            refused: 0,
            requests: None,
        }
    }
}

fn samples(blocks: &[Block<Sample>], side: Side) -> impl Iterator<Item = &Sample> {
    blocks.iter().flat_map(move |block| block.of(side))
}

fn cost(blocks: &[Block<Sample>], side: Side) -> Option<Cost> {
    let middle =
        |part: fn(&Cost) -> f64| median(samples(blocks, side).map(|sample| part(&sample.cost)).collect());
    Some(Cost {
        client: middle(|cost| cost.client)?,
        proxies: middle(|cost| cost.proxies)?,
        backend: middle(|cost| cost.backend)?,
        interrupts: middle(|cost| cost.interrupts)?,
    })
}

/// `0.85 [0.80 to 0.91]`.
pub(crate) fn ratio(comparison: Option<&Comparison>) -> String {
    comparison.map_or_else(
        || "none".to_owned(),
        |Comparison { ratio, min, max, .. }| format!("{ratio:.2} [{min:.2} to {max:.2}]"),
    )
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ours, theirs) = self
            .judged
            .as_ref()
            .map_or((0.0, 0.0), |one| (one.ours, one.theirs));
        let blocks = self.judged.as_ref().map_or(0, |one| one.blocks);
        write!(
            f,
            "{:<9} {:<8} {:<22} {ours:>7.1} by {theirs:>7.1} {:<4}",
            self.workload.key,
            self.peer.name(),
            ratio(self.judged.as_ref()),
            self.unit,
        )?;
        if let Some(requests) = &self.requests {
            let rate = requests.rate.as_ref();
            let (ours, theirs) = rate.map_or((0.0, 0.0), |rate| (rate.ours, rate.theirs));
            write!(
                f,
                " proxies {:<22} whole path {:<22} {ours:>6.0} by {theirs:>6.0}/s ",
                ratio(requests.proxies.as_ref()),
                ratio(requests.whole_path.as_ref()),
            )?;
        }
        write!(
            f,
            " {blocks} blocks, {} refused, {} errors",
            self.refused, self.errors
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::proxies::load::Done;
    use crate::bench::proxies::sample::Noise;
    use crate::bench::proxies::workload::WORKLOADS;

    fn taken() -> Taken {
        let sample = |side| {
            let proxies = if side == Side::Ours { 10.0 } else { 20.0 };
            Ok::<_, ()>(Sample {
                done: Done {
                    requests: 100,
                    errors: 0,
                    took: std::time::Duration::from_secs(1),
                    client: std::time::Duration::ZERO,
                },
                cost: Cost {
                    client: 10.0,
                    proxies,
                    backend: 10.0,
                    interrupts: 0.0,
                },
                noise: Noise {
                    foreign: 0.02,
                    stolen: 0.0,
                },
            })
        };
        Taken {
            blocks: vec![Block::take(sample).unwrap()],
            errors: 3,
            refused: 1,
        }
    }

    #[test]
    fn one_hop_is_judged_by_the_whole_path_and_two_by_the_proxies() {
        let judged = |key: &str| {
            let workload = *WORKLOADS.iter().find(|workload| workload.key == key).unwrap();
            let row = Row::of_requests(workload, Peer::Nginx, &taken(), Default::default());
            row.judged.unwrap().ratio
        };
        assert!((judged("W1") - 0.75).abs() < 1e-9);
        assert!((judged("W3") - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_report_has_ratio_bounds_blocks_and_errors_of_a_row() {
        let row = Row::of_requests(WORKLOADS[0], Peer::Envoy, &taken(), Default::default());
        let shown = serde_json::to_value(&row).unwrap();
        for key in [
            "ratio",
            "min",
            "max",
            "blocks",
            "errors",
            "refused",
            "proxies",
            "whole_path",
        ] {
            assert!(shown.get(key).is_some(), "no {key} in {shown}");
        }
        assert_eq!(shown.get("errors").unwrap(), 3);
    }

    #[test]
    fn a_row_without_blocks_has_no_ratio() {
        let row = Row::of_requests(WORKLOADS[0], Peer::Envoy, &Taken::default(), Default::default());
        assert!(serde_json::to_value(&row).unwrap().get("ratio").is_none());
        assert!(row.to_string().contains("none"), "{row}");
    }
}
