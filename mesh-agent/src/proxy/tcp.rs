//! Opaque connections: bytes in, the same bytes out.

use std::borrow::Cow;
use std::time::Duration;

use crate::proxy::refusal::Refusal;
use crate::telemetry::{PathTaken, ResponseFlag, TcpRecord};
use crate::transport::ByteStream;
use crate::transport::relay::{Meter, RelayEnd, relay};

/// The records of a connection: one for each reporter that this agent is, the source's first.
#[derive(Debug, Default)]
pub(super) struct TcpLedger(pub(super) Vec<TcpRecord>);

impl TcpLedger {
    pub(super) fn flag(&self, flag: ResponseFlag, details: impl Into<Cow<'static, str>>) {
        let details = details.into();
        for record in &self.0 {
            record.flag(flag);
            record.details(details.clone());
        }
    }

    /// Told once for a connection, on the first record: it is counted.
    pub(super) fn path_taken(&self, path: PathTaken) {
        if let Some(record) = self.0.first() {
            record.path_taken(path);
        }
    }

    pub(super) fn refuse(&self, refusal: &Refusal) {
        self.flag(refusal.flag(), refusal.details());
    }
}

impl Meter for TcpLedger {
    fn sent(&self, count: u64) {
        for record in &self.0 {
            record.add_received_bytes(count);
        }
    }

    fn received(&self, count: u64) {
        for record in &self.0 {
            record.add_sent_bytes(count);
        }
    }
}

/// Copies between client and upstream to the end, and notes how it ended.
pub(super) async fn carry(
    client: impl ByteStream,
    upstream: impl ByteStream,
    idle: Duration,
    ledger: &TcpLedger,
) {
    match relay(client, upstream, idle, ledger).await {
        RelayEnd::Finished => {}
        RelayEnd::ClientFailed(error) => {
            tracing::debug!(%error, "client failed");
            ledger.flag(ResponseFlag::Dc, "downstream_reset");
        }
        RelayEnd::UpstreamFailed(error) => {
            tracing::debug!(%error, "upstream failed");
            ledger.flag(ResponseFlag::Uc, "upstream_reset");
        }
        RelayEnd::Idle => ledger.flag(ResponseFlag::Si, "idle_timeout"),
    }
}
