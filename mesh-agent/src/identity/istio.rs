//! The messages of `istio.v1.auth.IstioCertificateService/CreateCertificate`, with the tags of Istio's `ca.proto`.
//!
//! Source: <https://github.com/istio/api/blob/master/security/v1alpha1/ca.proto>, and `google/protobuf/struct.proto`.

use std::collections::HashMap;

use crate::mesh::identity::SpiffeId;

/// Where the method is called.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// The key of [`CreateCertificateRequest::metadata`] under which an agent names the workload that it asks for.
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateCertificateRequest {
    /// A certificate signing request, PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// How long the certificate should be valid, in seconds.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// What else the CA should know.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateCertificateResponse {
    /// PEM: the leaf first, then those above it; the last holds the root, or all roots that are trusted.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    /// Values by name.
    #[prost(map = "string, message", tag = "1")]
    pub fields: HashMap<String, Value>,
}

/// `google.protobuf.Value`; kinds other than text are skipped as unknown fields.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// `string_value`.
    #[prost(string, optional, tag = "3")]
    pub string: Option<String>,
}

impl CreateCertificateRequest {
    /// What an agent asks for one of its workloads.
    pub fn on_behalf_of(identity: &SpiffeId, csr: String, validity_duration: i64) -> Self {
        let value = Value {
            string: Some(identity.to_string()),
        };
        Self {
            csr,
            validity_duration,
            metadata: Some(Struct {
                fields: HashMap::from([(IMPERSONATED_IDENTITY.to_owned(), value)]),
            }),
        }
    }

    /// The workload that it is for, as the caller wrote it.
    pub fn impersonated_identity(&self) -> Option<&str> {
        let fields = &self.metadata.as_ref()?.fields;
        fields.get(IMPERSONATED_IDENTITY)?.string.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// Written by hand from the published proto: field 1, 3, and 4 with the map entry of a Struct inside.
    #[test]
    fn stands_on_the_wire_as_istio_publishes_it() {
        let identity: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
        let request = CreateCertificateRequest::on_behalf_of(&identity, "x".into(), 60);
        let mut expected =
            b"\x0a\x01x\x18\x3c\x22\x31\x0a\x2f\x0a\x14ImpersonatedIdentity\x12\x17\x1a\x15".to_vec();
        expected.extend(b"spiffe://td/ns/a/sa/b");
        assert_eq!(request.encode_to_vec(), expected);
        let read = CreateCertificateRequest::decode(expected.as_slice()).unwrap();
        assert_eq!(read.impersonated_identity(), Some("spiffe://td/ns/a/sa/b"));
    }

    #[test]
    fn other_kinds_of_values_are_no_identity() {
        for value in [&b"\x08\x00"[..], b"\x11\0\0\0\0\0\0\0\0", b"\x20\x01"] {
            let value = Value::decode(value).unwrap();
            let metadata = Struct {
                fields: HashMap::from([(IMPERSONATED_IDENTITY.to_owned(), value)]),
            };
            let request = CreateCertificateRequest {
                metadata: Some(metadata),
                ..CreateCertificateRequest::default()
            };
            assert_eq!(request.impersonated_identity(), None);
        }
    }
}
