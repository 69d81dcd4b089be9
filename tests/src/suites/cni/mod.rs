//! Pods that begin, as on a real node: named by their uid, announced by the CNI plugin, or found when they run already.
//!
//! The first claim starts the agent of one node anew, with a plugin; the last takes it out again.

mod node;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use self::node::{Node, Pod};
use super::ask::{addresses, equal, text, until, url};
use super::enrolled::{NODE, is_present, link_pins, shown};
use super::{Claim, claims};
use crate::guest::Guest;
use crate::process::Output;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    the_agent_puts_its_plugin_last_in_the_first_list,
    a_pod_is_meshed_from_its_first_packet_in_a_hundred_of_a_hundred_starts,
    a_pod_that_ends_in_the_middle_of_its_enrolment_leaves_nothing,
    a_killed_agent_recalls_a_pod_whose_address_no_manifest_has,
    without_an_agent_pods_of_the_mesh_do_not_start_and_others_do,
    a_pod_that_the_agent_does_not_know_is_refused_with_the_reason,
    a_list_that_is_written_anew_or_sorts_first_gets_the_plugin_again,
    a_pod_that_runs_already_is_found_and_what_it_had_open_is_counted,
    uninstall_takes_the_plugin_out_and_leaves_the_lists_as_they_were,
];

/// Takes connections of the mesh only; on the other node.
const STRICT: &str = "strict/vault";
const ROUNDS: usize = 5;
const AT_ONCE: u8 = 20;
const PATIENCE: Duration = Duration::from_secs(30);

fn the_agent_puts_its_plugin_last_in_the_first_list(lab: &Running) -> Result<()> {
    let node = Node::make(lab)?;
    node.write("20-other.conflist", "other")?;
    node.restart_agent(lab, Signal::SIGKILL)?;
    until(PATIENCE, "the plugin is in the first list", || {
        node.has_plugin("10-lab.conflist")
    })?;
    equal(
        "plugins",
        node.types("10-lab.conflist")?,
        ["bridge", "portmap", "mesh-agent-cni"],
    )?;
    equal(
        "of the other list",
        node.types("20-other.conflist")?,
        ["bridge", "portmap"],
    )?;
    ensure!(node.bin.join("mesh-agent-cni").is_file(), "no program");
    Ok(())
}

/// An unmeshed client is refused by a server that takes mutual TLS only, so each first answer proves the capture.
fn a_pod_is_meshed_from_its_first_packet_in_a_hundred_of_a_hundred_starts(lab: &Running) -> Result<()> {
    let node = Node::of(lab);
    let before = link_pins(lab)?;
    let target = url(addresses(lab, STRICT)?[0], 8080, "/");
    let wires = wires(lab)?;
    for round in 0..ROUNDS {
        let guests = (0..AT_ONCE).map(|at| Guest::arrive_as_by_kubelet(lab, 200 + at));
        let guests = guests.collect::<Result<Vec<_>>>()?;
        guests
            .iter()
            .try_for_each(|guest| guest.declare_without_address(lab))?;
        let started = each(&guests, |guest| {
            node.add(guest)?;
            first_answer(lab, guest, &target)
        });
        let departed = each(&guests, |guest| depart(lab, &node, guest));
        started.with_context(|| format!("round {round}"))?;
        departed.with_context(|| format!("round {round}"))?;
        // The next round has the same addresses: a namespace that is still open keeps them.
        until(PATIENCE, "the wires of the round are gone", || {
            Ok(self::wires(lab)? == wires)
        })?;
    }
    until(PATIENCE, "no pin of them is left", || {
        Ok(link_pins(lab)? == before)
    })
    .map(|_| ())
}

fn a_pod_that_ends_in_the_middle_of_its_enrolment_leaves_nothing(lab: &Running) -> Result<()> {
    let node = Node::of(lab);
    let before = link_pins(lab)?;
    let guests = (0..AT_ONCE).map(|at| Guest::arrive_as_by_kubelet(lab, 200 + at));
    let guests = guests.collect::<Result<Vec<_>>>()?;
    guests
        .iter()
        .try_for_each(|guest| guest.declare_without_address(lab))?;
    // Whatever the plugin comes to: the pod goes while it asks.
    each(&guests, |guest| {
        thread::scope(|scope| {
            let asks = scope.spawn(|| node.run("ADD", &Pod::of(guest), |_| {}));
            guest.withdraw(lab)?;
            guest.remove_netns()?;
            let asked = asks.join().ok().context("the plugin's run panicked")??;
            guest.remove_cgroup()?;
            let _either_way = asked.is_success();
            node.del(guest)
        })
    })?;
    until(PATIENCE, "nothing of them is left", || {
        let is_shown = guests.iter().map(|guest| Ok(shown(lab, guest.uid())?.is_some()));
        let is_shown = is_shown.collect::<Result<Vec<_>>>()?;
        Ok(link_pins(lab)? == before && !is_shown.contains(&true))
    })
    .map(|_| ())
}

fn a_killed_agent_recalls_a_pod_whose_address_no_manifest_has(lab: &Running) -> Result<()> {
    let node = Node::of(lab);
    let target = url(addresses(lab, STRICT)?[0], 8080, "/");
    let guest = Guest::arrive_as_by_kubelet(lab, 230)?;
    let claimed = (|| {
        guest.declare_without_address(lab)?;
        node.add(&guest)?;
        node.restart_agent(lab, Signal::SIGKILL)?;
        until(PATIENCE, "the pod is enrolled", || is_enrolled(lab, &guest))?;
        first_answer(lab, &guest, &target)
    })();
    depart(lab, &node, &guest)?;
    claimed
}

fn without_an_agent_pods_of_the_mesh_do_not_start_and_others_do(lab: &Running) -> Result<()> {
    let node = Node::of(lab);
    lab.end_agent(NODE, Signal::SIGKILL)?;
    let claimed = (|| {
        let pod = |namespace: &'static str| Pod {
            namespace,
            name: "web",
            uid: "0b6d3c5e-9d6a-4f7e-8a55-1c0de1f1a2b3",
            netns: PathBuf::from("/run/netns/none"),
            addrs: vec!["10.0.0.5/24".to_owned()],
        };
        let soon = |conf: &mut Value| conf["timeoutSeconds"] = json!(1);
        let refused = node.run("ADD", &pod("shop"), soon)?;
        ensure!(!refused.is_success(), "a pod of the mesh starts: {refused:?}");
        equal("code", said(&refused)?.get("code").cloned(), Some(json!(11)))?;
        let msg = text(&said(&refused)?, "msg")?.to_owned();
        ensure!(
            msg.contains("the mesh agent of this node does not answer"),
            "{msg}"
        );
        for namespace in ["outside", "kube-system", "mesh-system"] {
            node.run("ADD", &pod(namespace), soon)?
                .success()
                .context(namespace)?;
        }
        let open = |conf: &mut Value| conf["failMode"] = json!("open");
        let output = node.run("ADD", &pod("shop"), open)?.success()?;
        ensure!(output.stderr.contains("starts unmeshed"), "{}", output.stderr);
        node.run("DEL", &pod("shop"), |_| {})?.success().map(|_| ())
    })();
    node.start_agent(lab)?;
    claimed
}

fn a_pod_that_the_agent_does_not_know_is_refused_with_the_reason(lab: &Running) -> Result<()> {
    let node = Node::of(lab);
    // Longer than the plugin would wait for a shorter answer of the agent.
    let pod = Pod {
        namespace: "shop",
        name: "nobody",
        uid: "1b6d3c5e-9d6a-4f7e-8a55-1c0de1f1a2b3",
        netns: PathBuf::from("/run/netns/none"),
        addrs: Vec::new(),
    };
    let refused = node.run("ADD", &pod, |_| {})?;
    ensure!(!refused.is_success(), "it starts: {refused:?}");
    let msg = text(&said(&refused)?, "msg")?.to_owned();
    ensure!(msg.contains("not known to the agent"), "{msg}");
    let refusals = lab
        .metrics(NODE)?
        .sum("mesh_cni_requests_total", &[("result", "refused")]);
    ensure!(refusals >= 1.0, "not counted");
    Ok(())
}

fn a_list_that_is_written_anew_or_sorts_first_gets_the_plugin_again(lab: &Running) -> Result<()> {
    let node = Node::of(lab);
    node.write("10-lab.conflist", "lab")?;
    until(PATIENCE, "the list has the plugin again", || {
        node.has_plugin("10-lab.conflist")
    })?;
    node.write("00-first.conflist", "first")?;
    until(PATIENCE, "the first list has the plugin", || {
        node.has_plugin("00-first.conflist")
    })?;
    until(PATIENCE, "status names the list and counts", || {
        let status = lab.status(NODE)?;
        let list = status.pointer("/cni/list").and_then(Value::as_str);
        let repairs = status.pointer("/cni/repairs").and_then(Value::as_u64);
        Ok(list.is_some_and(|list| list.ends_with("00-first.conflist"))
            && repairs.is_some_and(|count| count >= 2))
    })?;
    fs::remove_file(node.conf.join("00-first.conflist"))?;
    Ok(())
}

fn a_pod_that_runs_already_is_found_and_what_it_had_open_is_counted(lab: &Running) -> Result<()> {
    let server = addresses(lab, "outside/plain")?[0].to_string();
    let mut guest = Guest::arrive_as_by_kubelet(lab, 231)?;
    let claimed = (|| {
        let dials = "import socket, sys, time
c = socket.create_connection((sys.argv[1], 8080))
print('open', flush=True)
time.sleep(600)";
        let log = guest.start(lab, &["python3", "-c", dials, &server])?;
        until(PATIENCE, "a connection is open", || {
            Ok(fs::read_to_string(&log)?.contains("open"))
        })?;
        guest.declare(lab)?;
        until(PATIENCE, "the pod is enrolled", || is_enrolled(lab, &guest))?;
        let pod = shown(lab, guest.uid())?.context("not shown")?;
        equal("learned", pod.get("learned").cloned(), Some(json!("found")))?;
        equal("open before", pod.get("open_before").cloned(), Some(json!(1)))?;
        let counted = lab
            .metrics(NODE)?
            .sum("mesh_connections_before_enrolment_total", &[]);
        ensure!(counted >= 1.0, "not counted");
        let target = url(addresses(lab, STRICT)?[0], 8080, "/");
        first_answer(lab, &guest, &target)
    })();
    guest.withdraw(lab)?;
    guest.kill()?;
    guest.remove_netns()?;
    guest.remove_cgroup()?;
    claimed
}

fn uninstall_takes_the_plugin_out_and_leaves_the_lists_as_they_were(lab: &Running) -> Result<()> {
    let node = Node::of(lab);
    lab.end_agent(NODE, Signal::SIGKILL)?;
    let words = [
        lab.site.agent_binary().display().to_string(),
        "uninstall".to_owned(),
        format!("--node-name={NODE}"),
        format!("--bpf-dir={}", lab.site.bpf_mount(NODE).display()),
        format!("--state-dir={}", lab.site.agent_state(NODE).display()),
        format!("--cni-conf-dir={}", node.conf.display()),
        format!("--cni-bin-dir={}", node.bin.display()),
    ];
    let place = crate::sandbox::observer(&lab.site, &lab.site.node_netns(NODE));
    let removed = crate::process::run(&mut place.command(&words)?, PATIENCE)?.success();
    let claimed = removed.and_then(|_| {
        equal("plugins", node.types("10-lab.conflist")?, ["bridge", "portmap"])?;
        equal("programs", fs::read_dir(&node.bin)?.count(), 0)?;
        let names = fs::read_dir(&node.conf)?.map(|entry| Ok(entry?.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort();
        equal("files", names, ["10-lab.conflist", "20-other.conflist"])
    });
    lab.start_agent(NODE)?;
    claimed
}

/// What the pod's first connection, made as soon as its network is there, comes to.
fn first_answer(lab: &Running, guest: &Guest, target: &str) -> Result<()> {
    let output = guest.run(
        lab,
        &[
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--noproxy",
            "*",
            target,
        ],
    )?;
    ensure!(
        output.is_success() && output.stdout.contains("vault"),
        "{} was not meshed when it dialled: {} {}",
        guest.name(),
        output.stdout.trim(),
        output.stderr.trim()
    );
    Ok(())
}

/// Ends a pod as a kubelet does: its object last.
fn depart(lab: &Running, node: &Node, guest: &Guest) -> Result<()> {
    node.del(guest)?;
    guest.remove_netns()?;
    guest.remove_cgroup()?;
    guest.withdraw(lab)
}

/// The same with all of them at once; the first failure.
fn each(guests: &[Guest], act: impl Fn(&Guest) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let act = &act;
        let acting: Vec<_> = guests
            .iter()
            .map(|guest| scope.spawn(move || act(guest)))
            .collect();
        let done = acting
            .into_iter()
            .map(|one| one.join().ok().context("a thread panicked")?);
        done.fold(Ok(()), Result::and)
    })
}

fn said(output: &Output) -> Result<Value> {
    serde_json::from_str(&output.stdout).with_context(|| format!("said no JSON: {}", output.stdout))
}

fn is_enrolled(lab: &Running, guest: &Guest) -> Result<bool> {
    let pod = shown(lab, guest.uid())?;
    Ok(pod.is_some_and(|pod| is_present(&pod)))
}

/// Interfaces of the node: one for each pod that there is, whoever holds it.
fn wires(lab: &Running) -> Result<usize> {
    let place = crate::sandbox::observer(&lab.site, &lab.site.node_netns(NODE));
    let list = ["ip", "-oneline", "link"].map(str::to_owned);
    let output = crate::process::run(&mut place.command(&list)?, PATIENCE)?.success()?;
    Ok(output.stdout.lines().count())
}
