//! Keeps the plugin's program in its directory and its entry in the list that the runtime reads, and takes both out.
//!
//! Must not know: when, and who else writes there.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::PLUGIN;
use super::conflist::{self, Unfit};
use super::netconf::Entry;

/// The two directories of a node, and what is to be in them.
#[derive(Debug, Clone)]
pub struct Installer {
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    entry: Entry,
}

/// How things stand in the directory of configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The first list has the entry.
    InPlace(PathBuf),
    /// It has it since now.
    Put(PathBuf),
    /// No network is configured yet.
    Empty,
}

/// Why the plugin is not in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or directory cannot be used.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What this agent sees is no part of the node any more: somebody removed the directory itself and made another.
    #[error("{} was removed on the node itself; restart the agent's pod, so that it sees the one that is there now", .0.display())]
    Removed(PathBuf),
    /// The file that the runtime reads first is no JSON.
    #[error("read {} as JSON", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Where it ends to be.
        #[source]
        source: serde_json::Error,
    },
    /// The first configuration takes no plugin after it.
    #[error("chain a plugin in {}", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Unfit,
    },
}

impl Installer {
    /// Touches nothing yet.
    pub fn new(conf_dir: PathBuf, bin_dir: PathBuf, entry: Entry) -> Self {
        Self {
            conf_dir,
            bin_dir,
            entry,
        }
    }

    /// Where lists are.
    pub fn conf_dir(&self) -> &Path {
        &self.conf_dir
    }

    /// Puts a copy of `own`, this very program, where the runtime looks for plugins, unless it is there; whether that
    /// was due. At no time is there a part of it.
    pub fn put_program(&self, own: &Path) -> Result<bool, InstallError> {
        is_of_the_node(&self.bin_dir)?;
        let place = self.bin_dir.join(PLUGIN);
        if is_same(own, &place).map_err(failed("compare", &place))? {
            return Ok(false);
        }
        let fresh = self.bin_dir.join(format!(".{PLUGIN}.new"));
        let copied = fs::copy(own, &fresh)
            .and_then(|_| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)))
            .and_then(|()| File::open(&fresh)?.sync_all())
            .and_then(|()| fs::rename(&fresh, &place));
        copied.map_err(failed("put", &place)).map(|()| true)
    }

    /// Whether the program is there, as long as it should be; a cheap look.
    pub fn has_program(&self, own: &Path) -> bool {
        let length = |path: &Path| fs::metadata(path).ok().map(|found| found.len());
        length(own).is_some() && length(own) == length(&self.bin_dir.join(PLUGIN))
    }

    /// Puts the entry into the list that the runtime reads: the first by name. A configuration of a single plugin becomes
    /// a list; its file is kept beside it under a name that runtimes do not read.
    pub fn repair(&self) -> Result<Standing, InstallError> {
        is_of_the_node(&self.conf_dir)?;
        let Some(path) = configurations(&self.conf_dir)?.into_iter().next() else {
            return Ok(Standing::Empty);
        };
        let found = read(&path)?;
        let is_list = path.extension().is_some_and(|kind| kind == "conflist");
        let list = if is_list { found } else { conflist::list_of(&found) };
        let entry = serde_json::to_value(&self.entry).map_err(|source| InstallError::Json {
            path: path.clone(),
            source,
        })?;
        let changed = conflist::with_plugin(&list, &entry).map_err(|source| InstallError::Unfit {
            path: path.clone(),
            source,
        })?;
        let Some(changed) = changed else {
            return Ok(Standing::InPlace(path));
        };
        if is_list {
            replace(&path, &changed)?;
            return Ok(Standing::Put(path));
        }
        let list = path.with_extension("conflist");
        replace_like(&list, &changed, &path)?;
        // Only now: until then the runtime reads the single one, which sorts before it.
        fs::rename(&path, saved(&path)).map_err(failed("set aside", &path))?;
        Ok(Standing::Put(list))
    }
}

/// Takes the entry out of every list, puts back what was set aside, removes the program; what was changed, in words.
///
/// Goes on after an error, which is returned in the end.
pub fn remove(conf_dir: &Path, bin_dir: &Path) -> Result<Vec<String>, InstallError> {
    let (mut done, mut outcome) = (Vec::new(), Ok(()));
    for path in configurations(conf_dir)? {
        let taken = take_out(&path).map(|changed| done.extend(changed));
        outcome = outcome.and(taken);
    }
    let program = bin_dir.join(PLUGIN);
    match fs::remove_file(&program) {
        Ok(()) => done.push(format!("removed {}", program.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => outcome = outcome.and(Err(failed("remove", &program)(error))),
    }
    outcome.map(|()| done)
}

fn take_out(path: &Path) -> Result<Option<String>, InstallError> {
    if path.extension().is_none_or(|kind| kind != "conflist") {
        return Ok(None);
    }
    for kind in ["conf", "json"] {
        let single = path.with_extension(kind);
        if saved(&single).exists() {
            fs::rename(saved(&single), &single).map_err(failed("put back", &single))?;
            fs::remove_file(path).map_err(failed("remove", path))?;
            return Ok(Some(format!("put back {}", single.display())));
        }
    }
    let Some(changed) = conflist::without_plugin(&read(path)?) else {
        return Ok(None);
    };
    replace(path, &changed)?;
    Ok(Some(format!("took the plugin out of {}", path.display())))
}

/// A mount goes on showing a directory that was removed, and nobody reads what is put there.
fn is_of_the_node(dir: &Path) -> Result<(), InstallError> {
    let is_removed = fs::metadata(dir).is_ok_and(|found| found.nlink() == 0);
    if is_removed {
        return Err(InstallError::Removed(dir.to_owned()));
    }
    Ok(())
}

/// The files that runtimes read (libcni, `ConfFiles`), in their order.
fn configurations(dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let entries = match fs::read_dir(dir) {
        // It comes with the network.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", dir))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("list", dir))?.path();
        let kind = path.extension().and_then(|kind| kind.to_str());
        if matches!(kind, Some("conf" | "conflist" | "json")) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Value, InstallError> {
    let text = fs::read(path).map_err(failed("read", path))?;
    serde_json::from_slice(&text).map_err(|source| InstallError::Json {
        path: path.to_owned(),
        source,
    })
}

fn replace(path: &Path, value: &Value) -> Result<(), InstallError> {
    replace_like(path, value, path)
}

/// Writes all of it under another name, with the rights of `model`, and then gives it its own: nobody reads a part.
fn replace_like(path: &Path, value: &Value, model: &Path) -> Result<(), InstallError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.{PLUGIN}-new"));
    let write = || -> io::Result<()> {
        let rights = fs::metadata(model)?.permissions();
        let mut file = File::create(&fresh)?;
        file.set_permissions(rights)?;
        file.write_all(format!("{value:#}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(failed("write", path))
}

fn saved(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".before-");
    name.push(PLUGIN);
    name.into()
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, other) = (File::open(one)?, File::open(other));
    let mut other = match other {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    if one.metadata()?.len() != other.metadata()?.len() || other.metadata()?.permissions().mode() & 0o111 == 0
    {
        return Ok(false);
    }
    let (mut mine, mut theirs) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let length = one.read(&mut mine)?;
        let part = theirs.get_mut(..length).unwrap_or_default();
        if length == 0 {
            return Ok(true);
        }
        other.read_exact(part)?;
        if mine.get(..length) != Some(&*part) {
            return Ok(false);
        }
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File {
        operation,
        path,
        source,
    }
}

const BLOCK: usize = 64 * 1024;

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
