//! The certificates of one identity, as SPIRE pushes them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::messages::{SUBSCRIBE_TO_SVIDS, Selector, SvidMessage, SvidWithKey, SvidsRequest, SvidsResponse};
use super::{BUNDLE_PATIENCE, SpireError, SpireSettings, connect};
use crate::grpc::Answers;
use crate::identity::secret::SecretDer;
use crate::identity::{IssueError, Roots, Subscription, Svid};
use crate::mesh::identity::SpiffeId;

/// A stream of SVIDs that stays open as long as the identity is wanted.
#[derive(Debug)]
pub(super) struct SpireSubscription {
    settings: Arc<SpireSettings>,
    identity: SpiffeId,
    roots: watch::Receiver<Roots>,
    reached: Arc<Notify>,
    /// None before the first question and after an error.
    stream: Option<Answers<UnixStream, SvidsResponse>>,
    /// What the stream brought, and nobody has asked for yet.
    arrived: Option<Result<SvidsResponse, SpireError>>,
}

impl SpireSubscription {
    pub(super) fn new(
        settings: Arc<SpireSettings>,
        identity: SpiffeId,
        roots: watch::Receiver<Roots>,
        reached: Arc<Notify>,
    ) -> Self {
        Self {
            settings,
            identity,
            roots,
            reached,
            stream: None,
            arrived: None,
        }
    }

    /// What has been pushed; otherwise what a new stream begins with, since nobody can ask on an old one.
    async fn newest(&mut self) -> Result<Svid, IssueError> {
        let answer = match self.arrived.take() {
            Some(arrived) => arrived?,
            None => self.first().await?,
        };
        let svid = self.own(answer)?;
        self.wait_for_roots().await?;
        Ok(svid)
    }

    async fn first(&mut self) -> Result<SvidsResponse, SpireError> {
        self.stream = None;
        let path = &self.settings.socket;
        let stream = connect(path).await?;
        let request = SvidsRequest {
            selectors: self.settings.selectors.of(&self.identity),
        };
        let asked = Box::pin(Answers::ask(stream, SUBSCRIBE_TO_SVIDS, &request)).await;
        self.stream = Some(asked.map_err(|error| SpireError::of_call(path.clone(), error))?);
        let first = self.next().await?;
        self.reached.notify_one();
        Ok(first)
    }

    /// Cancel-safe. After an error there is no stream any more.
    async fn next(&mut self) -> Result<SvidsResponse, SpireError> {
        let path = &self.settings.socket;
        let Some(stream) = &mut self.stream else {
            return std::future::pending().await;
        };
        let error = match stream.next().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => SpireError::Broken {
                path: path.clone(),
                source: None,
            },
            Err(error) => SpireError::of_call(path.clone(), error),
        };
        self.stream = None;
        Err(error)
    }

    /// The SVID of exactly the identity that is wanted: selectors may match entries of others too.
    fn own(&self, answer: SvidsResponse) -> Result<Svid, IssueError> {
        let wanted = self.identity.to_string();
        let mut found = Vec::new();
        for with_key in answer.svids {
            let id = with_key.svid.as_ref().and_then(|svid| svid.id.as_ref());
            let id = id.map(ToString::to_string).unwrap_or_default();
            if id == wanted {
                return read(with_key);
            }
            found.push(id);
        }
        let selectors = self.settings.selectors.of(&self.identity);
        let selectors: Vec<_> = selectors.iter().map(Selector::to_string).collect();
        let selectors = selectors.join(" ");
        if found.is_empty() {
            return Err(SpireError::NoEntry { selectors }.into());
        }
        found.truncate(SHOWN_IDS);
        Err(SpireError::OtherIds {
            selectors,
            found,
            wanted,
        }
        .into())
    }

    async fn wait_for_roots(&mut self) -> Result<(), SpireError> {
        let known = timeout(BUNDLE_PATIENCE, self.roots.wait_for(|roots| !roots.is_empty())).await;
        match known {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(SpireError::NoBundle(self.settings.trust_domain.clone())),
        }
    }
}

impl Subscription for SpireSubscription {
    fn issue(&mut self) -> BoxFuture<'_, Result<Svid, IssueError>> {
        Box::pin(self.newest())
    }

    fn superseded(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.arrived.is_none() {
                self.arrived = Some(self.next().await);
            }
        })
    }
}

/// The certificate says itself whom it is for; the store checks that.
fn read(mut with_key: SvidWithKey) -> Result<Svid, IssueError> {
    let key = SecretDer::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(std::mem::take(
        &mut with_key.key,
    ))));
    if key.is_empty() {
        return Err(SpireError::Key.into());
    }
    let SvidMessage { chain, .. } = with_key.svid.take().unwrap_or_default();
    Ok(Svid::new(
        chain.into_iter().map(CertificateDer::from).collect(),
        key,
    )?)
}

/// Of the ids that were found as many are named.
const SHOWN_IDS: usize = 5;
