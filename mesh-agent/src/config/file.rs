//! The file with the agent's settings, and what is wrong with it.
//!
//! Place in the walk: before everything. Must not know: what the settings are for.

use std::path::Path;

use super::ConfigError;
use super::settings::Settings;

/// Reads the settings of a file.
pub(super) fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|message| ConfigError::Parse {
        path: path.to_owned(),
        message,
    })
}

pub(super) fn parse(text: &str) -> Result<Settings, String> {
    if text.trim().is_empty() {
        return Ok(Settings::default());
    }
    let document = serde_yaml_ng::Deserializer::from_str(text);
    serde_path_to_error::deserialize(document).map_err(|error| {
        let message = error.inner().to_string();
        match unknown_field(&message) {
            Some(unknown) => format!("unknown field {unknown:?}{}", suggestion(unknown)),
            None => format!("{}: {message}", error.path()),
        }
    })
}

/// The name in serde's message for a field that is not known.
fn unknown_field(message: &str) -> Option<&str> {
    message.split_once("unknown field `")?.1.split('`').next()
}

fn suggestion(unknown: &str) -> String {
    let nearest = FIELDS
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown)));
    match nearest {
        Some(known) if strsim::jaro_winkler(known, unknown) > 0.75 => format!(": did you mean {known:?}?"),
        _ => format!(": known are {}", FIELDS.join(", ")),
    }
}

/// Names of all settings, for suggestions.
pub(super) const FIELDS: [&str; 47] = [
    "node_name",
    "manifests",
    "kubernetes",
    "state_dir",
    "handover",
    "probe_socket",
    "bpf_dir",
    "cgroup_root",
    "placement_annotations",
    "cni_conf_dir",
    "cni_bin_dir",
    "cni_fail_mode",
    "cni_timeout_s",
    "ca_dir",
    "admin_addr",
    "trust_domain",
    "root_namespace",
    "log_level",
    "access_log",
    "detect_timeout_ms",
    "connect_timeout_ms",
    "idle_timeout_s",
    "drain_timeout_s",
    "endpoint_drain_s",
    "certificate_ttl_s",
    "ca_addr",
    "ca_root_file",
    "ca_token_file",
    "certificate_dir",
    "spire_socket",
    "spire_selectors",
    "crl_file",
    "jwks_root_file",
    "tls_files_dir",
    "trust_domain_aliases",
    "trust_bundle_dir",
    "direct",
    "splice",
    "seccomp",
    "admin_token_file",
    "data_threads",
    "handshake_rate",
    "dns_capture",
    "cluster_domain",
    "dns_ttl_s",
    "max_pods",
    "max_flows",
];
