//! Loads the embedded programs once, and hands out their maps.
//!
//! Must not know: pods.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapError, MapInfo};
use aya::programs::{CgroupSockAddr, Program, ProgramError, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader, Pod};
use aya_obj::Object;
use mesh_common::map::MapName;

use crate::kernel::Hook;
use crate::kernel::budget::Verified;
use crate::kernel::capacity::Capacity;
use crate::kernel::error::{self, KernelError};
use crate::kernel::pins::Pins;
use crate::kernel::preflight::Preflight;

/// The programs, verified and ready to be linked.
#[derive(Debug)]
pub struct Programs {
    object: Ebpf,
    has_new_maps: bool,
}

impl Programs {
    /// Adopts the maps that are pinned, or makes and pins them, and has the kernel verify every program.
    ///
    /// Pinned maps of another layout or capacity are replaced as a whole. Whatever programs an earlier agent left linked go on
    /// with their own maps until their links are adopted.
    pub fn load(found: &Preflight, pins: &Pins, capacity: Capacity) -> Result<Self, KernelError> {
        let maps = Declared::of(embedded()?, capacity)?;
        let has_new_maps = !maps.are_adoptable(pins)?;
        Self::over(&maps, Some(pins), found, has_new_maps)
    }

    fn over(
        maps: &Declared,
        pins: Option<&Pins>,
        found: &Preflight,
        has_new_maps: bool,
    ) -> Result<Self, KernelError> {
        let mut loader = EbpfLoader::new();
        for map in &maps.0 {
            loader.map_max_entries(&map.name, map.max_entries);
            if let Some(pins) = pins {
                loader.map_pin_path(&map.name, pins.maps().join(&map.name));
            }
        }
        let can_set_retval = u8::from(found.can_set_retval);
        let offsets = found.offsets.clone().unwrap_or_default();
        let object = loader
            .override_global("CAN_SET_RETVAL", &can_set_retval, true)
            .override_global("WRITE_SEQ", &offsets.write_seq, true)
            .override_global("COPIED_SEQ", &offsets.copied_seq, true)
            .load(embedded()?)
            .map_err(KernelError::Object)?;
        let mut programs = Self { object, has_new_maps };
        for hook in Hook::ALL {
            programs.verify(hook)?;
        }
        programs.verify_refuser()?;
        programs.verify_joiner()?;
        Ok(programs)
    }

    /// Has the kernel verify every program that is linked to pods, over small maps that are pinned nowhere.
    pub(in crate::kernel) fn rehearse(found: &Preflight) -> Result<(), KernelError> {
        let least = Capacity { pods: 1, flows: 64 };
        let maps = Declared::of(embedded()?, least)?;
        Self::over(&maps, None, found, false).map(drop)
    }

    /// The object, for whoever loads programs of it that are no hooks of pods.
    pub(in crate::kernel) fn object(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    /// Whether the maps were made just now: no program that was linked before uses them.
    pub(in crate::kernel) fn has_new_maps(&self) -> bool {
        self.has_new_maps
    }

    /// What the verifier needed for each program.
    pub(in crate::kernel) fn verified(&self) -> Result<Vec<Verified>, KernelError> {
        let loaded = self.object.programs().filter(|(_, program)| program.fd().is_ok());
        let programs = loaded.map(|(name, program)| {
            let info = program.info().map_err(unseen("one of the programs"))?;
            Ok(Verified {
                program: name.to_owned(),
                translated_bytes: info.size_translated().unwrap_or_default(),
                instructions: info.verified_instruction_count(),
            })
        });
        programs.collect()
    }

    /// What the kernel calls the instructions of a program: the same for the same program.
    pub(in crate::kernel) fn tag(&mut self, program: &'static str) -> Result<u64, KernelError> {
        let info = self.named(program)?.info();
        info.map(|info| info.tag()).map_err(unseen(program))
    }

    /// The descriptor of a program.
    pub(in crate::kernel) fn descriptor(
        &mut self,
        program: &'static str,
    ) -> Result<BorrowedFd<'_>, KernelError> {
        let found = self.named(program)?;
        found.fd().map(|fd| fd.as_fd()).map_err(unseen(program))
    }

    /// Takes the map of that name out, as one of aya's typed maps.
    pub fn map<M>(&mut self, name: &'static str) -> Result<M, KernelError>
    where
        M: TryFrom<Map, Error = MapError>,
    {
        let map = self.object.take_map(name).ok_or(KernelError::NoSuchPart(name))?;
        M::try_from(map).map_err(|source| KernelError::Map {
            operation: "open",
            map: name,
            source,
        })
    }

    /// Another handle on the hash map of that name, with a descriptor of its own; before the map is taken out.
    pub fn hash_map_handle<K: Pod, V: Pod>(
        &self,
        name: &'static str,
    ) -> Result<HashMap<MapData, K, V>, KernelError> {
        hash_map_handle(&self.object, name)
    }

    /// The program of `hook`, of the kind that the hook takes.
    pub(in crate::kernel) fn program<'a, P>(&'a mut self, hook: Hook) -> Result<&'a mut P, KernelError>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        self.named(hook.program())?
            .try_into()
            .map_err(refused("find", hook))
    }

    fn named(&mut self, program: &'static str) -> Result<&mut Program, KernelError> {
        self.object
            .program_mut(program)
            .ok_or(KernelError::NoSuchPart(program))
    }

    fn verify_refuser(&mut self) -> Result<(), KernelError> {
        let program: &mut SkLookup = self.named(REFUSER)?.try_into().map_err(unseen(REFUSER))?;
        program.load().map_err(|error| error::refused(REFUSER, error))
    }

    /// While its maps are still in the object.
    fn verify_joiner(&mut self) -> Result<(), KernelError> {
        let program: &mut SockOps = self.named(JOINER)?.try_into().map_err(unseen(JOINER))?;
        program.load().map_err(|error| error::refused(JOINER, error))
    }

    fn verify(&mut self, hook: Hook) -> Result<(), KernelError> {
        let verified = match hook {
            Hook::SkLookup => self.program::<SkLookup>(hook)?.load(),
            Hook::SockOps => self.program::<SockOps>(hook)?.load(),
            Hook::Getpeername4
            | Hook::Getpeername6
            | Hook::Recvmsg4
            | Hook::Recvmsg6
            | Hook::Sendmsg4
            | Hook::Sendmsg6
            | Hook::Connect4
            | Hook::Connect6 => self.program::<CgroupSockAddr>(hook)?.load(),
        };
        verified.map_err(|error| error::refused(hook.program(), error))
    }
}

/// Another handle on a hash map of the object, with a descriptor of its own; before the map is taken out.
pub(in crate::kernel) fn hash_map_handle<K: Pod, V: Pod>(
    object: &Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, KernelError> {
    let Some(Map::HashMap(data) | Map::LruHashMap(data)) = object.map(name) else {
        return Err(KernelError::NoSuchPart(name));
    };
    let open = || -> Result<HashMap<MapData, K, V>, MapError> {
        let again = MapData::from_fd(data.fd().as_fd().try_clone_to_owned()?)?;
        HashMap::try_from(Map::HashMap(again))
    };
    open().map_err(|source| KernelError::Map {
        operation: "open",
        map: name,
        source,
    })
}

/// The maps that the object declares and that are to be pinned: all but its constants. Their sizes are the configured
/// ones.
struct Declared(Vec<Shape>);

struct Shape {
    name: String,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

impl Declared {
    fn of(object: &[u8], capacity: Capacity) -> Result<Self, KernelError> {
        let object = Object::parse(object).map_err(|error| KernelError::Object(error.into()))?;
        let maps = object.maps.into_iter().filter(|(name, _)| !name.starts_with('.'));
        let shapes = maps.map(|(name, map)| Shape {
            max_entries: MapName::named(&name)
                .and_then(|map| capacity.entries(map))
                .unwrap_or_else(|| map.max_entries()),
            key_size: map.key_size(),
            value_size: map.value_size(),
            name,
        });
        Ok(Self(shapes.collect()))
    }

    /// Whether the maps that are pinned are ours. What is not ours is removed; programs that use it keep it.
    fn are_adoptable(&self, pins: &Pins) -> Result<bool, KernelError> {
        let foreign = pins.remove_foreign_maps()?;
        if foreign > 0 {
            tracing::warn!(
                maps = foreign,
                "pinned maps of another layout version are replaced"
            );
        }
        let mut is_any_there = false;
        for map in &self.0 {
            let path = pins.maps().join(&map.name);
            if !path.exists() {
                continue;
            }
            is_any_there = true;
            if !map.is_like(&path)? {
                let removed = pins.remove_own_maps()?;
                tracing::warn!(
                    map = map.name,
                    maps = removed,
                    "pinned maps of another shape are replaced"
                );
                return Ok(false);
            }
        }
        Ok(is_any_there)
    }
}

impl Shape {
    fn is_like(&self, pin: &Path) -> Result<bool, KernelError> {
        let pinned = MapInfo::from_pin(pin).map_err(|source| KernelError::Map {
            operation: "look at",
            map: "pinned",
            source,
        })?;
        Ok(pinned.key_size() == self.key_size
            && pinned.value_size() == self.value_size
            && pinned.max_entries() == self.max_entries)
    }
}

/// Names the program in an error of aya's.
pub(in crate::kernel) fn refused(
    operation: &'static str,
    hook: Hook,
) -> impl FnOnce(ProgramError) -> KernelError {
    move |source| KernelError::Program {
        operation,
        program: hook.program(),
        source,
    }
}

fn unseen(program: &'static str) -> impl FnOnce(ProgramError) -> KernelError {
    move |source| KernelError::Program {
        operation: "look at",
        program,
        source,
    }
}

/// Joins connections between applications and the agent; attached to the agent's own cgroup.
pub(in crate::kernel) const JOINER: &str = "mesh_leg_ops";

/// Takes the place of the `sk_lookup` program of a pod whose address means another.
pub(in crate::kernel) const REFUSER: &str = "mesh_sk_refuse";

#[cfg(mesh_ebpf)]
#[expect(
    clippy::unnecessary_wraps,
    reason = "the build without programs has none to give"
)]
pub(in crate::kernel) fn embedded() -> Result<&'static [u8], KernelError> {
    Ok(aya::include_bytes_aligned!(concat!(
        env!("OUT_DIR"),
        "/mesh-ebpf.o"
    )))
}

#[cfg(not(mesh_ebpf))]
pub(in crate::kernel) fn embedded() -> Result<&'static [u8], KernelError> {
    Err(KernelError::NotBuiltIn)
}
