//! Where the certificates of one identity come from: a subscription where the issuer pushes, else the issuer itself.

use std::fmt;
use std::sync::Arc;

use super::news::TrustNews;
use super::{IssueError, Issuer, Subscription, WorkloadTls};
use crate::mesh::identity::SpiffeId;

/// Belongs to the renewal task of an identity, and ends with it.
pub(super) struct Source {
    issuer: Arc<dyn Issuer>,
    identity: SpiffeId,
    subscription: Option<Box<dyn Subscription>>,
}

impl Source {
    pub(super) fn new(issuer: &Arc<dyn Issuer>, identity: &SpiffeId) -> Self {
        Self {
            issuer: Arc::clone(issuer),
            identity: identity.clone(),
            subscription: issuer.subscribe(identity),
        }
    }

    /// The newest certificate, which is for nobody else, under what is trusted now; and whether that is news.
    pub(super) async fn issue(&mut self, news: &mut TrustNews) -> Result<(WorkloadTls, bool), IssueError> {
        let svid = match &mut self.subscription {
            Some(subscription) => subscription.issue().await?,
            None => self.issuer.issue(&self.identity).await?,
        };
        if *svid.identity() != self.identity {
            return Err(IssueError::OtherIdentity(svid.identity().clone()));
        }
        let is_news = news.is_pending();
        let (roots, rules) = news.take();
        Ok((WorkloadTls::new(&svid, &roots, &rules)?, is_news))
    }

    /// Returns when something newer was pushed than was issued last; never, where nothing is pushed. Cancel-safe.
    pub(super) async fn superseded(&mut self) {
        match &mut self.subscription {
            Some(subscription) => subscription.superseded().await,
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("issuer", &self.issuer)
            .field("identity", &self.identity)
            .field("is_subscription", &self.subscription.is_some())
            .finish()
    }
}
