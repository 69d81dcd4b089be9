//! The judgement of a reviewed token: whose agent it shows, and on which node. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

use crate::ca::NodeName;

/// A service account, `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    namespace: String,
    name: String,
}

/// What a token must be good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) audience: String,
    /// The accounts of agents: nobody else may ask.
    pub(super) agents: BTreeSet<Account>,
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// The agent's pod.
    pub(super) pod: BoundPod,
    /// Where it runs; before 1.30 the API server does not say: the pod knows it.
    pub(super) node: Option<NodeName>,
}

/// The pod that a token ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BoundPod {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Another pod may have the name by now.
    pub(super) uid: String,
}

/// Why a token is no agent's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// The API server does not know it: expired, of a pod that is gone, signed by somebody else.
    #[error("the api server does not accept it: {0}")]
    NotAuthenticated(String),
    /// It was made for somebody else's ears, or the API server cannot tell.
    #[error("it is not for the audience {0}")]
    Audience(String),
    /// It is a user's or a group's, or of an account whose name is no name.
    #[error("it is no service account's")]
    NoAccount,
    /// It is of a service account that no agent runs under.
    #[error("the service account {0} is not an agent's")]
    NoAgent(Account),
    /// It is bound to no pod, so that it shows no node.
    #[error("it is not bound to a pod")]
    Unbound,
    /// Its pod is gone, is another by now, or was given to no node yet.
    #[error("its pod is on no node")]
    NoNode,
}

/// Whose token was reviewed with this outcome.
pub(super) fn judge(status: &TokenReviewStatus, demand: &Demand) -> Result<Holder, TokenFault> {
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("it does not say why");
        return Err(TokenFault::NotAuthenticated(why.to_owned()));
    }
    // A server that knows no audiences answers without any, and may have taken a token that was made for itself.
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.contains(&demand.audience) {
        return Err(TokenFault::Audience(demand.audience.clone()));
    }
    let user = status.user.as_ref().ok_or(TokenFault::NoAccount)?;
    let account = account_of(user).ok_or(TokenFault::NoAccount)?;
    if !demand.agents.contains(&account) {
        return Err(TokenFault::NoAgent(account));
    }
    // Also a token that is bound to a node but no pod names a node: it is nobody's who runs there.
    let pod = BoundPod {
        name: said(user, POD_NAME).ok_or(TokenFault::Unbound)?.to_owned(),
        uid: said(user, POD_UID).ok_or(TokenFault::Unbound)?.to_owned(),
        namespace: account.namespace,
    };
    let node = said(user, NODE_NAME).map(NodeName::new);
    Ok(Holder { pod, node })
}

fn account_of(user: &UserInfo) -> Option<Account> {
    let account = user.username.as_deref()?.strip_prefix(SERVICE_ACCOUNT)?;
    let (namespace, name) = account.split_once(':')?;
    Account::new(namespace, name)
}

/// What the API server says of a token beyond its account; said twice it says nothing.
fn said<'u>(user: &'u UserInfo, key: &str) -> Option<&'u str> {
    match user.extra.as_ref()?.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value),
        _ => None,
    }
}

impl Account {
    fn new(namespace: &str, name: &str) -> Option<Self> {
        let is_name = |part: &str| {
            let may = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
            !part.is_empty() && part.bytes().all(may)
        };
        (is_name(namespace) && is_name(name)).then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Whether it is this one.
    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }
}

impl FromStr for Account {
    type Err = InvalidAccount;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/');
        let account = parts.and_then(|(namespace, name)| Self::new(namespace, name));
        account.ok_or_else(|| InvalidAccount(text.to_owned()))
    }
}

/// The text is no `NAMESPACE/NAME`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a service account as NAMESPACE/NAME")]
pub struct InvalidAccount(String);

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// KEP-4193; told by API servers since 1.30.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn demand() -> Demand {
        Demand {
            audience: "istio-ca".into(),
            agents: [
                "mesh-system/mesh-agent".parse().unwrap(),
                "other/agent".parse().unwrap(),
            ]
            .into(),
        }
    }

    /// What a real API server says of the token of an agent's pod.
    pub(in super::super) fn agent_on(node: &str) -> TokenReviewStatus {
        let extra = [
            (NODE_NAME, node),
            (POD_NAME, "mesh-agent-x"),
            (POD_UID, "uid-x"),
            ("authentication.kubernetes.io/credential-id", "JTI=1"),
        ];
        TokenReviewStatus {
            audiences: Some(vec!["istio-ca".into()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some("system:serviceaccount:mesh-system:mesh-agent".into()),
                extra: Some(
                    extra
                        .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
                        .into(),
                ),
                ..UserInfo::default()
            }),
        }
    }

    /// An agent's pod.
    pub(in super::super) fn pod(name: &str) -> BoundPod {
        BoundPod {
            namespace: "mesh-system".into(),
            name: name.into(),
            uid: "uid-x".into(),
        }
    }

    /// The same from a server that does not say nodes.
    pub(in super::super) fn agent_of_old_server() -> TokenReviewStatus {
        let mut status = agent_on("n");
        extra(&mut status).remove(NODE_NAME);
        status
    }

    fn extra(status: &mut TokenReviewStatus) -> &mut std::collections::BTreeMap<String, Vec<String>> {
        status.user.as_mut().unwrap().extra.as_mut().unwrap()
    }

    fn account(status: &mut TokenReviewStatus, username: &str) {
        status.user.as_mut().unwrap().username = Some(username.into());
    }

    #[test]
    fn the_node_is_what_the_api_server_says_of_the_bound_pod() {
        let holder = judge(&agent_on("node-a"), &demand());
        let (pod, node) = (pod("mesh-agent-x"), Some(NodeName::new("node-a")));
        assert_eq!(holder, Ok(Holder { pod, node }));
    }

    #[test]
    fn without_a_node_in_the_answer_the_bound_pod_is_to_be_asked() {
        let (pod, node) = (pod("mesh-agent-x"), None);
        assert_eq!(judge(&agent_of_old_server(), &demand()), Ok(Holder { pod, node }));
    }

    #[test]
    fn whatever_is_missing_or_foreign_refuses_the_token() {
        type Spoil = fn(&mut TokenReviewStatus);
        let audience = TokenFault::Audience("istio-ca".into());
        let web: Account = "shop/web".parse().unwrap();
        let table: &[(Spoil, TokenFault)] = &[
            (
                |status| status.authenticated = Some(false),
                TokenFault::NotAuthenticated("it does not say why".into()),
            ),
            (
                |status| {
                    status.authenticated = None;
                    status.error = Some("token has expired".into());
                },
                TokenFault::NotAuthenticated("token has expired".into()),
            ),
            (|status| status.audiences = None, audience.clone()),
            (|status| status.audiences = Some(Vec::new()), audience.clone()),
            (
                |status| status.audiences = Some(vec!["https://kubernetes.default.svc".into()]),
                audience,
            ),
            (|status| status.user = None, TokenFault::NoAccount),
            (|status| account(status, "system:admin"), TokenFault::NoAccount),
            (
                |status| account(status, "system:serviceaccount:mesh-system"),
                TokenFault::NoAccount,
            ),
            (
                |status| account(status, "system:serviceaccount:mesh-system:mesh-agent:more"),
                TokenFault::NoAccount,
            ),
            (
                |status| account(status, "system:serviceaccount:shop:web"),
                TokenFault::NoAgent(web),
            ),
            (
                |status| account(status, "system:serviceaccount:other:mesh-agent"),
                TokenFault::NoAgent("other/mesh-agent".parse().unwrap()),
            ),
            (
                |status| status.user.as_mut().unwrap().extra = None,
                TokenFault::Unbound,
            ),
            (|status| drop(extra(status).remove(POD_NAME)), TokenFault::Unbound),
            (|status| drop(extra(status).remove(POD_UID)), TokenFault::Unbound),
            (
                |status| extra(status).get_mut(POD_UID).unwrap().push("another".into()),
                TokenFault::Unbound,
            ),
        ];
        for (spoil, fault) in table {
            let mut status = agent_on("node-a");
            spoil(&mut status);
            assert_eq!(judge(&status, &demand()), Err(fault.clone()));
        }
    }

    #[test]
    fn an_account_is_a_namespace_and_a_name() {
        for wrong in ["", "a", "/", "a/", "/b", "a/b/c", "a/b c", "a:b/c"] {
            wrong.parse::<Account>().unwrap_err();
        }
        assert_eq!("a/b".parse::<Account>().unwrap().to_string(), "a/b");
    }
}
