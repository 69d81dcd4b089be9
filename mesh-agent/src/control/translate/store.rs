//! Facts of many objects, each translated when it changes.
//!
//! Place in the walk: between a source, which says what has changed, and its readings. Must not know: files, API
//! servers, snapshots.
//!
//! Three things rest on other objects and are done again when those change: whether a pod takes part rests on its
//! Namespace, policies may name certificates of `ConfigMap`s, and VirtualServices name Services and one another.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::ca_bundles::{BundleName, CaBundles};
use super::names::Names;
use super::namespace::Namespaces;
use super::object::Object;
use super::piece::{Around, Piece};
use super::{service_entry, virtual_service};
use crate::control::Reading;
use crate::control::manifest::Document;
use crate::mesh::facts::{ObjectMeta, Rejection};

/// All objects of a source, as far as they matter.
#[derive(Debug, Default)]
pub(in crate::control) struct Store {
    trust_domain: Arc<str>,
    /// `Kind NAMESPACE/NAME` to its place.
    places: HashMap<Arc<str>, usize>,
    objects: Vec<Option<Kept>>,
    free: Vec<usize>,
    /// What has no name to keep it by.
    nameless: Vec<Rejection>,
    skipped: usize,
    namespaces: Namespaces,
    bundles: CaBundles,
    names: Names,
    virtual_services: Cached,
}

/// One object.
#[derive(Debug, PartialEq)]
struct Kept {
    meta: Arc<ObjectMeta>,
    piece: Piece,
    rejections: Box<[Rejection]>,
}

/// What all VirtualServices say together; `None` when it must be read again.
type Cached = Option<Box<Reading>>;

impl Store {
    /// One that knows nothing yet.
    pub(in crate::control) fn new(trust_domain: &str) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            ..Self::default()
        }
    }

    /// Takes in an object as it is now; whether facts or rejections have changed by it.
    pub(in crate::control) fn put(&mut self, document: Document) -> bool {
        match Object::read(document) {
            Ok(Some(object)) => self.put_object(object),
            Ok(None) => false,
            Err(rejection) => {
                let meta = ObjectMeta {
                    origin: rejection.origin.as_str().into(),
                    object: rejection.object.as_str().into(),
                    created: None,
                };
                self.keep(Kept {
                    meta: Arc::new(meta),
                    piece: Piece::Nothing,
                    rejections: [rejection].into(),
                })
            }
        }
    }

    /// Takes in an object of a source that may hold one twice: the first counts.
    pub(in crate::control) fn declare(&mut self, document: Document) {
        match Object::read(document) {
            Ok(Some(object)) => match self.get(&object.meta.object) {
                None => {
                    self.put_object(object);
                }
                Some(first) => {
                    let first = &first.meta.origin;
                    self.nameless.push(object.reject(
                        "metadata.name",
                        format!("declared in {first} already; that one counts"),
                    ));
                }
            },
            Ok(None) => self.skipped += 1,
            Err(rejection) => self.nameless.push(rejection),
        }
    }

    /// Forgets an object, `Kind NAMESPACE/NAME`; whether it was known.
    pub(in crate::control) fn remove(&mut self, object: &str) -> bool {
        let gone = self.take(object);
        if let Some(gone) = &gone {
            self.follow_up(Some(&gone.piece), None);
        }
        gone.is_some()
    }

    /// Whether an object is known, `Kind NAMESPACE/NAME`.
    pub(in crate::control) fn holds(&self, object: &str) -> bool {
        self.places.contains_key(object)
    }

    /// The name of a known object, as it is in memory already.
    pub(in crate::control) fn name(&self, object: &str) -> Option<Arc<str>> {
        let known = self.places.get_key_value(object);
        known.map(|(name, _)| Arc::clone(name))
    }

    /// `Kind NAMESPACE/NAME` of all objects that `is_meant` picks.
    pub(in crate::control) fn names(&self, is_meant: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let names = self.places.keys().filter(|name| is_meant(name));
        names.cloned().collect()
    }

    /// The `ConfigMap`s that policies name, whether they are known or not.
    pub(in crate::control) fn wanted_bundles(&self) -> BTreeSet<BundleName> {
        let pieces = self.objects.iter().flatten().map(|kept| &kept.piece);
        let naming = pieces.filter_map(Piece::names_bundles);
        naming.flat_map(|(_, bundles)| bundles.iter().cloned()).collect()
    }

    /// All that is known now.
    pub(in crate::control) fn reading(&mut self) -> Reading {
        let mut reading = Reading {
            rejections: self.nameless.clone(),
            skipped: self.skipped,
            ..Reading::default()
        };
        for kept in self.objects.iter().flatten() {
            kept.piece.add_to(&mut reading);
            reading.rejections.extend_from_slice(&kept.rejections);
        }
        reading
            .facts
            .meshed_namespaces
            .extend(self.namespaces.enrolled().cloned());
        service_entry::give_addresses(&mut reading.facts);
        let virtual_services = self.virtual_services.take();
        let virtual_services = virtual_services.unwrap_or_else(|| self.read_virtual_services(&reading));
        let Reading {
            facts, rejections, ..
        } = virtual_services.as_ref();
        reading.facts.http_routes.extend_from_slice(&facts.http_routes);
        reading
            .facts
            .stream_routes
            .extend_from_slice(&facts.stream_routes);
        reading.rejections.extend_from_slice(rejections);
        self.virtual_services = Some(virtual_services);
        reading
    }

    fn read_virtual_services(&self, reading: &Reading) -> Box<Reading> {
        let pieces = self.objects.iter().flatten().map(|kept| &kept.piece);
        let objects = pieces.filter_map(Piece::virtual_service);
        Box::new(virtual_service::translate_all(objects, &reading.facts.services))
    }

    fn put_object(&mut self, mut object: Object) -> bool {
        object.namespace = self.names.shared(&object.namespace);
        let meta = Arc::clone(&object.meta);
        let mut rejections = Vec::new();
        let around = Around {
            trust_domain: &self.trust_domain,
            namespaces: &self.namespaces,
            bundles: &self.bundles,
            names: &self.names,
        };
        let piece = Piece::of(object, &around, &mut rejections);
        self.keep(Kept {
            meta,
            piece,
            rejections: rejections.into(),
        })
    }

    fn get(&self, object: &str) -> Option<&Kept> {
        self.objects.get(*self.places.get(object)?)?.as_ref()
    }

    /// Puts it in the place of its predecessor; whether it differs from it.
    fn keep(&mut self, kept: Kept) -> bool {
        let name = Arc::clone(&kept.meta.object);
        if self.get(&name) == Some(&kept) {
            return false;
        }
        let before = self.take(&name);
        self.follow_up(before.as_ref().map(|before| &before.piece), Some(&kept.piece));
        let place = self.free.pop().unwrap_or(self.objects.len());
        match self.objects.get_mut(place) {
            Some(slot) => *slot = Some(kept),
            None => self.objects.push(Some(kept)),
        }
        self.places.insert(name, place);
        true
    }

    fn take(&mut self, object: &str) -> Option<Kept> {
        let place = self.places.remove(object)?;
        self.free.push(place);
        self.objects.get_mut(place)?.take()
    }

    /// Does again what rests on an object that was replaced, came or went.
    fn follow_up(&mut self, before: Option<&Piece>, now: Option<&Piece>) {
        let mut concerned = before.into_iter().chain(now);
        if concerned.any(Piece::concerns_virtual_services) {
            self.virtual_services = None;
        }
        if let Some(Piece::Namespace(says)) = now.or(before) {
            self.namespaces.learn(says, now.is_some());
            self.rejoin(&says.name);
        }
        if let Some(Piece::ConfigMap(map)) = now.or(before) {
            let bundle = map.bundle.as_ref().filter(|_| now.is_some());
            if self.bundles.learn(&map.name, bundle) {
                self.read_again(&map.name);
            }
        }
    }

    /// Whether pods of a namespace take part is asked again.
    fn rejoin(&mut self, namespace: &str) {
        for kept in self.objects.iter_mut().flatten() {
            if let Piece::Pod(pod) = &mut kept.piece
                && *pod.workload.namespace == *namespace
            {
                pod.join(&self.namespaces);
            }
        }
    }

    /// Reads those policies again that name a bundle.
    fn read_again(&mut self, bundle: &BundleName) {
        let pieces = self.objects.iter().flatten().map(|kept| &kept.piece);
        let naming = pieces.filter_map(Piece::names_bundles);
        let concerned: Vec<Object> = naming
            .filter(|(_, bundles)| bundles.contains(bundle))
            .map(|(object, _)| object.clone())
            .collect();
        for object in concerned {
            self.put_object(object);
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
