//! Tokens checked by the API server, and remembered: for a short while, and while it is away for as long as they last.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Debug};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::review::{Account, BoundPod, Demand, TokenFault, judge};
use super::{ApiError, ClusterPods, answered, bearer};
use crate::ca::{Authenticator, NodeName, NotAuthenticated};

/// Says by `TokenReview` whose agent a caller is.
pub struct TokenReviewer {
    api: Box<dyn ReviewApi>,
    demand: Demand,
    pods: Arc<dyn AgentPods>,
    /// Only tokens that proved an agent: whoever holds none cannot push others out.
    known: Mutex<HashMap<Bearer, Known>>,
    /// So that callers without a good token cannot bury the API server in reviews.
    asking: Semaphore,
}

#[derive(Debug, Clone)]
struct Known {
    node: NodeName,
    pod: BoundPod,
    /// Until then it is not asked about again.
    until: Instant,
    /// When the token ends, whoever vouches for it.
    expiry: Instant,
}

/// A token, wiped when it is forgotten.
#[derive(PartialEq, Eq)]
struct Bearer(Zeroizing<String>);

/// What is asked of the API server: the seam for tests.
pub(super) trait ReviewApi: Send + Sync + Debug {
    /// Reviews a token for an audience. Bounded in time, cancel-safe.
    fn review<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<TokenReviewStatus, ApiError>>;

    /// The node of this very pod; none when it is gone or has no node. Bounded in time, cancel-safe.
    fn node_of<'a>(&'a self, pod: &'a BoundPod) -> BoxFuture<'a, Result<Option<String>, ApiError>>;
}

/// The agents' own pods, as far as they are known.
pub(super) trait AgentPods: Send + Sync + Debug {
    /// Whether this very pod was there when the API server was last heard.
    fn is_there(&self, pod: &BoundPod) -> bool;
}

impl TokenReviewer {
    /// Takes tokens for `audience` of the service accounts `agents`, as `client`'s API server reviews them. While that is
    /// away it takes those that were good before, of agents that `pods` knows.
    pub fn new(client: Client, audience: String, agents: BTreeSet<Account>, pods: Arc<ClusterPods>) -> Self {
        Self::over(Box::new(Cluster(client)), Demand { audience, agents }, pods)
    }

    pub(super) fn over(api: Box<dyn ReviewApi>, demand: Demand, pods: Arc<dyn AgentPods>) -> Self {
        Self {
            api,
            demand,
            pods,
            known: Mutex::default(),
            asking: Semaphore::new(MAX_ASKING),
        }
    }

    async fn node(&self, token: &str) -> Result<NodeName, NotAuthenticated> {
        if let Some(node) = self.remembered(token, Instant::now()) {
            return Ok(node);
        }
        // Fails only where the semaphore is closed, which nobody does; then nothing is vouched for.
        let permit = self.asking.acquire().await.map_err(unavailable)?;
        // An agent asks for all its pods at once: who waited finds what the first one learned.
        if let Some(node) = self.remembered(token, Instant::now()) {
            return Ok(node);
        }
        let asked = Instant::now();
        let reviewed = match self.api.review(token, &self.demand.audience).await {
            Ok(reviewed) => reviewed,
            Err(error) if error.is_outage() => {
                let vouched_for = self.vouched_for(token, Instant::now());
                return vouched_for.ok_or_else(|| unavailable(error));
            }
            Err(error) => return Err(unavailable(error)),
        };
        let holder = match judge(&reviewed, &self.demand) {
            Ok(holder) => holder,
            Err(fault) => {
                self.known().remove(token);
                return Err(fault.into());
            }
        };
        let node = if let Some(node) = holder.node {
            node
        } else {
            let node = self.api.node_of(&holder.pod).await.map_err(unavailable)?;
            NodeName::new(&node.ok_or(TokenFault::NoNode)?)
        };
        drop(permit);
        self.remember(token, &node, holder.pod, asked, SystemTime::now());
        Ok(node)
    }

    /// Whose a token is that was good when it was last reviewed, and has not ended, nor has its pod. Who asks again soon
    /// does not wait for the API server again.
    fn vouched_for(&self, token: &str, now: Instant) -> Option<NodeName> {
        let mut known = self.known();
        let one = known.get_mut(token)?;
        if now >= one.expiry || !self.pods.is_there(&one.pod) {
            return None;
        }
        let node = &one.node;
        tracing::info!(%node, "the API server is away: the agent's token was good before and is taken");
        one.until = one.expiry.min(now + REMEMBERED);
        Some(one.node.clone())
    }

    fn remembered(&self, token: &str, now: Instant) -> Option<NodeName> {
        let known = self.known();
        let one = known.get(token)?;
        (now < one.until).then(|| one.node.clone())
    }

    /// Counts from when the review was asked for, and no longer than the token says that it lives.
    fn remember(&self, token: &str, node: &NodeName, pod: BoundPod, asked: Instant, wall: SystemTime) {
        let Some(expiry) = bearer::expiry(token) else {
            return;
        };
        let left = expiry.duration_since(wall).unwrap_or_default();
        // As long as no token lasts.
        let Some(expiry) = asked.checked_add(left.min(A_YEAR)) else {
            return;
        };
        let one = Known {
            node: node.clone(),
            pod,
            until: expiry.min(asked + REMEMBERED),
            expiry,
        };
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, one| asked < one.expiry);
        }
        if known.len() >= MAX_KNOWN {
            known.retain(|_, one| asked < one.until);
        }
        if known.len() < MAX_KNOWN {
            known.insert(Bearer(token.to_owned().into()), one);
        }
    }

    /// No entry depends on another, so a lock that a panic poisoned is still good.
    fn known(&self) -> MutexGuard<'_, HashMap<Bearer, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authenticator for TokenReviewer {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<NodeName, NotAuthenticated>> {
        Box::pin(self.node(token))
    }
}

impl Borrow<str> for Bearer {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// As its text, which it is looked up by.
impl Hash for Bearer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

/// Never shows a token.
impl Debug for TokenReviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReviewer")
            .field("demand", &self.demand)
            .field("known", &self.known().len())
            .finish_non_exhaustive()
    }
}

/// The real one.
struct Cluster(Client);

impl Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}

impl ReviewApi for Cluster {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<TokenReviewStatus, ApiError>> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![audience.to_owned()]),
                token: token.to_owned(),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.0.clone());
        Box::pin(async move {
            let params = PostParams::default();
            let reviewed = answered(reviews.create(&params, &review)).await?;
            // An answer without an outcome vouches for nothing.
            Ok(reviewed.status.unwrap_or_default())
        })
    }

    fn node_of<'a>(&'a self, pod: &'a BoundPod) -> BoxFuture<'a, Result<Option<String>, ApiError>> {
        let pods: Api<Pod> = Api::namespaced(self.0.clone(), &pod.namespace);
        Box::pin(async move {
            let found = answered(pods.get_opt(&pod.name)).await?;
            let same = found.filter(|found| found.metadata.uid.as_ref() == Some(&pod.uid));
            Ok(same.and_then(|pod| pod.spec?.node_name))
        })
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> NotAuthenticated {
    NotAuthenticated::Unavailable(error.into())
}

/// A token that was withdrawn, with its pod or its account, is good for so long at most while the API server can be asked.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Longer than any token lasts: kubelet asks for a day at most.
const A_YEAR: Duration = Duration::from_hours(365 * 24);
/// Agents of a large cluster, two tokens each while they rotate.
const MAX_KNOWN: usize = 16_384;
/// Reviews under way at once.
const MAX_ASKING: usize = 32;

#[cfg(test)]
#[path = "reviewer_tests.rs"]
mod tests;
