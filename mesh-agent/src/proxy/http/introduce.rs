//! Tells an application of this node who asks, by the agent's own word and nobody else's.
//!
//! Place in the walk: where a request arrives at a pod of this node, before policies look at its headers. Must not know:
//! routes, tokens.
//!
//! `x-forwarded-client-cert` is Envoy's field in its mode `SANITIZE_SET`: what came with the request goes, and where the client
//! proved who it is, one element says so. Without `Hash`: between pods of one node no certificate is shown, and an
//! application shall not see on which node its client runs.

use std::collections::BTreeSet;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::mesh::identity::SpiffeId;

/// Says that `peer` asks `own`, instead of whatever the request says. Where nobody proved anything, what only a proxy may
/// say is taken away.
pub(super) fn introduce(headers: &mut HeaderMap, own: &SpiffeId, peer: Option<&SpiffeId>) {
    headers.remove(CLIENT_CERT);
    match peer {
        Some(peer) => {
            let element = format!("By={own};Subject=\"\";URI={peer}");
            // A SPIFFE id has no character that a header could not have.
            if let Ok(element) = HeaderValue::try_from(element) {
                headers.insert(CLIENT_CERT, element);
            }
        }
        None => remove_what_envoys_say(headers),
    }
}

/// As Envoy's edge: a client that is no proxy of a mesh steers none by `x-envoy-…`.
fn remove_what_envoys_say(headers: &mut HeaderMap) {
    let is_envoys = |name: &&HeaderName| name.as_str().starts_with(ENVOY);
    let said: BTreeSet<_> = headers
        .keys()
        .filter(is_envoys)
        .map(HeaderName::to_string)
        .collect();
    for name in said {
        headers.remove(name);
    }
}

const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const ENVOY: &str = "x-envoy-";

#[cfg(test)]
mod tests {
    use super::*;

    fn introduced(peer: Option<&SpiffeId>) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (
                "x-forwarded-client-cert",
                "URI=spiffe://cluster.local/ns/bank/sa/root",
            ),
            (
                "x-forwarded-client-cert",
                "URI=spiffe://cluster.local/ns/bank/sa/other",
            ),
            ("x-envoy-internal", "true"),
            ("x-envoy-internal", "yes"),
            ("x-envoy-external-address", "10.0.0.1"),
            ("x-forwarded-for", "192.0.2.1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let own = SpiffeId::new("cluster.local", "shop", "cart").unwrap();
        introduce(&mut headers, &own, peer);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    fn named(found: &[(String, String)], name: &str) -> Vec<String> {
        let of_name = found.iter().filter(|(of, _)| of == name);
        of_name.map(|(_, value)| value.clone()).collect()
    }

    #[test]
    fn what_is_proven_stands_instead_of_what_is_said() {
        let web = SpiffeId::new("cluster.local", "shop", "web").unwrap();
        let found = introduced(Some(&web));
        let element = "By=spiffe://cluster.local/ns/shop/sa/cart;Subject=\"\";URI=spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(named(&found, "x-forwarded-client-cert"), [element]);
        assert_eq!(
            named(&found, "x-envoy-internal").len(),
            2,
            "another proxy may say it"
        );
    }

    #[test]
    fn who_proved_nothing_says_nothing_that_only_a_proxy_may() {
        assert_eq!(
            introduced(None),
            [("x-forwarded-for".to_owned(), "192.0.2.1".to_owned())]
        );
    }
}
