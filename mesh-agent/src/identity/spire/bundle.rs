//! The roots of the mesh's trust domain and the bundles of those that it federates with, as SPIRE pushes them.

use std::sync::Arc;
use std::time::Duration;

use rand::random;
use rustls::pki_types::CertificateDer;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::messages::{BundlesRequest, BundlesResponse, SUBSCRIBE_TO_BUNDLES};
use super::{SpireError, SpireSettings, connect};
use crate::grpc::Answers;
use crate::identity::renewal::retry_delay;
use crate::identity::{Federation, Roots, error_chain};
use crate::lifecycle::Stop;

/// Keeps roots and bundles as SPIRE has them. While SPIRE cannot be asked, the last ones stay.
pub(super) struct BundleFollower {
    pub(super) settings: Arc<SpireSettings>,
    pub(super) roots: watch::Sender<Roots>,
    pub(super) federation: watch::Sender<Federation>,
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
        loop {
            match self.take_all(failures).await {
                Ok(End::Stale) => {}
                Ok(End::OfCall) => {
                    return SpireError::Broken {
                        path: self.settings.socket.clone(),
                        source: None,
                    };
                }
                Err(error) => return error,
            }
        }
    }

    async fn take_all(&self, failures: &mut u32) -> Result<End, SpireError> {
        let path = &self.settings.socket;
        let of_call = |error| SpireError::of_call(path.clone(), error);
        let stream = connect(path).await?;
        let asked = Box::pin(Answers::ask(stream, SUBSCRIBE_TO_BUNDLES, &BundlesRequest {}));
        let mut answers: Answers<UnixStream, BundlesResponse> = asked.await.map_err(of_call)?;
        let stale = Instant::now() + STALE;
        loop {
            let has_others = self.federation.borrow().trust_domains().len() > 0;
            let answer = tokio::select! {
                answer = answers.next() => answer.map_err(of_call)?,
                () = tokio::time::sleep_until(stale), if has_others => return Ok(End::Stale),
            };
            let Some(answer) = answer else {
                return Ok(End::OfCall);
            };
            let roots = own_roots(&answer, &self.settings.trust_domain)?;
            *failures = 0;
            self.put_in_force(roots, others(&answer, &self.settings.trust_domain));
        }
    }

    fn put_in_force(
        &self,
        roots: Vec<CertificateDer<'static>>,
        (others, unusable): (Federation, Vec<Box<str>>),
    ) {
        self.roots.send_if_modified(|known| {
            let is_news = **known != *roots;
            if is_news {
                tracing::info!(roots = roots.len(), "spire names other roots");
                *known = roots.into();
            }
            is_news
        });
        self.federation.send_if_modified(|known| {
            let is_news = *known != others;
            if is_news {
                tracing::info!(trust_domains = ?others, "spire federates with other trust domains");
                *known = others;
            }
            is_news
        });
        if !unusable.is_empty() {
            tracing::warn!(trust_domains = ?unusable, "bundles of spire cannot be used; nobody is trusted by them");
        }
    }
}

/// How a call for bundles ended.
enum End {
    /// By SPIRE.
    OfCall,
    /// A bundle that is withdrawn is not taken back within a call (`SubscribeToX509Bundles` of SPIRE 1.13.3 only adds),
    /// so while there are any it is asked anew.
    Stale,
}

/// The roots of one trust domain; at least one.
fn own_roots(
    answer: &BundlesResponse,
    trust_domain: &str,
) -> Result<Vec<CertificateDer<'static>>, SpireError> {
    let bundle = answer.bundles.iter().find(|(name, _)| bare(name) == trust_domain);
    let missing = || SpireError::NoBundle(trust_domain.to_owned());
    let (_, der) = bundle.filter(|(_, der)| !der.is_empty()).ok_or_else(missing)?;
    cas(der)
}

/// The bundles of all other trust domains, and the names of those that cannot be used.
fn others(answer: &BundlesResponse, trust_domain: &str) -> (Federation, Vec<Box<str>>) {
    let others = answer.bundles.iter().map(|(name, der)| (bare(name), der));
    Federation::pushed(
        others
            .filter(|(name, _)| *name != trust_domain)
            // Without a root nobody is trusted.
            .map(|(name, der)| (name.into(), cas(der).unwrap_or_default())),
    )
}

/// The published proto says names, SPIRE sends ids.
fn bare(name: &str) -> &str {
    name.strip_prefix("spiffe://").unwrap_or(name)
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
/// After so long a bundle that SPIRE has withdrawn is not trusted any more.
const STALE: Duration = Duration::from_secs(30);

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
    fn bundles_of_other_trust_domains_are_taken_and_what_is_none_is_named() {
        let far = TestCa::of("far.example");
        let root = &far.roots()[0];
        let mut answer = bundles("spiffe://cluster.local", &[&TestCa::new().roots()[0]]);
        for (name, der) in [
            ("spiffe://far.example", root.to_vec()),
            ("spiffe://broken.example", root[1..].to_vec()),
            ("spiffe://empty.example", Vec::new()),
            ("spiffe://No Domain", root.to_vec()),
        ] {
            answer.bundles.insert(name.to_owned(), der);
        }
        let (federation, mut unusable) = others(&answer, "cluster.local");
        unusable.sort();
        assert_eq!(federation.trust_domains().collect::<Vec<_>>(), ["far.example"]);
        assert_eq!(unusable.concat(), "No Domainbroken.exampleempty.example");
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
