//! Loads the embedded programs once, and hands out their maps.
//!
//! Must not know: pods.

use std::os::fd::AsFd;

use aya::maps::{HashMap, Map, MapData, MapError};
use aya::programs::{CgroupSockAddr, Program, ProgramError, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader, Pod};

use crate::kernel::Hook;
use crate::kernel::error::KernelError;
use crate::kernel::preflight::Preflight;

/// The programs, verified and ready to be linked.
#[derive(Debug)]
pub struct Programs {
    object: Ebpf,
}

impl Programs {
    /// Creates the maps and has the kernel verify every program.
    pub fn load(found: &Preflight) -> Result<Self, KernelError> {
        let can_set_retval = u8::from(found.can_set_retval);
        let object = EbpfLoader::new()
            .override_global("CAN_SET_RETVAL", &can_set_retval, true)
            .load(embedded()?)
            .map_err(KernelError::Object)?;
        let mut programs = Self { object };
        for hook in Hook::ALL {
            programs.verify(hook)?;
        }
        Ok(programs)
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
        let Some(Map::HashMap(data)) = self.object.map(name) else {
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

    /// The program of `hook`, of the kind that the hook takes.
    pub(in crate::kernel) fn program<'a, P>(&'a mut self, hook: Hook) -> Result<&'a mut P, KernelError>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let program = self
            .object
            .program_mut(hook.program())
            .ok_or(KernelError::NoSuchPart(hook.program()))?;
        program.try_into().map_err(refused("find", hook))
    }

    fn verify(&mut self, hook: Hook) -> Result<(), KernelError> {
        let verified = match hook {
            Hook::SkLookup => self.program::<SkLookup>(hook)?.load(),
            Hook::SockOps => self.program::<SockOps>(hook)?.load(),
            Hook::Getpeername4 | Hook::Getpeername6 | Hook::Connect4 | Hook::Connect6 => {
                self.program::<CgroupSockAddr>(hook)?.load()
            }
        };
        verified.map_err(refused("verify", hook))
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

#[cfg(mesh_ebpf)]
#[expect(
    clippy::unnecessary_wraps,
    reason = "the build without programs has none to give"
)]
fn embedded() -> Result<&'static [u8], KernelError> {
    Ok(aya::include_bytes_aligned!(concat!(
        env!("OUT_DIR"),
        "/mesh-ebpf.o"
    )))
}

#[cfg(not(mesh_ebpf))]
fn embedded() -> Result<&'static [u8], KernelError> {
    Err(KernelError::NotBuiltIn)
}
