//! What a policy is asked about: a connection, and within it a request.
//!
//! Place in the walk: made by `snapshot` from what the walk knows. Must not know: policies.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::mesh::identity::SpiffeId;
use crate::policy::authentication::Claims;

/// One connection, seen from the workload that is dialled.
#[derive(Debug)]
pub struct Connection<'a> {
    /// Who proved to be at the other end; `None` for plaintext.
    pub(super) peer: Option<Peer<'a>>,
    /// The true client's address as the agent knows it, IPv4 never in its mapped form.
    pub(super) source_ip: IpAddr,
    /// The address of the workload that was dialled.
    pub(super) destination_ip: IpAddr,
    /// Its port.
    pub(super) port: u16,
}

/// A proven identity, in the forms that policies name it by.
#[derive(Debug)]
pub(super) struct Peer<'a> {
    /// `TRUST_DOMAIN/ns/NAMESPACE/sa/NAME`.
    pub(super) principal: String,
    pub(super) trust_domain: &'a str,
    pub(super) namespace: &'a str,
    /// `NAMESPACE/NAME`.
    pub(super) service_account: String,
}

impl<'a> Connection<'a> {
    /// A connection of `peer` from `source_ip` to a workload's own address and port.
    pub fn new(peer: Option<&'a SpiffeId>, source_ip: IpAddr, destination_ip: IpAddr, port: u16) -> Self {
        let peer = peer.map(|id| Peer {
            principal: [
                id.trust_domain(),
                "/ns/",
                id.namespace(),
                "/sa/",
                id.service_account(),
            ]
            .concat(),
            trust_domain: id.trust_domain(),
            namespace: id.namespace(),
            service_account: [id.namespace(), "/", id.service_account()].concat(),
        });
        Self {
            peer,
            source_ip: source_ip.to_canonical(),
            destination_ip: destination_ip.to_canonical(),
            port,
        }
    }
}

/// What is known of what the connection carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    /// Nothing yet.
    Pending,
    /// Bytes that are no HTTP.
    Opaque,
    /// A request.
    Http(&'a Request<'a>),
}

impl<'a> Content<'a> {
    pub(super) fn request(self) -> Option<&'a Request<'a>> {
        match self {
            Self::Http(request) => Some(request),
            Self::Pending | Self::Opaque => None,
        }
    }
}

/// One HTTP request.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method, in the case in which it came.
    pub method: &'a str,
    /// The path in its normal form, without its query.
    pub path: Cow<'a, str>,
    /// The authority.
    pub host: Host,
    /// The fields that travel on.
    pub headers: &'a http::HeaderMap,
    /// The client before all proxies.
    pub remote_ip: IpAddr,
    /// What the verified token claims; `None` where none came.
    pub token: Option<&'a Claims>,
}

impl Request<'_> {
    /// The lines of one field, joined as RFC 9110 section 5.3 does; bytes that are no UTF-8 match nothing.
    pub(super) fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut lines = self.headers.get_all(name).iter();
        let first = String::from_utf8_lossy(lines.next()?.as_bytes());
        Some(lines.fold(first, |joined, line| {
            Cow::Owned(format!("{joined},{}", String::from_utf8_lossy(line.as_bytes())))
        }))
    }
}

/// An authority in the form in which policies match it: lower case, without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    with_port: String,
    /// Length of the part before the port.
    name: usize,
}

impl Host {
    /// Of `NAME`, `NAME:PORT`, an IPv4 address or an IPv6 one in brackets.
    pub fn new(authority: &str) -> Self {
        let is_port = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let (name, port) = match authority.rsplit_once(':') {
            Some((name, port)) if is_port(port) && (!name.contains(':') || name.ends_with(']')) => {
                (name, Some(port))
            }
            Some(_) | None => (authority, None),
        };
        let mut with_port = name.trim_end_matches('.').to_ascii_lowercase();
        let name = with_port.len();
        if let Some(port) = port.filter(|port| !port.is_empty()) {
            with_port.push(':');
            with_port.push_str(port);
        }
        Self { with_port, name }
    }

    pub(super) fn name(&self) -> &str {
        self.with_port.get(..self.name).unwrap_or(&self.with_port)
    }

    pub(super) fn with_port(&self) -> &str {
        &self.with_port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_has_one_form_whatever_its_case_dots_and_port() {
        for (authority, name, with_port) in [
            ("Shop.Example", "shop.example", "shop.example"),
            ("shop.example.", "shop.example", "shop.example"),
            ("shop.example..", "shop.example", "shop.example"),
            ("SHOP.example.:80", "shop.example", "shop.example:80"),
            ("shop.example:", "shop.example", "shop.example"),
            ("10.0.0.1:8080", "10.0.0.1", "10.0.0.1:8080"),
            ("[FD00::1]:80", "[fd00::1]", "[fd00::1]:80"),
            ("[fd00::1]", "[fd00::1]", "[fd00::1]"),
        ] {
            let host = Host::new(authority);
            assert_eq!((host.name(), host.with_port()), (name, with_port), "{authority}");
        }
    }
}
