//! `consistentHash` of a `trafficPolicy`: what is hashed, and how hashes become endpoints.
//!
//! Place in the walk: part of [`super::traffic_policy`]. Must not know: requests, endpoints.

use serde::Deserialize;

use super::traffic_policy::Reader;
use crate::mesh::facts::Rejection;
use crate::mesh::traffic::{ConsistentHash, HashCookie, HashKey, HashTable};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Written {
    http_header_name: Option<String>,
    http_cookie: Option<Cookie>,
    use_source_ip: Option<bool>,
    http_query_parameter_name: Option<String>,
    ring_hash: Option<Ring>,
    maglev: Option<Table>,
    minimum_ring_size: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cookie {
    name: String,
    path: Option<String>,
    ttl: Option<String>,
    attributes: Option<Vec<Attribute>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Attribute {
    name: String,
    value: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ring {
    minimum_ring_size: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Table {
    table_size: Option<u32>,
}

pub(super) fn read(reader: &Reader<'_>, written: &Written) -> Result<ConsistentHash, Rejection> {
    let at = "loadBalancer.consistentHash";
    let mut keys = Vec::new();
    keys.extend(
        written
            .http_header_name
            .as_ref()
            .map(|name| HashKey::Header(name.to_ascii_lowercase().into())),
    );
    if let Some(cookie) = &written.http_cookie {
        keys.push(HashKey::Cookie(cookie_of(reader, cookie)?));
    }
    keys.extend(
        written
            .use_source_ip
            .filter(|is_it| *is_it)
            .map(|_| HashKey::SourceIp),
    );
    keys.extend(
        written
            .http_query_parameter_name
            .as_deref()
            .map(|name| HashKey::QueryParameter(name.into())),
    );
    let (Some(key), true) = (keys.pop(), keys.is_empty()) else {
        let reason = "name exactly one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName";
        return Err(reader.wrong(at, reason));
    };
    let table = match (&written.maglev, &written.ring_hash) {
        (Some(_), Some(_)) => return Err(reader.wrong(at, "ringHash and maglev exclude one another")),
        (Some(maglev), None) => {
            let size = maglev.table_size.unwrap_or(MAGLEV_SIZE);
            if !is_table_size(size) {
                let reason = format!("{size} is not a prime from 2 to {LARGEST_MAGLEV}");
                return Err(reader.wrong(&format!("{at}.maglev.tableSize"), reason));
            }
            HashTable::Maglev(size)
        }
        (None, ring) => {
            let size = ring.as_ref().and_then(|ring| ring.minimum_ring_size);
            HashTable::Ring(size.or(written.minimum_ring_size).unwrap_or(RING_SIZE))
        }
    };
    let balance_factor = match reader.object.annotation(BALANCE_FACTOR) {
        Some(text) => Some(percent_from_100(text).ok_or_else(|| {
            let reason = format!("{text:?} is no percentage from 100 on");
            reader
                .object
                .reject(&format!("metadata.annotations[{BALANCE_FACTOR}]"), reason)
        })?),
        None => None,
    };
    Ok(ConsistentHash {
        key,
        table,
        balance_factor,
    })
}

fn cookie_of(reader: &Reader<'_>, written: &Cookie) -> Result<HashCookie, Rejection> {
    let at = "loadBalancer.consistentHash.httpCookie";
    let is_token = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b))
    };
    // What the mesh would write into a header must not begin another field.
    let is_value = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b';');
    let attributes = written.attributes.iter().flatten();
    let is_good = is_token(&written.name)
        && written.path.as_deref().is_none_or(is_value)
        && attributes
            .clone()
            .all(|attribute| is_token(&attribute.name) && attribute.value.as_deref().is_none_or(is_value));
    if !is_good {
        return Err(reader.wrong(
            at,
            "name, path or an attribute cannot stand in a Set-Cookie header",
        ));
    }
    Ok(HashCookie {
        name: written.name.as_str().into(),
        path: written.path.as_deref().map(Into::into),
        ttl: reader.duration(&format!("{at}.ttl"), written.ttl.as_deref())?,
        attributes: attributes
            .map(|one| (one.name.as_str().into(), one.value.as_deref().map(Into::into)))
            .collect(),
    })
}

fn percent_from_100(text: &str) -> Option<u32> {
    text.parse()
        .ok()
        .filter(|percent| (100..=1_000_000).contains(percent))
}

fn is_table_size(size: u32) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= size);
    (2..=LARGEST_MAGLEV).contains(&size) && !divisors.any(|divisor| size.is_multiple_of(divisor))
}

/// No endpoint is given more than this percentage of the average.
const BALANCE_FACTOR: &str = "mesh-agent.dev/hash-balance-factor";
/// Istio's and Envoy's defaults and bounds.
const RING_SIZE: u32 = 1024;
const MAGLEV_SIZE: u32 = 65_537;
const LARGEST_MAGLEV: u32 = 5_000_011;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_size_is_a_prime_within_the_bound() {
        for (size, is_one) in [
            (2, true),
            (7, true),
            (8, false),
            (65_537, true),
            (5_000_011, true),
            (5_000_012, false),
        ] {
            assert_eq!(is_table_size(size), is_one, "{size}");
        }
        assert!(!is_table_size(5_000_077), "prime, but larger than the bound");
    }
}
