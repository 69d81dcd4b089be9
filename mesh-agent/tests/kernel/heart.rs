//! The heartbeat of an agent that a test plays.

use std::sync::Arc;
use std::time::Duration;

use mesh_agent::kernel::Pulse;

/// Beats as the agent does, until it is dropped.
pub(crate) struct Heart {
    pulse: Arc<dyn Pulse>,
    beating: tokio::task::JoinHandle<()>,
}

impl Heart {
    pub(crate) fn start(pulse: Arc<dyn Pulse>) -> Self {
        pulse.beat().unwrap();
        let beats = Arc::clone(&pulse);
        let beating = tokio::runtime::Handle::current().spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(500));
            loop {
                tick.tick().await;
                beats.beat().unwrap();
            }
        });
        Self { pulse, beating }
    }

    /// As when the agent was killed long ago.
    pub(crate) fn fail(&self) {
        self.beating.abort();
        while !self.beating.is_finished() {
            std::thread::yield_now();
        }
        self.pulse.stop().unwrap();
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.beating.abort();
    }
}
