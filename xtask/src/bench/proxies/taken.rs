//! Blocks that count: taken until there are enough of them, and given up where too much else ran beside a sample.
//!
//! It must not know how a sample is taken.

use anyhow::Result;
use mesh_tests::interrupt;

use crate::bench::blocks::{Block, Side};
use crate::bench::proxies::sample::{Noise, Sample};
use crate::shell::line;

/// Blocks that count, and what became of the others.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) blocks: Vec<Block<Sample>>,
    /// Requests that failed, also in blocks that do not count.
    pub(crate) errors: u32,
    /// Blocks that were given up.
    pub(crate) refused: usize,
}

/// Why a block does not count.
enum Spoiled {
    /// Something else ran; another block may do better.
    Noise(Noise),
    /// The sample could not be taken at all.
    Failed(anyhow::Error),
}

impl Taken {
    /// Takes `wanted` blocks of samples beside which no more than `limit` was going on; fewer, once many were given up.
    pub(crate) fn take(
        wanted: usize,
        limit: Noise,
        mut sample: impl FnMut(Side) -> Result<Sample>,
    ) -> Result<Self> {
        let mut taken = Self::default();
        while taken.blocks.len() < wanted && taken.refused < wanted * PATIENCE {
            interrupt::check()?;
            let errors = &mut taken.errors;
            let block = Block::take(|side| {
                let sample = sample(side).map_err(Spoiled::Failed)?;
                *errors += sample.done.errors;
                if sample.noise.exceeds(limit) {
                    return Err(Spoiled::Noise(sample.noise));
                }
                Ok(sample)
            });
            match block {
                Ok(block) => taken.blocks.push(block),
                Err(Spoiled::Noise(Noise { foreign, stolen })) => {
                    taken.refused += 1;
                    line(&format!(
                        "    a block is given up: {foreign:.2} cores did something else, {stolen:.2} were taken away"
                    ))?;
                }
                Err(Spoiled::Failed(error)) => return Err(error),
            }
        }
        Ok(taken)
    }
}

/// How many blocks are given up at most for each that is wanted.
const PATIENCE: usize = 3;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::proxies::load::Done;
    use crate::bench::proxies::sample::Cost;

    fn sample(foreign: f64, errors: u32) -> Sample {
        Sample {
            done: Done {
                requests: 1,
                errors,
                took: Duration::from_secs(1),
                client: Duration::ZERO,
            },
            cost: Cost::default(),
            noise: Noise { foreign, stolen: 0.0 },
        }
    }

    #[test]
    fn a_block_beside_other_work_is_given_up_at_once_counted_and_taken_again() {
        let mut samples = 0;
        let taken = Taken::take(2, Noise::LIMIT, |_| {
            samples += 1;
            Ok(sample(if samples == 2 { 0.9 } else { 0.0 }, 0))
        });
        let taken = taken.unwrap();
        assert_eq!((taken.blocks.len(), taken.refused), (2, 1));
        assert_eq!(samples, 2 + 4 + 4);
    }

    #[test]
    fn a_machine_that_never_gets_quiet_gives_no_blocks_and_an_end() {
        let taken = Taken::take(2, Noise::LIMIT, |_| Ok(sample(0.9, 0))).unwrap();
        assert_eq!((taken.blocks.len(), taken.refused), (0, 6));
        let taken = Taken::take(2, Noise::UNLIMITED, |_| Ok(sample(0.9, 0))).unwrap();
        assert_eq!((taken.blocks.len(), taken.refused), (2, 0));
    }

    #[test]
    fn errors_of_blocks_that_were_given_up_count_all_the_same() {
        let taken = Taken::take(1, Noise::LIMIT, |_| Ok(sample(0.9, 5))).unwrap();
        assert_eq!(taken.errors, 15);
    }

    #[test]
    fn a_sample_that_cannot_be_taken_is_no_noise() {
        assert!(Taken::take(1, Noise::LIMIT, |_| anyhow::bail!("no route")).is_err());
    }
}
