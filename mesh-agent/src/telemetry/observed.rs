//! Numbers that other parts keep, read from them on each scrape, so that they are counted in one place.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::mesh::epoch_seconds;
use crate::lifecycle::Tasks;
use crate::mesh::identity::SpiffeId;

/// What the certificate store tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFacts {
    /// When the certificate of each identity expires.
    pub expiries: Vec<(SpiffeId, SystemTime)>,
    /// Identities whose certificate is in its last quarter, expired, or was never issued.
    pub overdue: usize,
    /// Certificates that were issued.
    pub renewals: u64,
    /// Attempts that failed.
    pub failed_renewals: u64,
    /// The failed ones by reason, from a closed set.
    pub failures: Vec<(&'static str, u64)>,
}

type ReadAge = Box<dyn Fn() -> Duration + Send + Sync>;
type ReadCertificates = Box<dyn Fn() -> CertificateFacts + Send + Sync>;

/// Sources that `app` names once they exist; until then their families are left out.
#[derive(Default)]
pub(super) struct Observed {
    certificates: Mutex<Option<ReadCertificates>>,
    tasks: Mutex<Option<Tasks>>,
    config_age: Mutex<Option<ReadAge>>,
}

impl Observed {
    pub(super) fn certificates(&self, read: ReadCertificates) {
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    pub(super) fn config_age(&self, read: ReadAge) {
        *self.config_age.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    pub(super) fn tasks(&self, tasks: Tasks) {
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) = Some(tasks);
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

impl Collector for Observed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(tasks) = tasks {
            encode_tasks(&mut encoder, &tasks)?;
        }
        let age = self.config_age.lock().unwrap_or_else(PoisonError::into_inner);
        let age = age.as_ref().map(|read| read());
        age.map_or(Ok(()), |age| encode_age(&mut encoder, age))?;
        let certificates = self
            .certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|read| read());
        certificates.map_or(Ok(()), |facts| encode_certificates(&mut encoder, &facts))
    }
}

fn encode_age(encoder: &mut DescriptorEncoder<'_>, age: Duration) -> fmt::Result {
    let help = "For how long configuration may have changed unseen; 0 while the source is heard.";
    encoder
        .encode_descriptor("mesh_config_age", help, Some(&Unit::Seconds), MetricType::Gauge)?
        .encode_gauge(&age.as_secs_f64())
}

fn encode_tasks(encoder: &mut DescriptorEncoder<'_>, tasks: &Tasks) -> fmt::Result {
    encoder
        .encode_descriptor(
            "mesh_task_panics",
            "Tasks that panicked.",
            None,
            MetricType::Counter,
        )?
        .encode_counter::<NoLabelSet, _, f64>(&tasks.panics(), None)?;
    encoder
        .encode_descriptor(
            "mesh_tasks_active",
            "Tasks that are running.",
            None,
            MetricType::Gauge,
        )?
        .encode_gauge(&tasks.active())?;
    encoder
        .encode_descriptor(
            "mesh_bulk_pods",
            "Pods whose traffic takes so much time that it runs on the bulk threads.",
            None,
            MetricType::Gauge,
        )?
        .encode_gauge(&tasks.heavy())
}

fn encode_certificates(encoder: &mut DescriptorEncoder<'_>, facts: &CertificateFacts) -> fmt::Result {
    let help = "Certificates that were asked for, by outcome.";
    let mut renewals =
        encoder.encode_descriptor("mesh_certificate_renewals", help, None, MetricType::Counter)?;
    for (result, count) in [("ok", facts.renewals), ("failed", facts.failed_renewals)] {
        renewals
            .encode_family(&[("result", result)])?
            .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
    }
    let help = "Failed attempts to get a certificate.";
    let mut failures =
        encoder.encode_descriptor("mesh_certificate_failures", help, None, MetricType::Counter)?;
    for (reason, count) in &facts.failures {
        failures
            .encode_family(&[("reason", *reason)])?
            .encode_counter::<NoLabelSet, _, f64>(count, None)?;
    }
    let help = "Identities whose certificate should have been renewed long ago, or is not there.";
    encoder
        .encode_descriptor("mesh_certificates_overdue", help, None, MetricType::Gauge)?
        .encode_gauge(&facts.overdue)?;
    let name = "mesh_certificate_expiry_timestamp";
    let help = "When the certificate of an identity expires, since the epoch.";
    let mut expiry = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
    facts.expiries.iter().try_for_each(|(identity, at)| {
        expiry
            .encode_family(&[("identity", identity.to_string())])?
            .encode_gauge(&epoch_seconds(*at))
    })
}
