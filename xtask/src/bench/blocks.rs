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

/// Four samples: ours, theirs, theirs, ours.
#[derive(Debug)]
pub(crate) struct Block<T> {
    ours: [T; 2],
    theirs: [T; 2],
}

impl<T> Block<T> {
    /// Takes the four samples, and none after one that cannot be had.
    pub(crate) fn take<E>(
        mut sample: impl FnMut(Side) -> std::result::Result<T, E>,
    ) -> std::result::Result<Self, E> {
        let (first, second) = (sample(Side::Ours)?, sample(Side::Theirs)?);
        let (third, fourth) = (sample(Side::Theirs)?, sample(Side::Ours)?);
        Ok(Self {
            ours: [first, fourth],
            theirs: [second, third],
        })
    }

    /// The samples of one side, in the order in which they were taken.
    pub(crate) fn of(&self, side: Side) -> &[T; 2] {
        match side {
            Side::Ours => &self.ours,
            Side::Theirs => &self.theirs,
        }
    }
}

impl Comparison {
    /// Compares one figure of all samples; `None` without blocks.
    pub(crate) fn of<T>(blocks: &[Block<T>], figure: impl Fn(&T) -> f64) -> Option<Self> {
        let figures = |side| blocks.iter().map(move |block| block.of(side));
        let ours = figures(Side::Ours).map(|samples| samples.each_ref().map(&figure));
        let theirs = figures(Side::Theirs).map(|samples| samples.each_ref().map(&figure));
        Self::of_pairs(&ours.zip(theirs).collect::<Vec<_>>())
    }

    fn of_pairs(blocks: &[([f64; 2], [f64; 2])]) -> Option<Self> {
        let sum = |samples: &[f64; 2]| samples.iter().sum::<f64>();
        let ratios: Vec<f64> = blocks
            .iter()
            .map(|(ours, theirs)| sum(ours) / sum(theirs))
            .collect();
        Some(Self {
            blocks: ratios.len(),
            min: ratios.iter().copied().min_by(f64::total_cmp)?,
            max: ratios.iter().copied().max_by(f64::total_cmp)?,
            ratio: median(ratios)?,
            ours: median(blocks.iter().flat_map(|(ours, _)| *ours).collect())?,
            theirs: median(blocks.iter().flat_map(|(_, theirs)| *theirs).collect())?,
        })
    }
}

/// Runs `count` blocks of samples that are one figure.
pub(crate) fn compare(count: usize, mut sample: impl FnMut(Side) -> Result<f64>) -> Result<Comparison> {
    let mut blocks = Vec::new();
    for _ in 0..count {
        interrupt::check()?;
        blocks.push(Block::take(&mut sample)?);
    }
    Comparison::of(&blocks, |figure| *figure).context("no blocks")
}

/// The value in the middle; `None` of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
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
