//! `trafficPolicy` of a DestinationRule, and of one of its ports.
//!
//! Place in the walk: part of [`super::destination_rule`]. Must not know: hosts, Services.
//!
//! What is not supported is reported by its path and ignored: requests go to the same endpoints without it. A value
//! that Istio would not accept leaves the rule out.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::ca_bundles::CaBundles;
use super::locality_setting::{self, LocalitySetting};
use super::object::{Object, unknown_fields};
use super::{connection_pool, consistent_hash, duration, outlier_detection, tls_settings, tunnel};
use crate::mesh::facts::Rejection;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::traffic::{BalancerKind, Warmup, WrittenBalancer, WrittenPolicy};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    load_balancer: Option<LoadBalancer>,
    connection_pool: Option<connection_pool::Written>,
    retry_budget: Option<connection_pool::WrittenBudget>,
    outlier_detection: Option<outlier_detection::Written>,
    tls: Option<tls_settings::Written>,
    proxy_protocol: Option<WrittenProxy>,
    tunnel: Option<tunnel::Written>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WrittenProxy {
    version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LoadBalancer {
    simple: Option<String>,
    consistent_hash: Option<consistent_hash::Written>,
    locality_lb_setting: Option<LocalitySetting>,
    warmup: Option<WrittenWarmup>,
    warmup_duration_secs: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenWarmup {
    duration: Option<String>,
    minimum_percent: Option<f64>,
    aggression: Option<f64>,
}

/// The policy that `part`, found at the path `at`, writes; `also` is the field that is read elsewhere.
pub(super) fn translate(
    object: &Object,
    (part, at): (&Value, &str),
    also: &str,
    bundles: &CaBundles,
    rejections: &mut Vec<Rejection>,
) -> Result<WrittenPolicy, Rejection> {
    let written: Written = object.parse_part(part, at)?;
    for (pointer, known) in SUPPORTED {
        let mapping = part.pointer(pointer).unwrap_or(&Value::Null);
        let path = format!("{at}{}", pointer.replace('/', "."));
        let unknown = unknown_fields(mapping, known).filter(|field| !(pointer.is_empty() && *field == also));
        rejections.extend(unknown.map(|field| object.unsupported(&format!("{path}.{field}"))));
    }
    let reader = Reader { object, at };
    Ok(WrittenPolicy {
        load_balancer: match written.load_balancer {
            Some(load_balancer) => Some(reader.load_balancer(&load_balancer, rejections)?),
            None => None,
        },
        limits: match written.connection_pool {
            Some(pool) => Some(connection_pool::read(&reader, &pool)?),
            None => None,
        },
        retry_share: match written.retry_budget {
            Some(budget) => Some(connection_pool::read_budget(&reader, &budget)?),
            None => None,
        },
        outliers: match written.outlier_detection {
            Some(outliers) => Some(outlier_detection::read(&reader, &outliers)?),
            None => None,
        },
        tls: written
            .tls
            .map(|tls| tls_settings::read(&reader, &tls, bundles, rejections)),
        proxied: match written.proxy_protocol {
            Some(_) if also == OF_PORTS => {
                rejections.push(reader.wrong("proxyProtocol", OF_ALL_PORTS));
                None
            }
            Some(proxy) => Some(reader.proxy_protocol(&proxy)?),
            None => None,
        },
        tunnel: match written.tunnel {
            Some(_) if also == OF_PORTS => {
                rejections.push(reader.wrong("tunnel", OF_ALL_PORTS));
                None
            }
            Some(tunnel) => Some(tunnel::read(&reader, &tunnel)?),
            None => None,
        },
    })
}

/// Reads values of one policy, and names them when they are wrong.
pub(super) struct Reader<'a> {
    pub(super) object: &'a Object,
    at: &'a str,
}

impl Reader<'_> {
    fn load_balancer(
        &self,
        written: &LoadBalancer,
        rejections: &mut Vec<Rejection>,
    ) -> Result<WrittenBalancer, Rejection> {
        let kind = match (&written.consistent_hash, written.simple.as_deref()) {
            (Some(hash), _) => Some(BalancerKind::ConsistentHash(consistent_hash::read(self, hash)?)),
            (None, Some(simple)) => self.simple(simple, rejections),
            (None, None) => None,
        };
        let locality = match &written.locality_lb_setting {
            Some(setting) => locality_setting::read(setting).unwrap_or_else(|(field, reason)| {
                let field = format!("loadBalancer.localityLbSetting.{field}");
                rejections.push(self.wrong(&field, format!("{reason}; the setting is ignored")));
                None
            }),
            None => None,
        };
        Ok(WrittenBalancer {
            kind,
            locality,
            warmup: self.warmup(written)?,
        })
    }

    fn proxy_protocol(&self, written: &WrittenProxy) -> Result<ProxyProtocol, Rejection> {
        match written.version.as_deref() {
            None | Some("" | "V1") => Ok(ProxyProtocol::V1),
            Some("V2") => Ok(ProxyProtocol::V2),
            Some(_) => Err(self.wrong("proxyProtocol.version", "use V1 or V2")),
        }
    }

    fn simple(&self, simple: &str, rejections: &mut Vec<Rejection>) -> Option<BalancerKind> {
        match simple {
            "UNSPECIFIED" => None,
            "ROUND_ROBIN" => Some(BalancerKind::RoundRobin),
            // The older name of the same algorithm.
            "LEAST_REQUEST" | "LEAST_CONN" => Some(BalancerKind::LeastRequest),
            "RANDOM" => Some(BalancerKind::Random),
            other => {
                let reason = format!(
                    "{other:?} is not supported yet; use ROUND_ROBIN, LEAST_REQUEST or RANDOM; ignored"
                );
                rejections.push(self.wrong("loadBalancer.simple", reason));
                None
            }
        }
    }

    fn warmup(&self, written: &LoadBalancer) -> Result<Option<Warmup>, Rejection> {
        let default = WrittenWarmup::default();
        let warmup = written.warmup.as_ref().unwrap_or(&default);
        let text = warmup
            .duration
            .as_deref()
            .or(written.warmup_duration_secs.as_deref());
        let Some(duration) = self.duration("loadBalancer.warmup.duration", text)? else {
            return Ok(None);
        };
        let minimum_percent = warmup.minimum_percent.unwrap_or(10.0);
        let aggression = warmup.aggression.unwrap_or(1.0);
        let minimum_percent = whole(minimum_percent, 100)
            .ok_or_else(|| self.wrong("loadBalancer.warmup.minimumPercent", "use 0 to 100"))?;
        let aggression_milli = whole(aggression * 1000.0, 1_000_000)
            .filter(|milli| *milli >= 1000)
            .ok_or_else(|| self.wrong("loadBalancer.warmup.aggression", "use 1 to 1000"))?;
        Ok((!duration.is_zero()).then_some(Warmup {
            duration,
            minimum_percent,
            aggression_milli,
        }))
    }

    pub(super) fn duration(&self, field: &str, text: Option<&str>) -> Result<Option<Duration>, Rejection> {
        let Some(text) = text else { return Ok(None) };
        let wrong = || {
            self.wrong(
                field,
                format!("{text:?} is no duration; write for instance 30s or 1m30s"),
            )
        };
        duration::parse(text).map(Some).ok_or_else(wrong)
    }

    pub(super) fn wrong(&self, field: &str, reason: impl Into<String>) -> Rejection {
        self.object.reject(&format!("{}.{field}", self.at), reason)
    }
}

/// A number from 0 to `most`, its fraction cut off.
pub(super) fn whole(value: f64, most: u32) -> Option<u32> {
    if !(0.0..=f64::from(most)).contains(&value) {
        return None;
    }
    format!("{value:.0}").parse().ok()
}

/// What is read elsewhere of a policy that is one port's.
pub(super) const OF_PORTS: &str = "port";
/// Of fields that ports have not.
const OF_ALL_PORTS: &str = "belongs to the whole policy, and holds for all of its ports; ignored";

/// Each mapping that is read, and the fields that have an effect.
const SUPPORTED: [(&str, &[&str]); 16] = [
    (
        "",
        &[
            "loadBalancer",
            "connectionPool",
            "retryBudget",
            "outlierDetection",
            "tls",
            "proxyProtocol",
            "tunnel",
        ],
    ),
    ("/tunnel", &["protocol", "targetHost", "targetPort"]),
    (
        "/loadBalancer",
        &[
            "simple",
            "consistentHash",
            "localityLbSetting",
            "warmup",
            "warmupDurationSecs",
        ],
    ),
    (
        "/loadBalancer/consistentHash",
        &[
            "httpHeaderName",
            "httpCookie",
            "useSourceIp",
            "httpQueryParameterName",
            "ringHash",
            "maglev",
            "minimumRingSize",
        ],
    ),
    (
        "/loadBalancer/consistentHash/httpCookie",
        &["name", "path", "ttl", "attributes"],
    ),
    ("/loadBalancer/consistentHash/ringHash", &["minimumRingSize"]),
    ("/loadBalancer/consistentHash/maglev", &["tableSize"]),
    (
        "/loadBalancer/localityLbSetting",
        &["distribute", "failover", "failoverPriority", "enabled"],
    ),
    (
        "/loadBalancer/warmup",
        &["duration", "minimumPercent", "aggression"],
    ),
    ("/connectionPool", &["tcp", "http"]),
    (
        "/connectionPool/tcp",
        &[
            "maxConnections",
            "connectTimeout",
            "idleTimeout",
            "maxConnectionDuration",
        ],
    ),
    (
        "/connectionPool/http",
        &[
            "http1MaxPendingRequests",
            "http2MaxRequests",
            "maxRequestsPerConnection",
            "maxRetries",
            "idleTimeout",
            "h2UpgradePolicy",
            // The client's version of HTTP is what the application gets in any case.
            "useClientProtocol",
            "maxConcurrentStreams",
        ],
    ),
    ("/retryBudget", &["percent", "minRetryConcurrency"]),
    (
        "/outlierDetection",
        &[
            "consecutive5xxErrors",
            "consecutiveErrors",
            "consecutiveGatewayErrors",
            "consecutiveLocalOriginFailures",
            "splitExternalLocalOriginErrors",
            "interval",
            "baseEjectionTime",
            "maxEjectionPercent",
            "minHealthPercent",
            "outlierDetectionHttpErrorCodes",
        ],
    ),
    ("/proxyProtocol", &["version"]),
    ("/port", &["number"]),
];
