//! What outlier detection and circuit breakers did, by Service port.
//!
//! Place in the walk: the control thread tells it what picks have counted. Must not know: endpoints, policies.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::mesh::registered;

/// Families with series only for Service ports that have such a policy, for as long as they have it.
#[derive(Debug)]
pub struct BalanceMetrics {
    ejected: Family<[(&'static str, String); 3], Gauge>,
    unhealthy: Family<[(&'static str, String); 3], Gauge>,
    ejections: Family<[(&'static str, String); 4], Counter>,
    overflows: Family<[(&'static str, String); 4], Counter>,
    shown: Mutex<HashSet<Shown>>,
}

/// The counts of one Service port; words are of closed sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamCounts {
    /// `metadata.namespace` of the Service.
    pub namespace: String,
    /// `metadata.name` of the Service.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// Endpoints that are ejected now.
    pub ejected: usize,
    /// Endpoints that are unhealthy now; `None` where their health is not checked.
    pub unhealthy: Option<usize>,
    /// Ejections so far, by cause.
    pub ejections: Vec<(&'static str, u64)>,
    /// What limits refused so far.
    pub overflows: Vec<(&'static str, u64)>,
}

impl UpstreamCounts {
    /// Adds what is counted apart for the same Service port.
    pub fn add(&mut self, other: &Self) {
        self.ejected += other.ejected;
        // Subsets hold endpoints of the whole: they are not counted twice.
        self.unhealthy = self.unhealthy.max(other.unhealthy);
        for (own, others) in [
            (&mut self.ejections, &other.ejections),
            (&mut self.overflows, &other.overflows),
        ] {
            for (word, count) in others {
                match own.iter_mut().find(|(known, _)| known == word) {
                    Some((_, known)) => *known += count,
                    None => own.push((*word, *count)),
                }
            }
        }
    }
}

/// A Service port with series, and the words that it has some for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Shown {
    port: [(&'static str, String); 3],
    causes: Vec<&'static str>,
    limits: Vec<&'static str>,
}

impl BalanceMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            ejected: registered(
                registry,
                (
                    "mesh_ejected_endpoints",
                    "Endpoints that are left out for their failures now",
                ),
            ),
            unhealthy: registered(
                registry,
                (
                    "mesh_unhealthy_endpoints",
                    "Endpoints that are left out for their answers to health checks now",
                ),
            ),
            ejections: registered(
                registry,
                ("mesh_ejections", "Ejections of endpoints by their cause"),
            ),
            overflows: registered(
                registry,
                (
                    "mesh_breaker_overflows",
                    "Requests and connections that a limit of the traffic policy refused",
                ),
            ),
            shown: Mutex::default(),
        }
    }

    /// Shows exactly these Service ports.
    pub fn publish(&self, counts: &[UpstreamCounts]) {
        let mut shown = self.shown.lock();
        let now: HashSet<Shown> = counts.iter().map(|counts| self.show(counts)).collect();
        let of_ports: HashSet<_> = now.iter().map(|shown| &shown.port).collect();
        for gone in shown.iter().filter(|gone| !of_ports.contains(&gone.port)) {
            self.ejected.remove(&gone.port);
            self.unhealthy.remove(&gone.port);
            for cause in &gone.causes {
                self.ejections.remove(&with(&gone.port, "cause", cause));
            }
            for limit in &gone.limits {
                self.overflows.remove(&with(&gone.port, "limit", limit));
            }
        }
        *shown = now;
    }

    fn show(&self, counts: &UpstreamCounts) -> Shown {
        let port = [
            ("service_namespace", counts.namespace.clone()),
            ("service", counts.service.clone()),
            ("port", counts.port.to_string()),
        ];
        self.ejected
            .get_or_create(&port)
            .set(i64::try_from(counts.ejected).unwrap_or(i64::MAX));
        if let Some(unhealthy) = counts.unhealthy {
            let unhealthy = i64::try_from(unhealthy).unwrap_or(i64::MAX);
            self.unhealthy.get_or_create(&port).set(unhealthy);
        } else {
            self.unhealthy.remove(&port);
        }
        for (cause, count) in &counts.ejections {
            let counter = self.ejections.get_or_create_owned(&with(&port, "cause", cause));
            counter.inner().store(*count, Ordering::Relaxed);
        }
        for (limit, count) in &counts.overflows {
            let counter = self.overflows.get_or_create_owned(&with(&port, "limit", limit));
            counter.inner().store(*count, Ordering::Relaxed);
        }
        Shown {
            port,
            causes: counts.ejections.iter().map(|(cause, _)| *cause).collect(),
            limits: counts.overflows.iter().map(|(limit, _)| *limit).collect(),
        }
    }
}

fn with(
    port: &[(&'static str, String); 3],
    name: &'static str,
    value: &'static str,
) -> [(&'static str, String); 4] {
    let [namespace, service, number] = port.clone();
    [namespace, service, number, (name, value.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(service: &str, ejected: usize, ejections: u64) -> UpstreamCounts {
        UpstreamCounts {
            namespace: "shop".to_owned(),
            service: service.to_owned(),
            port: 80,
            ejected,
            unhealthy: None,
            ejections: vec![("consecutive_5xx", ejections)],
            overflows: vec![("requests", 7)],
        }
    }

    fn shown(metrics: &BalanceMetrics, registry: &Registry, counts: &[UpstreamCounts]) -> Vec<String> {
        metrics.publish(counts);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn a_service_port_is_shown_while_it_has_a_policy() {
        let mut registry = Registry::default();
        let metrics = BalanceMetrics::register(&mut registry);
        let labels = "service_namespace=\"shop\",service=\"web\",port=\"80\"";
        let first = shown(&metrics, &registry, &[counts("web", 1, 1), counts("api", 0, 0)]);
        assert!(
            first.contains(&format!("mesh_ejected_endpoints{{{labels}}} 1")),
            "{first:?}"
        );
        let second = shown(&metrics, &registry, &[counts("web", 0, 2)]);
        assert_eq!(
            second,
            [
                format!("mesh_ejected_endpoints{{{labels}}} 0"),
                format!("mesh_ejections_total{{{labels},cause=\"consecutive_5xx\"}} 2"),
                format!("mesh_breaker_overflows_total{{{labels},limit=\"requests\"}} 7"),
            ]
        );
        assert!(shown(&metrics, &registry, &[]).is_empty());
    }
}
