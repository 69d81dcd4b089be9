//! The roots of the mesh's trust domain, as SPIRE pushes them.

use std::sync::Arc;
use std::time::Duration;

use rand::random;
use rustls::pki_types::CertificateDer;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::messages::{BundlesRequest, BundlesResponse, SUBSCRIBE_TO_BUNDLES};
use super::{SpireError, SpireSettings, connect};
use crate::grpc::Answers;
use crate::identity::renewal::retry_delay;
use crate::identity::{Roots, error_chain};
use crate::lifecycle::Stop;

/// Keeps the roots as SPIRE has them. While SPIRE cannot be asked, the last ones stay.
pub(super) struct BundleFollower {
    pub(super) settings: Arc<SpireSettings>,
    pub(super) roots: watch::Sender<Roots>,
    /// Somebody has just reached SPIRE: it is worth trying again at once.
    pub(super) reached: Arc<Notify>,
}

impl BundleFollower {
    pub(super) async fn run(self, stop: Stop) {
        let mut failures = 0_u32;
        let mut said = String::new();
        loop {
            let ended = tokio::select! {
                () = stop.requested() => return,
                ended = self.follow(&mut failures) => ended,
            };
            failures = failures.saturating_add(1);
            let pause = retry_delay(failures, random());
            let why = error_chain(&ended);
            // Each identity says so too, and again: here once is enough.
            if why != said {
                tracing::error!(
                    error = why,
                    "spire's bundles cannot be followed; the last roots stay"
                );
                said = why;
            }
            tokio::select! {
                () = stop.requested() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.hurried() => {}
            }
        }
    }

    /// Never sooner than after the shortest pause, however often SPIRE is reached.
    async fn hurried(&self) {
        tokio::time::sleep(SHORTEST_PAUSE).await;
        self.reached.notified().await;
    }

    /// Returns when there is nothing more to come, with the reason.
    async fn follow(&self, failures: &mut u32) -> SpireError {
        match self.take_all(failures).await {
            Ok(()) => SpireError::Broken {
                path: self.settings.socket.clone(),
                source: None,
            },
            Err(error) => error,
        }
    }

    async fn take_all(&self, failures: &mut u32) -> Result<(), SpireError> {
        let path = &self.settings.socket;
        let of_call = |error| SpireError::of_call(path.clone(), error);
        let stream = connect(path).await?;
        let asked = Box::pin(Answers::ask(stream, SUBSCRIBE_TO_BUNDLES, &BundlesRequest {}));
        let mut answers: Answers<UnixStream, BundlesResponse> = asked.await.map_err(of_call)?;
        while let Some(answer) = answers.next().await.map_err(of_call)? {
            let roots = own_roots(&answer, &self.settings.trust_domain)?;
            *failures = 0;
            self.roots.send_if_modified(|known| {
                let is_news = **known != *roots;
                if is_news {
                    tracing::info!(roots = roots.len(), "spire names other roots");
                    *known = roots.into();
                }
                is_news
            });
        }
        Ok(())
    }
}

/// The roots of one trust domain; at least one.
fn own_roots(
    answer: &BundlesResponse,
    trust_domain: &str,
) -> Result<Vec<CertificateDer<'static>>, SpireError> {
    // The published proto says names, SPIRE sends ids.
    let named = |name: &str| name.strip_prefix("spiffe://").unwrap_or(name) == trust_domain;
    let bundle = answer.bundles.iter().find(|(name, _)| named(name));
    let missing = || SpireError::NoBundle(trust_domain.to_owned());
    let (_, der) = bundle.filter(|(_, der)| !der.is_empty()).ok_or_else(missing)?;
    cas(der)
}

/// Certificates of CAs in DER, one after the other; the same one twice counts once.
fn cas(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, SpireError> {
    let mut roots = Vec::new();
    let mut count = 0;
    while !der.is_empty() {
        count += 1;
        let unusable = SpireError::Bundle(count);
        let Ok((rest, parsed)) = X509Certificate::from_der(der) else {
            return Err(unusable);
        };
        let Some(root) = der.get(..der.len().saturating_sub(rest.len())) else {
            return Err(unusable);
        };
        if !parsed.is_ca() {
            return Err(unusable);
        }
        let root = CertificateDer::from(root.to_vec());
        if !roots.contains(&root) {
            roots.push(root);
        }
        der = rest;
    }
    Ok(roots)
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::super::testing::{TestCa, id};
    use super::*;

    fn bundles(name: &str, parts: &[&[u8]]) -> BundlesResponse {
        BundlesResponse {
            bundles: HashMap::from([(name.to_owned(), parts.concat())]),
        }
    }

    #[test]
    fn all_roots_of_the_own_trust_domain_are_taken_once_and_of_others_none() {
        let (one, other) = (TestCa::new().roots(), TestCa::new().roots());
        let parts: [&[u8]; 3] = [&one[0], &other[0], &one[0]];
        for name in ["spiffe://cluster.local", "cluster.local"] {
            let taken = own_roots(&bundles(name, &parts), "cluster.local").unwrap();
            assert_eq!(taken, [one[0].clone(), other[0].clone()]);
        }
        for (name, parts) in [("spiffe://other", &parts[..]), ("cluster.local", &[])] {
            let error = own_roots(&bundles(name, parts), "cluster.local").unwrap_err();
            assert!(matches!(error, SpireError::NoBundle(_)), "{error}");
        }
    }

    #[test]
    fn what_is_no_certificate_of_a_ca_is_refused_by_its_place() {
        let ca = TestCa::new();
        let root = &ca.roots()[0];
        let now = std::time::SystemTime::now();
        let leaf = super::super::super::authority::leaf_params(&id("web"), now, now + Duration::from_mins(1));
        let leaf = ca.svid(&leaf.unwrap()).chain()[0].clone();
        for second in [&leaf[..], &root[..root.len() - 1], b"x"] {
            let parts: [&[u8]; 2] = [root, second];
            let error = own_roots(&bundles("cluster.local", &parts), "cluster.local").unwrap_err();
            assert!(matches!(error, SpireError::Bundle(2)), "{error}");
        }
    }
}
