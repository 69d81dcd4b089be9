//! What the CNI plugin said of pods that begin: their namespace and addresses, before their facts have them.
//!
//! Must not know: who said it, and how.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mesh::workload::Workload;

/// Announcements by uid, as kubelet has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Announced(BTreeMap<String, Announcement>);

/// One pod that begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The runtime's name for the sandbox: a pod may have several, one after the other.
    pub sandbox: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Its addresses, at most one of each family, the primary first.
    pub addrs: Vec<IpAddr>,
}

impl Announced {
    /// Hears of a pod; what was said of it before counts no more.
    pub fn hear(&mut self, uid: &str, announcement: Announcement) {
        self.0.insert(uid.to_owned(), announcement);
    }

    /// Forgets a pod; whether it was known.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.0.remove(uid).is_some()
    }

    /// What was said of a pod.
    pub fn of(&self, uid: &str) -> Option<&Announcement> {
        self.0.get(uid)
    }

    /// Pods that have one of these addresses, by uid.
    pub fn at<'a>(&'a self, addrs: &'a [IpAddr]) -> impl Iterator<Item = &'a str> {
        let at = |announcement: &Announcement| announcement.addrs.iter().any(|addr| addrs.contains(addr));
        let found = self.0.iter().filter(move |(_, announcement)| at(announcement));
        found.map(|(uid, _)| uid.as_str())
    }

    /// Forgets pods whose namespace has no name any more; whether there were any. One system call for each pod.
    pub fn forget_gone(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain(|_, announcement| announcement.netns.exists());
        self.0.len() != before
    }

    /// The workloads, those with their announced addresses whose facts have none yet.
    pub fn overlay(&self, workloads: &[Arc<Workload>]) -> Vec<Arc<Workload>> {
        let with_addrs = |workload: &Arc<Workload>| match self.of(&workload.kubelet_uid()) {
            Some(announcement) if workload.addrs.is_empty() => Arc::new(Workload {
                addrs: announcement.addrs.clone(),
                ..Workload::clone(workload)
            }),
            Some(_) | None => Arc::clone(workload),
        };
        workloads.iter().map(with_addrs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::workload::fixture;

    fn said(addr: &str) -> Announcement {
        Announcement {
            sandbox: "1".to_owned(),
            netns: "/run/netns/a".into(),
            addrs: vec![addr.parse().unwrap()],
        }
    }

    #[test]
    fn announced_addresses_count_until_the_facts_have_some() {
        let own: IpAddr = "10.0.0.9".parse().unwrap();
        for (facts, expected) in [(vec![], "10.0.0.5"), (vec![own], "10.0.0.9")] {
            let mut announced = Announced::default();
            announced.hear("test/a", said("10.0.0.5"));
            let (mut a, b) = (fixture::pod("test", "a"), fixture::pod("test", "b"));
            a.addrs = facts;
            let overlaid = announced.overlay(&[Arc::new(a), Arc::new(b.clone())]);
            assert_eq!(overlaid[0].addrs, [expected.parse::<IpAddr>().unwrap()]);
            assert_eq!(*overlaid[1], b);
        }
    }

    #[test]
    fn an_announcement_goes_with_its_namespace() {
        let netns = tempfile::NamedTempFile::new().unwrap();
        let mut announced = Announced::default();
        announced.hear(
            "a",
            Announcement {
                sandbox: "1".to_owned(),
                netns: netns.path().into(),
                addrs: Vec::new(),
            },
        );
        assert!(!announced.forget_gone());
        assert!(announced.of("a").is_some());
        drop(netns);
        assert!(announced.forget_gone());
        assert!(announced.of("a").is_none());
    }
}
