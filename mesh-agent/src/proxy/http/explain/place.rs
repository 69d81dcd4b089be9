//! Finds the address that a pod would dial for a name, as its resolver would.
//!
//! Place in the walk: before it. Must not know: what becomes of what is dialled.

use std::net::IpAddr;

use crate::dns::names::Known;
use crate::proxy::http::explain::Unexplained;
use crate::snapshot::Snapshot;

/// What a name leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This address, the first of so many.
    Addr(IpAddr, usize),
    /// A name that only the pod's own resolver knows.
    Elsewhere,
}

/// What `host` means to a pod of `namespace` in a cluster of this `domain`: an address, or a Service by the search list of
/// Kubernetes.
pub(super) fn find(
    snapshot: &Snapshot,
    namespace: &str,
    domain: &str,
    host: &str,
) -> Result<Place, Unexplained> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Ok(addr) = bare.unwrap_or(host).parse() {
        return Ok(Place::Addr(addr, 1));
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let inside = name.strip_suffix(domain).and_then(|name| name.strip_suffix('.'));
    let in_services = inside.unwrap_or(&name).strip_suffix(".svc");
    let is_of_cluster = inside.is_some() || in_services.is_some();
    let mut meant = Vec::new();
    match in_services {
        Some(full) => meant.push(full.to_owned()),
        None if is_of_cluster => {}
        // `NAMESPACE.svc.DOMAIN` comes first in the search list, then `svc.DOMAIN`.
        None => meant.extend([format!("{name}.{namespace}"), name.clone()]),
    }
    if let Some(place) = meant.iter().find_map(|name| service(snapshot, namespace, name)) {
        return Ok(place);
    }
    if is_of_cluster || !name.contains('.') {
        return Err(Unexplained::NoService(name));
    }
    Ok(Place::Elsewhere)
}

/// `SERVICE.NAMESPACE`, or `MEMBER.SERVICE.NAMESPACE` of a headless one, for a pod of the namespace `client`.
fn service(snapshot: &Snapshot, client: &str, name: &str) -> Option<Place> {
    let labels: Vec<&str> = name.split('.').collect();
    let (member, service, namespace) = match labels.as_slice() {
        [service, namespace] => (None, service, namespace),
        [member, service, namespace] => (Some(*member), service, namespace),
        _ => return None,
    };
    let addrs: Vec<IpAddr> = match (snapshot.names().service(client, namespace, service)?, member) {
        (Known::Cluster { addrs, .. }, None) => return Some(Place::Addr(*addrs.first()?, 1)),
        (Known::Cluster { .. }, Some(_)) => return None,
        (Known::Headless(members), None) => members.iter().map(|member| member.addr).collect(),
        (Known::Headless(members), Some(label)) => {
            let named = members.iter().filter(|member| &*member.label == label);
            named.map(|member| member.addr).collect()
        }
    };
    Some(Place::Addr(*addrs.first()?, addrs.len()))
}
