//! Enrolment: pods that join, leave, restart and die while others talk to them, and what is left of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{addresses, equal, get, until, url};
use super::enrolled::{NODE, is_present, link_pins, shown};
use super::{Claim, claims};
use crate::guest::Guest;
use crate::running::Running;
use crate::{agent, process, sandbox};

pub(super) const CLAIMS: &[Claim] = claims![
    a_pod_that_joins_and_leaves_keeps_every_connection_it_has,
    a_restarted_container_keeps_its_links,
    a_deleted_pod_leaves_nothing_within_two_seconds_in_whatever_order_it_goes,
    a_pod_in_the_place_of_another_is_named_and_the_other_goes_on,
    fifty_pods_that_come_and_go_leave_no_descriptor_no_task_and_no_pin,
];

const LEAVER: &str = "shop/leaver";
const STRANGER: &str = "outside/stranger";
const LINES: &str = "../programs/lines.py";
const PORT: u16 = 7700;
/// Reads the first word of a server that speaks first, and says nothing more.
const GREETED: &str = "import socket, sys, time
c = socket.create_connection((sys.argv[1], 7000))
print(c.recv(3).decode(), flush=True)
time.sleep(600)";
const TWO_SECONDS: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);

/// A program of a pod that runs until the end of a claim.
struct Started {
    child: Child,
    log: PathBuf,
}

impl Started {
    fn new(lab: &Running, pod: &str, program: &[&str], name: &str) -> Result<Self> {
        let log = lab.site.logs().join(format!("enrolment-{name}.log"));
        fs::write(&log, "").with_context(|| log.display().to_string())?;
        let program: Vec<_> = program.iter().map(|&word| word.to_owned()).collect();
        let command = lab.command(&pod.parse()?, &program, &lab.state.input)?;
        let child = sandbox::start(command, &log, &log)?;
        Ok(Self { child, log })
    }

    /// A connection that goes on: from a pod to an address.
    fn talk(lab: &Running, pod: &str, host: &str, name: &str) -> Result<Self> {
        Self::new(
            lab,
            pod,
            &["python3", LINES, "keep", host, &PORT.to_string()],
            name,
        )
    }

    /// Waits until some more lines went there and back, and says whether each of them so far had the pod's own socket
    /// as its sender.
    fn goes_on(&mut self) -> Result<()> {
        let before = lines(&self.log)?.len();
        until(PATIENCE, &format!("{} goes on", self.log.display()), || {
            Ok(lines(&self.log)?.len() >= before + 4)
        })?;
        ensure!(self.child.try_wait()?.is_none(), "{} ended", self.log.display());
        for line in lines(&self.log)? {
            equal(
                "sees the client's own end",
                line.get("is_direct").and_then(Value::as_bool),
                Some(true),
            )?;
        }
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Err(error) = process::reap(&mut self.child) {
            crate::say(&format!("{}: {error:#}", self.log.display()));
        }
    }
}

/// The long connections stay what they were when they began, whatever becomes of the pod; new ones follow it.
fn a_pod_that_joins_and_leaves_keeps_every_connection_it_has(lab: &Running) -> Result<()> {
    let file = "clients.yaml";
    let before = lab.manifest(file)?;
    let (leaver, plain) = (addresses(lab, LEAVER)?, addresses(lab, "outside/plain")?);
    let serve = ["python3", LINES, "serve", &PORT.to_string()];
    let _servers = [
        Started::new(lab, LEAVER, &serve, "serve-leaver")?,
        Started::new(lab, "outside/plain", &serve, "serve-plain")?,
    ];
    for pod in [LEAVER, "outside/plain"] {
        until(PATIENCE, "the server listens", || {
            let listens = ["ss", "-Htln", "sport", "=", &format!(":{PORT}")];
            Ok(!lab.exec(pod, &listens)?.success()?.stdout.is_empty())
        })?;
    }
    let uid = lab.pod(&LEAVER.parse()?)?.uid.clone();
    let mut old = [
        Started::talk(lab, LEAVER, &plain[0].to_string(), "old-out")?,
        Started::talk(lab, STRANGER, &leaver[0].to_string(), "old-in")?,
        Started::talk(lab, STRANGER, &leaver[1].to_string(), "old-in6")?,
    ];
    old.iter_mut().try_for_each(Started::goes_on)?;

    let joining = "mesh-agent.dev/dataplane: disabled";
    ensure!(before.contains(joining), "{file} does not say {joining}");
    lab.put_manifest(
        file,
        &before.replace(joining, "mesh-agent.dev/dataplane: enabled"),
    )?;
    let claimed = (|| {
        until(TWO_SECONDS, "the pod is enrolled", || {
            Ok(shown(lab, &uid)?.is_some_and(|pod| is_present(&pod)))
        })?;
        let mut captured = [
            Started::talk(lab, LEAVER, &plain[0].to_string(), "new-out")?,
            Started::talk(lab, STRANGER, &leaver[0].to_string(), "new-in")?,
        ];
        // The agent takes the place of the client's socket on both ways.
        captured.iter_mut().try_for_each(Started::goes_on)?;
        ensure!(
            is_relayed_both_ways(lab)?,
            "the new connections do not go through the agent"
        );
        old.iter_mut().try_for_each(Started::goes_on)?;
        lab.put_manifest(file, &before)?;
        until(TWO_SECONDS, "nothing of the pod is left", || {
            let listens = [
                "ss", "-Htln", "sport", "=", ":15001", "or", "sport", "=", ":15006",
            ];
            Ok(shown(lab, &uid)?.is_none() && lab.exec(LEAVER, &listens)?.success()?.stdout.is_empty())
        })?;
        captured.iter_mut().try_for_each(Started::goes_on)?;
        old.iter_mut().try_for_each(Started::goes_on)?;
        Started::talk(lab, LEAVER, &plain[0].to_string(), "after-out")?.goes_on()
    })();
    lab.put_manifest(file, &before)?;
    claimed
}

/// Whether the pod has a connection to the agent's listener, and one that the agent delivers to its server.
fn is_relayed_both_ways(lab: &Running) -> Result<bool> {
    let own = addresses(lab, LEAVER)?[0].to_string();
    let to_agent = ["dst", own.as_str(), "dport", "=", ":15001"];
    let port = format!(":{PORT}");
    let delivered = [
        "src",
        own.as_str(),
        "dst",
        own.as_str(),
        "dport",
        "=",
        port.as_str(),
    ];
    let has = |filter: &[&str]| -> Result<bool> {
        let found = [&["ss", "-Htn", "state", "established"], filter].concat();
        Ok(!lab.exec(LEAVER, &found)?.success()?.stdout.is_empty())
    };
    Ok(has(&to_agent)? && has(&delivered)?)
}

fn a_restarted_container_keeps_its_links(lab: &Running) -> Result<()> {
    let mut guest = Guest::arrive(lab, 200)?;
    let claimed = (|| {
        guest.declare(lab)?;
        let since = until_present(lab, &guest)?;
        let pins = link_pins(lab)?;
        let server = ["python3", "../programs/http_server.py", "8080", "guest"];
        let address = url(guest.ipv4.into(), 8080, "/");
        for round in ["first", "second"] {
            guest.start(lab, &server)?;
            until(
                PATIENCE,
                &format!("the {round} container answers through the mesh"),
                || {
                    let reply = get(lab, "shop/client", &address)?;
                    Ok(reply.status == 200 && !reply.is_direct()?)
                },
            )?;
            guest.kill()?;
        }
        equal("enrolled since", until_present(lab, &guest)?, since)?;
        equal("pins of links", link_pins(lab)?, pins)
    })();
    depart(lab, &mut guest)?;
    claimed
}

fn a_deleted_pod_leaves_nothing_within_two_seconds_in_whatever_order_it_goes(lab: &Running) -> Result<()> {
    let before = link_pins(lab)?;
    for (order, host) in ORDERS.into_iter().zip(201..) {
        let mut guest = Guest::arrive(lab, host)?;
        guest.declare(lab)?;
        until_present(lab, &guest)?;
        let _inward = talk_both_ways(lab, &mut guest)?;
        ensure!(link_pins(lab)?.len() > before.len(), "no link is pinned");
        go(lab, &mut guest, order)?;
        until(TWO_SECONDS, &format!("nothing is left after {order:?}"), || {
            Ok(link_pins(lab)? == before && shown(lab, guest.uid())?.is_none())
        })?;
    }
    Ok(())
}

fn a_pod_in_the_place_of_another_is_named_and_the_other_goes_on(lab: &Running) -> Result<()> {
    let far = lab.pod(&"shop/near".parse()?)?;
    let mut guest = Guest::arrive(lab, 210)?;
    guest.declare(lab)?;
    until_present(lab, &guest)?;
    let file = "guest-210.yaml";
    let own = lab.manifest(file)?;
    let inside = far.cgroup.join("inside").display().to_string();
    let cgroup = guest.cgroup().display().to_string();
    let nested = own.replace(&format!("\"{cgroup}\""), &format!("\"{inside}\""));
    let claimed = (|| {
        ensure!(nested != own, "the manifest does not name {cgroup}");
        fs::create_dir_all(&inside)?;
        lab.put_manifest(file, &nested)?;
        until(TWO_SECONDS, "the reason names the other pod", || {
            let pod = shown(lab, guest.uid())?.context("not shown")?;
            let why = pod.get("why_not").and_then(Value::as_str).unwrap_or_default();
            Ok(!is_present(&pod) && why.contains("pod shop/near"))
        })?;
        equal("the other", get(lab, "shop/client", "http://near/")?.status, 200)
    })();
    depart(lab, &mut guest)?;
    fs::remove_dir(&inside).with_context(|| inside.clone())?;
    claimed
}

fn fifty_pods_that_come_and_go_leave_no_descriptor_no_task_and_no_pin(lab: &Running) -> Result<()> {
    // What the agent keeps for its own sake is there after the first.
    come_and_go(lab, 249, ORDERS[0])?;
    let held = || -> Result<(u64, f64)> {
        let usage = agent::usage(lab.agent(NODE)?)?;
        Ok((usage.open_files, lab.metrics(NODE)?.sum("mesh_tasks_active", &[])))
    };
    until(PATIENCE, "the agent is at rest", || Ok(held()? == held()?))?;
    let (pins, (files, tasks)) = (link_pins(lab)?, held()?);
    for (round, host) in (200..250).enumerate() {
        let order = ORDERS.into_iter().cycle().nth(round).context("no order")?;
        come_and_go(lab, host, order).with_context(|| format!("round {round}, {order:?}"))?;
    }
    let mut last = (0, 0.0);
    let at_rest = until(PATIENCE, "descriptors and tasks are what they were", || {
        last = held()?;
        Ok(last.0 <= files && last.1 <= tasks)
    });
    at_rest.with_context(|| format!("before: {files} files, {tasks} tasks; after: {last:?}"))?;
    equal("pins of links", link_pins(lab)?, pins)
}

fn come_and_go(lab: &Running, host: u8, order: [Step; 3]) -> Result<()> {
    let mut guest = Guest::arrive(lab, host)?;
    guest.declare(lab)?;
    until_present(lab, &guest)?;
    let _inward = talk_both_ways(lab, &mut guest)?;
    go(lab, &mut guest, order)?;
    until(TWO_SECONDS, "it is forgotten", || {
        Ok(shown(lab, guest.uid())?.is_none())
    })
    .map(|_| ())
}

/// What goes of a pod.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Its object.
    Facts,
    /// Its processes, then its cgroup.
    Cgroup,
    /// The name of its namespace.
    Netns,
}

const ORDERS: [[Step; 3]; 4] = [
    [Step::Facts, Step::Cgroup, Step::Netns],
    [Step::Cgroup, Step::Netns, Step::Facts],
    [Step::Netns, Step::Cgroup, Step::Facts],
    [Step::Netns, Step::Facts, Step::Cgroup],
];

fn go(lab: &Running, guest: &mut Guest, order: [Step; 3]) -> Result<()> {
    order.into_iter().try_for_each(|step| match step {
        Step::Facts => guest.withdraw(lab),
        Step::Netns => guest.remove_netns(),
        Step::Cgroup => {
            guest.kill()?;
            guest.remove_cgroup()
        }
    })
}

/// Ends a pod in good order and waits until it is forgotten.
fn depart(lab: &Running, guest: &mut Guest) -> Result<()> {
    guest.withdraw(lab)?;
    until(TWO_SECONDS, "it is forgotten", || {
        Ok(shown(lab, guest.uid())?.is_none())
    })?;
    guest.kill()?;
    guest.remove_cgroup()?;
    guest.remove_netns()
}

/// A connection through the agent out of the pod and one into it, under way when it goes.
fn talk_both_ways(lab: &Running, guest: &mut Guest) -> Result<Started> {
    let server = addresses(lab, "shop/greeter")?[0].to_string();
    guest.start(lab, &["python3", LINES, "serve", &PORT.to_string()])?;
    let greeted = guest.start(lab, &["python3", "-c", GREETED, &server])?;
    until(PATIENCE, "a connection out of the pod is under way", || {
        Ok(fs::read_to_string(&greeted)?.contains("220"))
    })?;
    let mut inward = None;
    until(PATIENCE, "a connection into the pod is under way", || {
        let talk = Started::talk(lab, "shop/client", &guest.ipv4.to_string(), "inward")?;
        // The server may not listen yet.
        let talks = process::wait_until(Duration::from_secs(1), || {
            Ok((!lines(&talk.log)?.is_empty()).then_some(()))
        });
        let is_there = matches!(talks, Ok(Some(())));
        inward = is_there.then_some(talk);
        Ok(is_there)
    })?;
    inward.context("no connection into the pod")
}

/// Waits until the agent says that the pod is enrolled; since when.
fn until_present(lab: &Running, guest: &Guest) -> Result<Option<u64>> {
    let mut since = None;
    until(TWO_SECONDS, "the pod is enrolled", || {
        let pod = shown(lab, guest.uid())?;
        since = pod.as_ref().and_then(|pod| pod.get("since_s")?.as_u64());
        Ok(pod.is_some_and(|pod| is_present(&pod)))
    })?;
    Ok(since)
}

fn lines(log: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(log).with_context(|| log.display().to_string())?;
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", log.display())))
        .collect()
}
