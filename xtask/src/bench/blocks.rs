//! Blocks of four samples, ours, theirs, theirs, ours, so that a machine that drifts drifts for both.
//!
//! It must not know what is sampled.

use anyhow::{Context, Result};
use mesh_tests::interrupt;
use serde::Serialize;

/// Which side of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// With the mesh.
    Ours,
    /// Without it.
    Theirs,
}

/// What came of all blocks of a workload. Ratios are ours by theirs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    /// The median of the blocks' ratios.
    pub(crate) ratio: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
    /// How many blocks.
    pub(crate) blocks: usize,
    /// The median of our samples.
    pub(crate) ours: f64,
    /// The median of theirs.
    pub(crate) theirs: f64,
}

/// Runs `count` blocks.
pub(crate) fn compare(count: usize, mut sample: impl FnMut(Side) -> Result<f64>) -> Result<Comparison> {
    let (mut ratios, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        interrupt::check()?;
        let (first, second) = (sample(Side::Ours)?, sample(Side::Theirs)?);
        let (third, fourth) = (sample(Side::Theirs)?, sample(Side::Ours)?);
        ratios.push((first + fourth) / (second + third));
        ours.extend([first, fourth]);
        theirs.extend([second, third]);
    }
    let smallest = ratios.iter().copied().min_by(f64::total_cmp);
    let largest = ratios.iter().copied().max_by(f64::total_cmp);
    Ok(Comparison {
        blocks: ratios.len(),
        min: smallest.context("no blocks")?,
        max: largest.context("no blocks")?,
        ratio: median(ratios).context("no blocks")?,
        ours: median(ours).context("no samples")?,
        theirs: median(theirs).context("no samples")?,
    })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied()?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = values.get((values.len() / 2).checked_sub(1)?).copied()?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_within_a_block_cancels_out() {
        let mut clock = 0.0;
        let sample = |side| {
            clock += 1.0;
            Ok(if side == Side::Ours { clock } else { 2.0 * clock })
        };
        let comparison = compare(3, sample).unwrap();
        assert!((comparison.ratio - 0.5).abs() < 1e-9, "{comparison:?}");
        assert_eq!(comparison.blocks, 3);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(vec![4.0, 1.0, 2.0, 10.0]), Some(3.0));
        assert_eq!(median(vec![5.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }
}
