//! The part of a container runtime: directories of a node's CNI, and runs of the plugin as a runtime makes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::guest::Guest;
use crate::process::{self, Output};
use crate::running::Running;
use crate::suites::enrolled::NODE;

const PLUGIN: &str = "mesh-agent-cni";
/// More than the agent and the plugin take together, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(1);

/// Directories of the node.
pub(super) struct Node {
    pub(super) conf: PathBuf,
    pub(super) bin: PathBuf,
}

/// What a runtime tells of a pod.
pub(super) struct Pod<'p> {
    pub(super) namespace: &'p str,
    pub(super) name: &'p str,
    pub(super) uid: &'p str,
    pub(super) netns: PathBuf,
    pub(super) addrs: Vec<String>,
}

impl<'p> Pod<'p> {
    pub(super) fn of(guest: &'p Guest) -> Self {
        Self {
            namespace: &guest.name().namespace,
            name: &guest.name().name,
            uid: guest.uid(),
            netns: guest.netns(),
            addrs: vec![format!("{}/24", guest.ipv4), format!("{}/64", guest.ipv6)],
        }
    }
}

impl Node {
    pub(super) fn of(lab: &Running) -> Self {
        let dir = lab.site.run_dir().join("cni");
        Self {
            conf: dir.join("net.d"),
            bin: dir.join("bin"),
        }
    }

    /// A node with a network, as some CNI leaves it.
    pub(super) fn make(lab: &Running) -> Result<Self> {
        let node = Self::of(lab);
        for dir in [&node.conf, &node.bin] {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        node.write("10-lab.conflist", "lab")?;
        Ok(node)
    }

    /// Puts a list without our plugin there.
    pub(super) fn write(&self, file: &str, name: &str) -> Result<()> {
        let list = json!({
            "cniVersion": "1.0.0",
            "name": name,
            "plugins": [{ "type": "bridge", "mtu": 1450 }, { "type": "portmap", "snat": true }],
        });
        let fresh = self.conf.join(format!("{file}.tmp"));
        fs::write(&fresh, list.to_string())?;
        fs::rename(&fresh, self.conf.join(file)).with_context(|| file.to_owned())
    }

    /// Ends the node's agent and starts one that installs the plugin.
    pub(super) fn restart_agent(&self, lab: &Running, signal: Signal) -> Result<()> {
        lab.end_agent(NODE, signal)?;
        self.start_agent(lab)
    }

    pub(super) fn start_agent(&self, lab: &Running) -> Result<()> {
        let words = [
            "--cni-conf-dir",
            &self.conf.display().to_string(),
            "--cni-bin-dir",
            &self.bin.display().to_string(),
            "--cni-timeout-s",
            "20",
        ];
        lab.start_agent_with(NODE, &words.map(str::to_owned))?;
        lab.wait_ready(NODE)
    }

    /// The types of the plugins in a list.
    pub(super) fn types(&self, file: &str) -> Result<Vec<String>> {
        let list = read(&self.conf.join(file))?;
        let plugins = list
            .get("plugins")
            .and_then(Value::as_array)
            .context("no plugins")?;
        let types = plugins.iter().filter_map(|plugin| plugin.get("type")?.as_str());
        Ok(types.map(str::to_owned).collect())
    }

    /// Whether the plugin is in a list of that name.
    pub(super) fn has_plugin(&self, file: &str) -> Result<bool> {
        Ok(self.types(file)?.last().is_some_and(|kind| kind == PLUGIN))
    }

    /// Runs the plugin of the list as its runtime does. `change` may be somebody's who configures it otherwise.
    pub(super) fn run(
        &self,
        command: &str,
        pod: &Pod<'_>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Output> {
        let list = read(&self.conf.join("10-lab.conflist"))?;
        let plugins = list
            .get("plugins")
            .and_then(Value::as_array)
            .context("no plugins")?;
        let mut conf = plugins.last().context("no plugin")?.clone();
        ensure!(
            conf.get("type") == Some(&json!(PLUGIN)),
            "the last plugin is another: {list}"
        );
        let ips: Vec<_> = pod.addrs.iter().map(|addr| json!({ "address": addr })).collect();
        if let Some(fields) = conf.as_object_mut() {
            fields.insert("cniVersion".to_owned(), json!("1.0.0"));
            fields.insert("name".to_owned(), json!("lab"));
            fields.insert(
                "prevResult".to_owned(),
                json!({ "cniVersion": "1.0.0", "ips": ips }),
            );
        }
        change(&mut conf);
        let stdin = self.bin.join(format!("{}-{command}.json", pod.uid));
        fs::write(&stdin, conf.to_string())?;
        let mut run = Command::new("/bin/sh");
        run.args(["-c", r#"exec "$0" < "$1""#])
            .arg(self.bin.join(PLUGIN))
            .arg(&stdin);
        run.env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", format!("sandbox-of-{}", pod.uid))
            .env("CNI_NETNS", &pod.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.bin)
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
                    pod.namespace, pod.name, pod.uid
                ),
            );
        let output = process::run(&mut run, LIMIT);
        fs::remove_file(&stdin)?;
        output
    }

    /// A sandbox gets its network and must be meshed by that.
    pub(super) fn add(&self, guest: &Guest) -> Result<()> {
        let output = self.run("ADD", &Pod::of(guest), |_| {})?.success()?;
        let result: Value = serde_json::from_str(&output.stdout).context("no JSON")?;
        ensure!(
            result.pointer("/ips/0/address") == Some(&json!(format!("{}/24", guest.ipv4))),
            "the result is another: {result}"
        );
        Ok(())
    }

    /// A sandbox goes.
    pub(super) fn del(&self, guest: &Guest) -> Result<()> {
        let output = self.run("DEL", &Pod::of(guest), |_| {})?.success()?;
        ensure!(output.stdout.trim().is_empty(), "said {}", output.stdout);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
