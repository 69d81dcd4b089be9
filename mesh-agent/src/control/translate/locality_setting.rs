//! `localityLbSetting`: which endpoints come first by where they run.
//!
//! Place in the walk: part of [`super::traffic_policy`]. Must not know: where anything runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::mesh::traffic::{
    Distribution, LocalityPattern, LocalityPolicy, PlaceLabel, PriorityLabel, RegionFailover,
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LocalitySetting {
    distribute: Option<Vec<Distribute>>,
    failover: Option<Vec<Failover>>,
    failover_priority: Option<Vec<String>>,
    enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Distribute {
    from: String,
    to: BTreeMap<String, u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Failover {
    from: String,
    to: String,
}

/// Which field is wrong, and why.
type Wrong = (String, String);

/// `None` where nothing is said.
pub(super) fn read(written: &LocalitySetting) -> Result<Option<LocalityPolicy>, Wrong> {
    if written.enabled == Some(false) {
        return Ok(Some(LocalityPolicy::Off));
    }
    let LocalitySetting {
        distribute,
        failover,
        failover_priority,
        enabled,
    } = written;
    let said = [
        distribute.is_some(),
        failover.is_some(),
        failover_priority.is_some(),
    ];
    if said.into_iter().filter(|is_said| *is_said).count() > 1 {
        let reason = "distribute, failover and failoverPriority exclude one another";
        return Err(("distribute".to_owned(), reason.to_owned()));
    }
    if let Some(distribute) = distribute {
        let distributions: Result<_, Wrong> = distribute.iter().enumerate().map(distribution).collect();
        return distributions.map(LocalityPolicy::Distribute).map(Some);
    }
    if let Some(labels) = failover_priority {
        let labels: Result<_, Wrong> = labels.iter().enumerate().map(priority_label).collect();
        return labels.map(LocalityPolicy::Priority).map(Some);
    }
    let failovers = failover.iter().flatten().map(|one| RegionFailover {
        from: one.from.as_str().into(),
        to: one.to.as_str().into(),
    });
    let is_said = failover.is_some() || *enabled == Some(true);
    Ok(is_said.then(|| LocalityPolicy::Failover(failovers.collect())))
}

fn distribution((index, written): (usize, &Distribute)) -> Result<Distribution, Wrong> {
    let at = format!("distribute[{index}]");
    let mut to = Vec::new();
    for (place, share) in &written.to {
        let pattern = pattern(place).ok_or_else(|| (format!("{at}.to[{place}]"), PATTERN_RULE.to_owned()))?;
        to.push((pattern, *share));
    }
    let sum = written
        .to
        .values()
        .try_fold(0_u32, |sum, share| sum.checked_add(*share));
    if sum != Some(100) {
        return Err((format!("{at}.to"), "the shares must sum up to 100".to_owned()));
    }
    // The more specific first, since an endpoint belongs to the first that it fits.
    to.sort_by_key(|(pattern, _): &(LocalityPattern, u32)| {
        (pattern.zone.is_none(), pattern.region.is_none())
    });
    Ok(Distribution {
        from: pattern(&written.from).ok_or_else(|| (format!("{at}.from"), PATTERN_RULE.to_owned()))?,
        to,
    })
}

/// `REGION/ZONE/SUBZONE`, of which the last parts may be missing or `*`.
fn pattern(text: &str) -> Option<LocalityPattern> {
    let mut parts = text.split('/');
    let mut next = || match parts.next() {
        None | Some("*") => Some(None),
        Some("") => None,
        Some(part) => Some(Some(Arc::from(part))),
    };
    let (region, zone, subzone) = (next()?, next()?, next()?);
    let is_ordered = !(region.is_none() && zone.is_some());
    (is_ordered && subzone.is_none() && parts.next().is_none()).then_some(LocalityPattern { region, zone })
}

fn priority_label((index, text): (usize, &String)) -> Result<PriorityLabel, Wrong> {
    let (name, value) = text
        .split_once('=')
        .map_or((text.as_str(), None), |(name, value)| (name, Some(value)));
    let of = match name {
        "topology.kubernetes.io/region" => PlaceLabel::Region,
        "topology.kubernetes.io/zone" => PlaceLabel::Zone,
        "kubernetes.io/hostname" => PlaceLabel::Node,
        other => {
            let reason = format!(
                "{other:?} is not supported yet: the balancers of a node serve all of its pods, whatever their labels; \
                 use topology.kubernetes.io/region, topology.kubernetes.io/zone or kubernetes.io/hostname"
            );
            return Err((format!("failoverPriority[{index}]"), reason));
        }
    };
    Ok(PriorityLabel {
        of,
        value: value.map(Into::into),
    })
}

const PATTERN_RULE: &str = "use REGION, REGION/* or REGION/ZONE/*; sub-zones are not supported";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_the_region_down() {
        let of = |region: Option<&str>, zone: Option<&str>| {
            Some(LocalityPattern {
                region: region.map(Into::into),
                zone: zone.map(Into::into),
            })
        };
        for (text, expected) in [
            ("eu", of(Some("eu"), None)),
            ("eu/*", of(Some("eu"), None)),
            ("eu/a", of(Some("eu"), Some("a"))),
            ("eu/a/*", of(Some("eu"), Some("a"))),
            ("*", of(None, None)),
            ("eu/a/rack", None),
            ("*/a", None),
            ("", None),
            ("eu//", None),
            ("eu/a/*/x", None),
        ] {
            assert_eq!(pattern(text), expected, "{text:?}");
        }
    }
}
