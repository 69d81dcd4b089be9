//! A real SPIRE in a lab: one server on the first node, and on each node an agent of its own.
//!
//! It must not know more of SPIRE than its documentation says, nor of the mesh's agents than an operator does.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::addresses::fabric_ipv4;
use crate::process::{self, ProcessId};
use crate::running::Running;
use crate::sandbox;

/// How long the SVIDs of workloads live. SPIRE's agent rotates them at half of it, and looks every five seconds.
pub const LIFE: Duration = Duration::from_secs(30);

const TRUST_DOMAIN: &str = "spiffe://cluster.local";
const PORT: u16 = 8081;
const LIMIT: Duration = Duration::from_secs(30);

/// The SPIRE of a lab, running or not.
#[derive(Debug)]
pub struct Spire<'l> {
    lab: &'l Running,
    programs: PathBuf,
    server_node: String,
}

impl<'l> Spire<'l> {
    /// Errors: SPIRE is not among the lab's tools.
    pub fn of(lab: &'l Running) -> Result<Self> {
        let tools = lab.state.tools.iter();
        let programs = tools
            .into_iter()
            .find(|dir| dir.join("spire-server").exists())
            .context("SPIRE is not built: `cargo xtask test --suite spire` builds it")?;
        let node = lab.state.nodes.keys().next().context("the lab has no node")?;
        Ok(Self {
            lab,
            programs: programs.clone(),
            server_node: node.clone(),
        })
    }

    /// All certificates of SPIRE's CA.
    pub fn bundle(&self) -> Result<String> {
        self.server(&["bundle", "show"])
    }

    /// Where a node's agent serves the Delegated Identity API.
    pub fn admin_socket(&self, node: &str) -> PathBuf {
        self.agent_dir(node).join("admin/api.sock")
    }

    /// What a mesh agent's command line needs in order to use it.
    pub fn agent_arguments(&self, node: &str) -> Vec<String> {
        let socket = self.admin_socket(node).display().to_string();
        vec!["--spire-socket".to_owned(), socket]
    }

    /// The log of a node's agent.
    pub fn agent_log(&self, node: &str) -> PathBuf {
        self.lab.site.logs().join(format!("spire-agent-{node}.log"))
    }

    /// Starts the server; its key, its entries and all else are new.
    pub fn start_server(&self) -> Result<()> {
        let dir = self.dir();
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let config = format!(
            r#"server {{
                bind_address = "{address}"
                bind_port = "{PORT}"
                socket_path = "{socket}"
                trust_domain = "cluster.local"
                data_dir = "{dir}"
                ca_ttl = "24h"
            }}
            plugins {{
                DataStore "sql" {{ plugin_data {{
                    database_type = "sqlite3"
                    connection_string = "{dir}/datastore.sqlite3"
                }} }}
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                KeyManager "memory" {{ plugin_data {{}} }}
            }}"#,
            address = server_address(),
            socket = self.server_socket().display(),
            dir = dir.display(),
        );
        let file = dir.join("server.conf");
        fs::write(&file, config).context("write the configuration of SPIRE's server")?;
        let log = self.lab.site.logs().join("spire-server.log");
        self.start("spire-server", &self.server_node, &file, &log)?;
        wait_healthy(|| self.server(&["healthcheck"]), &log)
    }

    /// Starts the agent of a node. The first time it joins by a token; later it knows itself.
    pub fn start_agent(&self, node: &str, delegate: &str) -> Result<()> {
        let dir = self.agent_dir(node);
        for part in ["admin", "public", "data"] {
            fs::create_dir_all(dir.join(part)).context("make the directories of a SPIRE agent")?;
        }
        let join = if dir.join("data/agent-data.json").exists() {
            String::new()
        } else {
            let said = self.server(&["token", "generate", "-spiffeID", &node_id(node)])?;
            let token = said.trim().strip_prefix("Token: ");
            format!("join_token = {:?}", token.with_context(|| said.clone())?)
        };
        let config = format!(
            r#"agent {{
                data_dir = "{dir}/data"
                server_address = "{address}"
                server_port = "{PORT}"
                socket_path = "{socket}"
                admin_socket_path = "{admin}"
                authorized_delegates = ["{delegate}"]
                trust_domain = "cluster.local"
                insecure_bootstrap = true
                {join}
            }}
            plugins {{
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                KeyManager "disk" {{ plugin_data {{ directory = "{dir}/data" }} }}
                WorkloadAttestor "unix" {{ plugin_data {{}} }}
            }}"#,
            dir = dir.display(),
            address = server_address(),
            socket = self.agent_socket(node).display(),
            admin = self.admin_socket(node).display(),
        );
        let file = dir.join("agent.conf");
        fs::write(&file, config).context("write the configuration of a SPIRE agent")?;
        let log = self.agent_log(node);
        let pid = self.start("spire-agent", node, &file, &log)?;
        fs::write(dir.join("pid"), pid.to_string()).context("write the id of a SPIRE agent")?;
        let socket = self.agent_socket(node).display().to_string();
        let check = || {
            let mut command = Command::new(self.programs.join("spire-agent"));
            command.args(["healthcheck", "-socketPath", &socket]);
            Ok(process::run(&mut command, LIMIT)?.success()?.stdout)
        };
        wait_healthy(check, &log)
    }

    /// Ends the agent of a node in order, and waits for that.
    pub fn stop_agent(&self, node: &str) -> Result<()> {
        let pid =
            fs::read_to_string(self.agent_dir(node).join("pid")).context("no SPIRE agent was started")?;
        let id = ProcessId::of(pid.parse().context("the id of a SPIRE agent")?)?;
        id.signal(Signal::SIGTERM)?;
        let ended = process::wait_until(LIMIT, || Ok((!id.is_alive()).then_some(())))?;
        ended.context("the SPIRE agent does not end")
    }

    /// Registers the mesh's agents as workloads: whatever root runs.
    pub fn register_delegates(&self) -> Result<()> {
        let entry = |node: &String| {
            json!({
                "parent_id": node_id(node),
                "spiffe_id": delegate(),
                "selectors": [{ "type": "unix", "value": "uid:0" }],
            })
        };
        self.create(&self.lab.state.nodes.keys().map(entry).collect::<Vec<_>>())
    }

    /// Registers identities by namespace and service account, on all nodes.
    pub fn register(&self, identities: &[String]) -> Result<()> {
        let mut entries = Vec::new();
        for node in self.lab.state.nodes.keys() {
            for identity in identities {
                entries.push(json!({
                    "parent_id": node_id(node),
                    "spiffe_id": identity,
                    "selectors": selectors(identity)?,
                    "x509_svid_ttl": LIFE.as_secs(),
                }));
            }
        }
        self.create(&entries)
    }

    fn create(&self, entries: &[Value]) -> Result<()> {
        let file = self.dir().join("entries.json");
        fs::write(&file, json!({ "entries": entries }).to_string()).context("write SPIRE's entries")?;
        let path = file.display().to_string();
        self.server(&["entry", "create", "-data", &path]).map(drop)
    }

    /// Takes the entries of an identity away, on all nodes.
    pub fn deregister(&self, identity: &str) -> Result<()> {
        let said = self.server(&["entry", "show", "-spiffeID", identity, "-output", "json"])?;
        let said: Value = serde_json::from_str(&said).context("SPIRE shows no JSON")?;
        let entries = said.get("entries").and_then(Value::as_array);
        for entry in entries.with_context(|| format!("no entries in {said}"))? {
            let id = entry
                .get("id")
                .and_then(Value::as_str)
                .context("an entry has no id")?;
            self.server(&["entry", "delete", "-entryID", id])?;
        }
        Ok(())
    }

    /// Has the server prepare another CA key, or activate, taint or revoke one; the id of that key.
    pub fn authority(&self, verb: &str, id: Option<&str>) -> Result<String> {
        let mut arguments = vec!["localauthority", "x509", verb, "-output", "json"];
        if let Some(id) = id {
            arguments.extend(["-authorityID", id]);
        }
        let said = self.server(&arguments)?;
        let said: Value = serde_json::from_str(&said).context("SPIRE shows no JSON")?;
        // Under a name of its own for each verb; `show` has the active one first.
        let wanted = if verb == "show" { "active" } else { verb };
        let authority = said.as_object().and_then(|said| {
            let mut named = said.iter();
            named.find_map(|(name, authority)| name.contains(wanted.get(..5)?).then_some(authority))
        });
        let id = authority.and_then(|authority| authority.get("authority_id"));
        let id = id
            .and_then(Value::as_str)
            .with_context(|| format!("no authority in {said}"))?;
        Ok(id.to_owned())
    }

    /// Gives the server the bundle of another trust domain, and an entry on each node that federates with it: without
    /// one, SPIRE's agents do not have it.
    pub fn federate(&self, trust_domain: &str, bundle: &Path) -> Result<()> {
        let id = format!("spiffe://{trust_domain}");
        let path = bundle.display().to_string();
        self.server(&["bundle", "set", "-format", "pem", "-id", &id, "-path", &path])?;
        let entry = |node: &String| {
            json!({
                "parent_id": node_id(node),
                "spiffe_id": federating(),
                "selectors": [{ "type": "k8s", "value": "ns:nobody" }],
                "federates_with": [id],
            })
        };
        self.create(&self.lab.state.nodes.keys().map(entry).collect::<Vec<_>>())
    }

    /// Takes that back: entries and bundle.
    pub fn part(&self, trust_domain: &str) -> Result<()> {
        self.deregister(&federating())?;
        let id = format!("spiffe://{trust_domain}");
        self.server(&["bundle", "delete", "-id", &id]).map(drop)
    }

    /// Runs a command of `spire-server` against this server.
    fn server(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.programs.join("spire-server"));
        command
            .args(arguments)
            .arg("-socketPath")
            .arg(self.server_socket());
        Ok(process::run(&mut command, LIMIT)?.success()?.stdout)
    }

    fn start(&self, program: &str, node: &str, config: &Path, log: &Path) -> Result<u32> {
        let words = [
            self.programs.join(program).display().to_string(),
            "run".to_owned(),
            "-config".to_owned(),
            config.display().to_string(),
        ];
        let place = sandbox::observer(&self.lab.site, &self.lab.site.node_netns(node));
        let mut child = sandbox::start(place.command(&words)?, log, log)?;
        let pid = child.id();
        // Takes its exit status whenever it ends, so that no zombie stays.
        thread::spawn(move || child.wait());
        Ok(pid)
    }

    fn dir(&self) -> PathBuf {
        self.lab.site.run_dir().join("spire")
    }

    fn server_socket(&self) -> PathBuf {
        self.dir().join("server.sock")
    }

    fn agent_dir(&self, node: &str) -> PathBuf {
        self.dir().join(node)
    }

    fn agent_socket(&self, node: &str) -> PathBuf {
        self.agent_dir(node).join("public/api.sock")
    }
}

fn wait_healthy(check: impl Fn() -> Result<String>, log: &Path) -> Result<()> {
    let mut last = String::new();
    let healthy = process::wait_until(LIMIT, || {
        let checked = check();
        if let Err(error) = &checked {
            last = format!("{error:#}");
        }
        Ok(checked.is_ok().then_some(()))
    })?;
    ensure!(
        healthy.is_some(),
        "SPIRE is not healthy: {last}\n{}",
        crate::agent::tail(log, 12)
    );
    Ok(())
}

/// Who the mesh's agents are in SPIRE.
pub fn delegate() -> String {
    format!("{TRUST_DOMAIN}/mesh-agent")
}

/// Nobody's identity, whose entries name the trust domains that the nodes federate with.
fn federating() -> String {
    format!("{TRUST_DOMAIN}/federating")
}

fn server_address() -> Ipv4Addr {
    fabric_ipv4(1)
}

/// Whatever agent runs on the node has it: parent of the node's entries.
fn node_id(node: &str) -> String {
    format!("{TRUST_DOMAIN}/node/{node}")
}

fn selectors(identity: &str) -> Result<Value> {
    let path = identity.strip_prefix(TRUST_DOMAIN).map(|path| path.split('/'));
    let parts: Vec<_> = path.into_iter().flatten().collect();
    let ["", "ns", namespace, "sa", account] = parts[..] else {
        anyhow::bail!("{identity} is no workload of this trust domain");
    };
    Ok(json!([
        { "type": "k8s", "value": format!("ns:{namespace}") },
        { "type": "k8s", "value": format!("sa:{account}") },
    ]))
}
