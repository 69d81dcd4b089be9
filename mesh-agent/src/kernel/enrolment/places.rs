//! Where pods live: told by the CNI plugin before they begin, or found; and what they had open when they were found.

use std::sync::Arc;

use crate::kernel::enrolment::Enrolment;
use crate::kernel::enrolment::present::Present;
use crate::kernel::error::KernelError;
use crate::kernel::placement::announced::{Announced, Announcement};
use crate::kernel::placement::{Learned, Locator, Whereabouts, connections};
use crate::kernel::site::Site;
use crate::mesh::workload::Workload;

impl Enrolment {
    /// Where pods without annotations are looked for; without it they are not.
    #[must_use]
    pub fn locating(mut self, locator: Locator) -> Self {
        self.locator = locator;
        self
    }

    /// Hears from the CNI plugin where a pod of this uid, as kubelet has it, is about to begin: from the next reconcile
    /// on it counts.
    pub fn announce(&mut self, uid: &str, announcement: Announcement) {
        self.locator.announced.hear(uid, announcement);
    }

    /// Hears what an earlier agent was told, except of pods that are gone.
    pub fn recall(&mut self, announced: Announced) {
        self.locator.announced = announced;
        self.forget_gone();
    }

    /// Forgets what was announced of a pod whose namespace is about to go; whether there was anything.
    pub fn withdraw(&mut self, uid: &str) -> bool {
        self.locator.announced.forget(uid)
    }

    /// Forgets announcements of pods that are gone; whether there were any.
    pub fn forget_gone(&mut self) -> bool {
        self.locator.announced.forget_gone()
    }

    /// What is announced now.
    pub fn announced(&self) -> &Announced {
        &self.locator.announced
    }

    /// Opens the place where a pod lives.
    pub(super) fn find(&mut self, workload: &Workload) -> Result<(Whereabouts, Site), KernelError> {
        if workload.addrs.is_empty() {
            return Err(KernelError::NoAddress);
        }
        let whereabouts = self.locator.locate(workload)?;
        let site = self.kernel.open(whereabouts.placement())?;
        if whereabouts.leads_to(&site) {
            Ok((whereabouts, site))
        } else {
            Err(KernelError::Moved)
        }
    }

    /// Whether `pod` still lives where its facts and its announcement say.
    pub(super) fn is_where_it_should_be(&self, pod: &Present, workload: &Workload) -> bool {
        let placement = pod.whereabouts.placement();
        if let Some(declared) = self.locator.declared(workload) {
            return declared == placement;
        }
        match self.locator.announced.of(&workload.kubelet_uid()) {
            Some(announcement) => announcement.netns == placement.netns,
            None => pod.whereabouts.learned() != Learned::Declared,
        }
    }

    /// How many connections a pod has that the mesh knows nothing of: only one that was found running has any, and an
    /// earlier agent knew those of a pod that it left hooked.
    pub(super) fn open_before(&self, whereabouts: &Whereabouts, site: &Site) -> Result<u64, KernelError> {
        if whereabouts.learned() != Learned::Found {
            return Ok(0);
        }
        let mut orphans = self.kernel.orphans()?.into_iter();
        if orphans.any(|orphan| orphan.netns == site.netns.cookie()) {
            return Ok(0);
        }
        connections::open(&site.netns).map_err(KernelError::Connections)
    }

    pub(super) fn with_announced(&self, wanted: &[Arc<Workload>]) -> Vec<Arc<Workload>> {
        self.locator.announced.overlay(wanted)
    }
}
