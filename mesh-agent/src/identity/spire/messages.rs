//! The messages of `spire.api.agent.delegatedidentity.v1.DelegatedIdentity`, with the tags of SPIRE's protos.
//!
//! Source: <https://github.com/spiffe/spire-api-sdk/tree/main/proto/spire/api>, `agent/delegatedidentity/v1` and `types`.
//! Fields that are not used are skipped as unknown ones.

use std::collections::HashMap;
use std::fmt;

use zeroize::Zeroize;

/// Where SVIDs are subscribed to.
pub(super) const SUBSCRIBE_TO_SVIDS: &str =
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509SVIDs";

/// Where bundles are subscribed to.
pub(super) const SUBSCRIBE_TO_BUNDLES: &str =
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509Bundles";

/// `SubscribeToX509SVIDsRequest`; of its two ways the one by selectors.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SvidsRequest {
    /// What SPIRE is to take as attested.
    #[prost(message, repeated, tag = "1")]
    pub(super) selectors: Vec<Selector>,
}

/// `spire.api.types.Selector`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Selector {
    /// The attestor's name, `k8s` for instance.
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    /// What it says, `ns:shop` for instance.
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// `SubscribeToX509SVIDsResponse`: all SVIDs of all entries that match, each time one of them changes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SvidsResponse {
    /// In order of the entries' ids.
    #[prost(message, repeated, tag = "1")]
    pub(super) svids: Vec<SvidWithKey>,
}

/// `X509SVIDWithKey`; the key is wiped when it is dropped, and never shown.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct SvidWithKey {
    /// The certificates.
    #[prost(message, optional, tag = "1")]
    pub(super) svid: Option<SvidMessage>,
    /// The private key, PKCS#8 in DER.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) key: Vec<u8>,
}

/// `spire.api.types.X509SVID`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SvidMessage {
    /// DER, leaf first, without the root.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) chain: Vec<Vec<u8>>,
    /// Whose it is.
    #[prost(message, optional, tag = "2")]
    pub(super) id: Option<IdMessage>,
}

/// `spire.api.types.SPIFFEID`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IdMessage {
    /// Without the scheme.
    #[prost(string, tag = "1")]
    pub(super) trust_domain: String,
    /// With the first slash.
    #[prost(string, tag = "2")]
    pub(super) path: String,
}

/// `SubscribeToX509BundlesRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BundlesRequest {}

/// `SubscribeToX509BundlesResponse`: the bundles of all trust domains that the SPIRE agent knows.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BundlesResponse {
    /// By `spiffe://TRUST_DOMAIN`: certificates in DER, one after the other.
    #[prost(map = "string, bytes", tag = "1")]
    pub(super) bundles: HashMap<String, Vec<u8>>,
}

impl Drop for SvidWithKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for SvidWithKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvidWithKey")
            .field("svid", &self.svid)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl fmt::Display for IdMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// Written by hand from the published protos.
    #[test]
    fn a_request_stands_on_the_wire_as_spire_publishes_it() {
        let selector = Selector {
            kind: "k8s".into(),
            value: "ns:shop".into(),
        };
        let request = SvidsRequest {
            selectors: vec![selector],
        };
        assert_eq!(request.encode_to_vec(), b"\x0a\x0e\x0a\x03k8s\x12\x07ns:shop");
    }

    #[test]
    fn an_answer_is_read_with_what_is_not_used_in_it() {
        // x509_svids { x509_svid { cert_chain, id, expires_at, hint }, x509_svid_key }, federates_with
        let id = b"\x0a\x02td\x12\x02/w";
        let svid = [b"\x0a\x01C\x0a\x01D\x12\x08", &id[..], b"\x18\x01\x22\x01h"].concat();
        let with_key = [
            &[0x0a, u8::try_from(svid.len()).unwrap()],
            &svid[..],
            b"\x12\x01K",
        ]
        .concat();
        let answer = [
            &[0x0a, u8::try_from(with_key.len()).unwrap()],
            &with_key[..],
            b"\x12\x02fd",
        ]
        .concat();
        let read = SvidsResponse::decode(answer.as_slice()).unwrap();
        let [with_key] = &read.svids[..] else {
            panic!("{read:?}")
        };
        let svid = with_key.svid.as_ref().unwrap();
        assert_eq!(svid.chain, [b"C", b"D"]);
        assert_eq!(svid.id.as_ref().unwrap().to_string(), "spiffe://td/w");
        assert_eq!(with_key.key, b"K");
    }

    #[test]
    fn bundles_are_read_by_trust_domain() {
        let answer = b"\x0a\x10\x0a\x0bspiffe://td\x12\x01B";
        let read = BundlesResponse::decode(&answer[..]).unwrap();
        assert_eq!(read.bundles["spiffe://td"], b"B");
    }

    #[test]
    fn a_key_is_never_shown() {
        let with_key = SvidWithKey {
            svid: None,
            key: b"secret".to_vec(),
        };
        let shown = format!("{with_key:?}");
        assert!(!shown.contains("115") && !shown.contains("secret"), "{shown}");
    }
}
