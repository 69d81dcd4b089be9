//! Writing label sets in Istio's order.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, LabelSetEncoder};

use super::labels::{FlowLabels, Reporter};

/// Labels of flow metrics before `request_protocol`, in Istio's order, the reporter left out.
const FLOW_NAMES: [&str; 19] = [
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
];

pub(super) fn label(encoder: &mut LabelSetEncoder<'_>, name: &str, value: &str) -> fmt::Result {
    (name, value).encode(encoder.encode_label())
}

/// The reporter and both sides.
pub(super) fn flow(encoder: &mut LabelSetEncoder<'_>, flow: &FlowLabels) -> fmt::Result {
    let FlowLabels {
        source, destination, ..
    } = flow;
    let (host, name, namespace) = flow.service_text();
    let values = [
        source.workload(),
        source.canonical_service(),
        source.canonical_revision(),
        source.namespace(),
        source.principal(),
        source.app(),
        source.version(),
        source.cluster(),
        destination.workload(),
        destination.namespace(),
        destination.principal(),
        destination.app(),
        destination.version(),
        &host,
        destination.canonical_service(),
        destination.canonical_revision(),
        name,
        namespace,
        destination.cluster(),
    ];
    label(encoder, "reporter", flow.reporter.as_str())?;
    FLOW_NAMES
        .iter()
        .zip(values)
        .try_for_each(|(name, value)| label(encoder, name, value))
}

/// The overflow series: the same names, so that queries which group by them still add up.
pub(super) fn overflow(encoder: &mut LabelSetEncoder<'_>, reporter: Reporter, rest: &[&str]) -> fmt::Result {
    label(encoder, "reporter", reporter.as_str())?;
    FLOW_NAMES
        .iter()
        .chain(rest)
        .try_for_each(|name| label(encoder, name, OVERFLOW))
}

/// Stands for every value in the series that takes what has no room.
const OVERFLOW: &str = "overflow";
