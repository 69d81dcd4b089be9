//! The status page as a person wants to read it.
//!
//! Place in the walk: in the command `mesh-agent status`, another process than the agent. Must not know: how the page
//! came about.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::{DirectStatus, EnrolmentLines, PodLine, Status, authority, unix_seconds};
use crate::control::kubernetes::{SourceStatus, WatchState};
use crate::kernel::splice::SpliceStatus;
use crate::privileges::Privileges;

/// The page as a person wants to read it. Errors: `page` is not a status page.
pub fn for_humans(page: &str) -> anyhow::Result<String> {
    if let Ok(authority) = serde_json::from_str(page) {
        return Ok(authority::for_humans(
            &authority,
            unix_seconds(SystemTime::now()),
        )?);
    }
    let status: Status<EnrolmentLines> = serde_json::from_str(page)?;
    let mut text = String::new();
    writeln!(
        text,
        "node {} · agent {} · snapshot {}",
        status.node, status.version, status.snapshot_version
    )?;
    if let Some(digest) = &status.manifests_digest {
        writeln!(text, "{} · digest {digest}", status.source)?;
    }
    write_privileges(&mut text, &status.privileges)?;
    if let Some(error) = &status.source_error {
        writeln!(text, "! {error}; the last configuration stays in force")?;
    }
    if let Some(source) = &status.api_server {
        write_source(&mut text, source)?;
    }
    let now = unix_seconds(SystemTime::now());
    text.push_str(&table_of(&status.enrolment.pods, now)?);
    for left_out in &status.outside {
        let (namespace, name, why) = (&left_out.namespace, &left_out.pod, &left_out.why);
        writeln!(text, "  {namespace}/{name} is not captured: {why}")?;
    }
    for (map, entries) in status.enrolment.overflows.iter().filter(|full| full.1 > 0) {
        writeln!(text, "  ! the map {map} had no room for {entries} entries")?;
    }
    write_direct(&mut text, &status.direct)?;
    write_splice(&mut text, &status.splice)?;
    writeln!(text, "\nEJECTED ENDPOINTS: {}", status.ejected.len())?;
    for endpoint in &status.ejected {
        writeln!(text, "  {endpoint}")?;
    }
    writeln!(text, "\nUNHEALTHY ENDPOINTS: {}", status.unhealthy.len())?;
    for endpoint in &status.unhealthy {
        writeln!(text, "  {endpoint}")?;
    }
    writeln!(
        text,
        "\nFAILING TLS OF APPLICATIONS: {}",
        status.backend_tls.len()
    )?;
    for failing in &status.backend_tls {
        failing.write(&mut text, now)?;
    }
    writeln!(text, "\nCERTIFICATES")?;
    for one in &status.certificates {
        match one.expires_unix_s {
            Some(at) => write!(text, "  {} expires in {} s", one.identity, at.saturating_sub(now))?,
            None => write!(text, "  {} not issued yet", one.identity)?,
        }
        match &one.last_error {
            Some(error) => writeln!(text, "  ! {error}")?,
            None => writeln!(text)?,
        }
    }
    if let Some(cni) = &status.cni {
        let list = cni.list.as_deref().unwrap_or("in no list");
        writeln!(text, "\nCNI PLUGIN: {list}, put back {} times", cni.repairs)?;
        if let Some(error) = &cni.error {
            writeln!(text, "  ! {error}")?;
        }
    }
    for keys in &status.jwks {
        keys.write(&mut text, now)?;
    }
    writeln!(text, "\nREJECTIONS: {}", status.rejections.len())?;
    for rejection in &status.rejections {
        writeln!(text, "  {rejection}")?;
    }
    Ok(text)
}

/// How the API server is heard: one line, and one for each watch that does not go on.
fn write_source(text: &mut String, source: &SourceStatus) -> std::fmt::Result {
    let of_state = |state| {
        source
            .watches
            .iter()
            .filter(move |watch| watch.state == state)
            .count()
    };
    writeln!(
        text,
        "api server: {} watches go on, {} kinds are not installed, last certain {} s ago",
        of_state(WatchState::Watching),
        of_state(WatchState::Absent),
        source.age_s
    )?;
    if let Some(error) = &source.error {
        writeln!(text, "  ! it is not known which kinds it serves: {error}")?;
    }
    if let Some(written) = source.copy_unix_s {
        let age = unix_seconds(SystemTime::now()).saturating_sub(written);
        writeln!(text, "  ! served from a copy that was written {age} s ago")?;
    }
    if let Some(error) = &source.copy_error {
        writeln!(text, "  ! the copy on disk is not used: {error}")?;
    }
    let unheard = source
        .watches
        .iter()
        .filter(|watch| matches!(watch.state, WatchState::Listing | WatchState::Failing));
    for watch in unheard {
        let waits = if watch.required && !watch.synced {
            "; not ready without it"
        } else {
            ""
        };
        let error = watch.error.as_deref().unwrap_or("being listed");
        writeln!(text, "  ! {} for {} s{waits}: {error}", watch.watch, watch.for_s)?;
        if is_about_rules(error) {
            writeln!(
                text,
                "    a rule of the agent's ClusterRole is missing: apply the chart's again; it is used within 30 s"
            )?;
        }
    }
    Ok(())
}

/// Whether the API server has said that an account may not do something, as all its authorizers say it
/// (k8s.io/apiserver, pkg/endpoints/handlers/responsewriters/errors.go).
fn is_about_rules(said: &str) -> bool {
    said.contains("forbidden: User \"") && said.contains("\" cannot ")
}

/// One line a pod, and below it what is wrong with it.
fn table_of(pods: &[PodLine], now: u64) -> Result<String, std::fmt::Error> {
    let name = |pod: &PodLine| format!("{}/{}", pod.namespace, pod.pod);
    let addrs = |pod: &PodLine| {
        pod.addrs
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let width = |cell: &dyn Fn(&PodLine) -> String, title: &str| {
        let widths = pods.iter().map(|pod| cell(pod).len());
        widths.chain([title.len()]).max().unwrap_or_default()
    };
    let (names, addresses) = (width(&name, "POD"), width(&addrs, "ADDRESSES"));
    let mut text = String::new();
    writeln!(
        text,
        "\nPODS\n  {:names$}  {:addresses$}  {:12}  {:>8}  HOOKS",
        "POD", "ADDRESSES", "STATE", "SINCE"
    )?;
    for pod in pods {
        let since = pod.since_s.map_or_else(
            || "-".to_owned(),
            |since| format!("{} s", now.saturating_sub(since)),
        );
        let hooks = if pod.hooks.is_empty() {
            "-".to_owned()
        } else {
            pod.hooks.join(" ")
        };
        writeln!(
            text,
            "  {:names$}  {:addresses$}  {:12}  {since:>8}  {hooks}",
            name(pod),
            addrs(pod),
            pod.state(),
        )?;
        if pod.bypassed > 0 {
            writeln!(text, "    {} connections bypassed a dead agent", pod.bypassed)?;
        }
        if pod.learned.as_deref() == Some("found") {
            writeln!(
                text,
                "    enrolled by watching, {} connections were open before",
                pod.open_before
            )?;
        }
        if let Some(why) = &pod.why_not {
            writeln!(text, "    ! {why}")?;
        }
    }
    Ok(text)
}

impl PodLine {
    fn state(&self) -> &'static str {
        match (self.wanted, self.present, &self.why_not) {
            (true, true, None) => "enrolled",
            (true, true, Some(_)) => "FAULTY",
            (true, false, _) => "NOT ENROLLED",
            (false, true, _) => "leaving",
            (false, false, _) => "out",
        }
    }
}

fn write_direct(text: &mut String, direct: &DirectStatus) -> std::fmt::Result {
    writeln!(text, "\nDIRECT")?;
    if let Some(why) = &direct.off {
        writeln!(text, "  off: {why}")?;
    }
    if direct.left_out > 0 {
        writeln!(
            text,
            "  ! {} destinations found no room and go through the agent",
            direct.left_out
        )?;
    }
    for pod in &direct.pods {
        let (namespace, name) = (&pod.namespace, &pod.pod);
        let (flows, verdicts) = (pod.flows, pod.verdicts);
        writeln!(
            text,
            "  {namespace}/{name} may dial {verdicts} directly, {flows} connections do"
        )?;
    }
    Ok(())
}

fn write_privileges(text: &mut String, privileges: &Privileges) -> std::fmt::Result {
    writeln!(text, "privileges: {}", privileges.capabilities.join(" "))?;
    if !privileges.calls_refused {
        writeln!(text, "  ! no system call is refused: seccomp is off")?;
    }
    Ok(())
}

fn write_splice(text: &mut String, splice: &SpliceStatus) -> std::fmt::Result {
    writeln!(text, "\nSPLICE: {}", splice.state)?;
    if !splice.why.is_empty() {
        writeln!(text, "  ! {}", splice.why)?;
    }
    if !splice.legs.is_empty() {
        writeln!(
            text,
            "  ! not between applications and this agent: {}",
            splice.legs
        )?;
    }
    for check in &splice.checks {
        match &check.failure {
            None => writeln!(text, "  {} ({} ms)", check.claim, check.took_ms)?,
            Some(why) => writeln!(text, "  ! not so: {}: {why} ({} ms)", check.claim, check.took_ms)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::kubernetes::WatchStatus;

    fn pod(name: &str, present: bool, why_not: Option<&str>) -> PodLine {
        PodLine {
            namespace: "shop".to_owned(),
            pod: name.to_owned(),
            addrs: vec!["10.0.0.1".parse().unwrap()],
            wanted: true,
            present,
            hooks: if present {
                vec!["connect4".to_owned()]
            } else {
                Vec::new()
            },
            since_s: present.then_some(100),
            bypassed: 0,
            learned: None,
            open_before: 0,
            why_not: why_not.map(str::to_owned),
        }
    }

    #[test]
    fn a_rule_that_is_missing_is_named_with_what_to_do() {
        let watch = |error: &str| WatchStatus {
            watch: "HTTPRoute".to_owned(),
            api_version: "v1".to_owned(),
            path: String::new(),
            state: WatchState::Failing,
            for_s: 7,
            synced: false,
            required: false,
            objects: 0,
            error: Some(error.to_owned()),
        };
        let forbidden = "httproutes is forbidden: User \"a\" cannot list resource \"httproutes\"";
        let source = SourceStatus {
            age_s: 7,
            error: None,
            copy_unix_s: None,
            copy_error: None,
            watches: vec![watch(forbidden), watch("connection refused")],
        };
        let mut text = String::new();
        write_source(&mut text, &source).unwrap();
        let [_, named, cure, other] = text.lines().collect::<Vec<_>>()[..] else {
            panic!("{text}");
        };
        assert!(named.ends_with(forbidden), "{named}");
        assert!(cure.contains("ClusterRole"), "{cure}");
        assert!(other.ends_with("connection refused"), "{other}");
    }

    #[test]
    fn pods_are_a_table_with_the_reason_below() {
        let pods = [
            pod("a-long-name", true, None),
            pod("b", false, Some("the pod has no address yet")),
            pod("c", true, Some("no room")),
        ];
        let table = table_of(&pods, 142).unwrap();
        assert_eq!(
            table.lines().skip(2).collect::<Vec<_>>(),
            [
                "  POD               ADDRESSES  STATE            SINCE  HOOKS",
                "  shop/a-long-name  10.0.0.1   enrolled          42 s  connect4",
                "  shop/b            10.0.0.1   NOT ENROLLED         -  -",
                "    ! the pod has no address yet",
                "  shop/c            10.0.0.1   FAULTY            42 s  connect4",
                "    ! no room",
            ]
        );
    }
}
