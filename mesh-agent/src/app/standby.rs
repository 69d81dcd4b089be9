//! The agent that waits: it learns all that it can without the node, and takes over once nobody else serves it.

use std::time::Instant;

use crate::app::ending::Ending;
use crate::app::knowledge::{Knowledge, Learned, are_there};
use crate::app::lock::{Standby, StateLock};
use crate::app::loops::{Start, TakingOver};
use crate::lifecycle::ReadyGuard;

/// The node is this agent's.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) lock: StateLock,
    pub(super) start: Start,
    /// What was learned while it was another agent's.
    pub(super) learned: Option<Learned>,
}

impl Turn {
    /// Of an agent that found nobody.
    pub(super) fn at_once(lock: StateLock, first: ReadyGuard) -> Self {
        Self {
            lock,
            start: Start {
                _first: Some(first),
                turn: None,
            },
            learned: None,
        }
    }
}

/// Waits for the node; `None` once this agent is told to end before. It is ready, which `first` holds back until then,
/// when it has a configuration and the certificates of all that is in it.
pub(super) async fn wait(
    mut standby: Standby,
    knowledge: &mut Knowledge,
    first: ReadyGuard,
    ending: &mut Ending,
) -> anyhow::Result<Option<Turn>> {
    tracing::info!("another agent serves this node; getting ready to take over from it");
    let (mut first, mut learned) = (Some(first), None);
    loop {
        let is_due = first.is_some() && learned.is_some();
        tokio::select! {
            () = ending.told() => return Ok(None),
            lock = standby.succeeds() => {
                tracing::info!(is_prepared = first.is_none(), "nobody serves this node any more; taking over");
                let turn = TakingOver { _standby: standby, since: Instant::now() };
                let start = Start { _first: first, turn: Some(turn) };
                return Ok(Some(Turn { lock: lock?, start, learned }));
            }
            reading = knowledge.source.next_reading() => {
                if let Some(latest) = knowledge.learn(reading) {
                    learned = Some(latest);
                }
            }
            are_there = are_there(&knowledge.certificates), if is_due => {
                if are_there {
                    standby.prepared().await?;
                    first = None;
                    tracing::info!("prepared to take over");
                }
            }
        }
    }
}
