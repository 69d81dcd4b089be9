//! Which identities run on which node, kept by pod. Pure.

use std::collections::HashMap;

use crate::ca::NodeName;
use crate::mesh::identity::SpiffeId;

/// Where pods run and as whom. Equal nodes and identities are stored once, so that a pod costs its name and little more.
#[derive(Debug, Default)]
pub(super) struct PodPlaces {
    pods: HashMap<PodKey, Place>,
    /// How many pods share a place.
    places: HashMap<Place, usize>,
    /// The agents themselves, by uid, which tells a pod from an earlier one of its name.
    agents: HashMap<PodKey, Box<str>>,
}

/// `NAMESPACE/NAME`: of one name there is one pod at a time.
pub(super) type PodKey = Box<str>;
pub(super) type Place = (NodeName, SpiffeId);

impl PodPlaces {
    /// The pod is here now; `None` when it runs nowhere (yet, any more, or as nobody of the mesh).
    pub(super) fn put(&mut self, pod: PodKey, place: Option<Place>) {
        let Some(place) = place else {
            return self.remove(&pod);
        };
        if self.pods.get(&pod) == Some(&place) {
            return;
        }
        self.remove(&pod);
        let shared = self
            .places
            .get_key_value(&place)
            .map(|(shared, _)| shared.clone());
        let place = shared.unwrap_or(place);
        *self.places.entry(place.clone()).or_default() += 1;
        self.pods.insert(pod, place);
    }

    /// The pod is an agent's.
    pub(super) fn put_agent(&mut self, pod: PodKey, uid: Box<str>) {
        self.agents.insert(pod, uid);
    }

    /// Whether an agent of this name and uid is here.
    pub(super) fn has_agent(&self, pod: &str, uid: &str) -> bool {
        self.agents.get(pod).is_some_and(|one| **one == *uid)
    }

    /// The pod is gone.
    pub(super) fn remove(&mut self, pod: &str) {
        self.agents.remove(pod);
        let Some(place) = self.pods.remove(pod) else {
            return;
        };
        if let Some(count) = self.places.get_mut(&place) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.places.remove(&place);
            }
        }
    }

    pub(super) fn contains(&self, place: &Place) -> bool {
        self.places.contains_key(place)
    }

    /// Pairs of node and identity.
    pub(super) fn place_count(&self) -> usize {
        self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn place(node: u8, account: u8) -> Place {
        let id = SpiffeId::new("cluster.local", "shop", &format!("a{account}")).unwrap();
        (NodeName::new(&format!("n{node}")), id)
    }

    #[test]
    fn a_place_lasts_as_long_as_one_of_its_pods() {
        let mut places = PodPlaces::default();
        places.put("shop/a".into(), Some(place(1, 1)));
        places.put("shop/b".into(), Some(place(1, 1)));
        places.remove("shop/a");
        assert!(places.contains(&place(1, 1)));
        places.put("shop/b".into(), Some(place(2, 1)));
        assert!(!places.contains(&place(1, 1)) && places.contains(&place(2, 1)));
        places.put("shop/b".into(), None);
        assert_eq!((places.pods.len(), places.place_count()), (0, 0));
    }

    proptest! {
        #[test]
        fn places_are_always_those_of_the_pods(
            events in proptest::collection::vec((0_u8..5, proptest::option::of((0_u8..3, 0_u8..3))), 0..60),
        ) {
            let mut places = PodPlaces::default();
            let mut model = BTreeMap::new();
            for (pod, at) in events {
                let key: PodKey = format!("shop/p{pod}").into();
                match at {
                    Some(at) => drop(model.insert(pod, at)),
                    None => drop(model.remove(&pod)),
                }
                places.put(key, at.map(|(node, account)| place(node, account)));
            }
            let expected: BTreeSet<_> = model.values().copied().collect();
            prop_assert_eq!(places.place_count(), expected.len());
            for (node, account) in expected {
                prop_assert!(places.contains(&place(node, account)));
            }
        }
    }
}
