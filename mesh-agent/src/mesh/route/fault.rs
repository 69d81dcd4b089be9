//! Faults that a rule puts in on purpose, in declared form.

use std::time::Duration;

use http::StatusCode;
use rand::RngCore;

use super::Share;

/// What is done to some requests of a rule before anything of them is sent: first the delay, then the abort.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fault {
    /// How long, and of how many requests.
    pub delay: Option<(Duration, Share)>,
    /// With what, and of how many requests; drawn apart from the delay.
    pub abort: Option<(Abort, Share)>,
}

/// What a request is answered with instead of being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// An HTTP status, which a gRPC client gets as the gRPC status that stands for it.
    Http(StatusCode),
    /// A gRPC status.
    Grpc(u32),
}

/// What was drawn for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drawn {
    /// It waits.
    pub delay: Option<Duration>,
    /// Then it is answered with this.
    pub abort: Option<Abort>,
}

impl Fault {
    /// Draws what happens to one request.
    pub fn draw(&self, rng: &mut dyn RngCore) -> Drawn {
        Drawn {
            delay: drawn(self.delay, rng),
            abort: drawn(self.abort, rng),
        }
    }
}

fn drawn<T>(part: Option<(T, Share)>, rng: &mut dyn RngCore) -> Option<T> {
    part.filter(|(_, share)| share.includes_one(rng))
        .map(|(part, _)| part)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn delay_and_abort_are_drawn_apart() {
        let half = Share {
            numerator: 500_000,
            denominator: 1_000_000,
        };
        let fault = Fault {
            delay: Some((Duration::from_secs(1), half)),
            abort: Some((Abort::Grpc(14), half)),
        };
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts = [[0_u32; 2]; 2];
        for _ in 0..4000 {
            let Drawn { delay, abort } = fault.draw(&mut rng);
            counts[usize::from(delay.is_some())][usize::from(abort.is_some())] += 1;
        }
        // A quarter each; five standard deviations are 137.
        for count in counts.into_iter().flatten() {
            assert!((863..=1137).contains(&count), "{counts:?}");
        }
    }
}
