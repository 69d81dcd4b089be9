//! `outlierDetection` of a `trafficPolicy`, with Istio's defaults.
//!
//! Place in the walk: part of [`super::traffic_policy`]. Must not know: endpoints, outcomes.

use std::time::Duration;

use serde::Deserialize;

use super::traffic_policy::Reader;
use crate::mesh::facts::Rejection;
use crate::mesh::traffic::{ErrorCodes, OutlierDetection};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Written {
    consecutive5xx_errors: Option<u32>,
    consecutive_errors: Option<u32>,
    consecutive_gateway_errors: Option<u32>,
    consecutive_local_origin_failures: Option<u32>,
    split_external_local_origin_errors: Option<bool>,
    interval: Option<String>,
    base_ejection_time: Option<String>,
    max_ejection_percent: Option<u32>,
    min_health_percent: Option<u32>,
    outlier_detection_http_error_codes: Vec<u32>,
}

pub(super) fn read(reader: &Reader<'_>, written: &Written) -> Result<OutlierDetection, Rejection> {
    let default = OutlierDetection::default();
    let duration = |field: &str, text: &Option<String>, default: Duration| {
        let field = format!("outlierDetection.{field}");
        let written = reader.duration(&field, text.as_deref())?.unwrap_or(default);
        if written.is_zero() {
            return Err(reader.wrong(&field, "must be longer than nothing"));
        }
        Ok(written)
    };
    let percent = |field: &str, value: Option<u32>, default: u32| match value {
        Some(value) if value > 100 => Err(reader.wrong(&format!("outlierDetection.{field}"), "use 0 to 100")),
        value => Ok(value.unwrap_or(default)),
    };
    let base_ejection = duration(
        "baseEjectionTime",
        &written.base_ejection_time,
        default.base_ejection,
    )?;
    let stdev = match reader.object.annotation(SUCCESS_RATE) {
        Some(text) => Some(text.parse().map_err(|_not_whole| {
            let reason = format!("{text:?} is no number of thousandths of the standard deviation");
            reader
                .object
                .reject(&format!("metadata.annotations[{SUCCESS_RATE}]"), reason)
        })?),
        None => None,
    };
    let errors = match &*written.outlier_detection_http_error_codes {
        [] => None,
        codes => Some(ErrorCodes::of(codes).ok_or_else(|| {
            reader.wrong(
                "outlierDetection.outlierDetectionHttpErrorCodes",
                "use statuses from 100 to 599",
            )
        })?),
    };
    Ok(OutlierDetection {
        errors,
        consecutive_5xx: written
            .consecutive5xx_errors
            .or(written.consecutive_errors)
            .unwrap_or(default.consecutive_5xx),
        consecutive_gateway: written
            .consecutive_gateway_errors
            .unwrap_or(default.consecutive_gateway),
        consecutive_local: written
            .consecutive_local_origin_failures
            .unwrap_or(default.consecutive_local),
        splits_local: written.split_external_local_origin_errors.unwrap_or_default(),
        interval: duration("interval", &written.interval, default.interval)?,
        base_ejection,
        max_ejection: default.max_ejection.max(base_ejection),
        max_ejected_percent: percent(
            "maxEjectionPercent",
            written.max_ejection_percent,
            default.max_ejected_percent,
        )?,
        min_health_percent: percent("minHealthPercent", written.min_health_percent, 0)?,
        success_rate_stdev_milli: stdev,
    })
}

/// Ejection by success rate, which Istio switches off: thousandths of the standard deviation below the mean.
const SUCCESS_RATE: &str = "mesh-agent.dev/success-rate-stdev-factor";
