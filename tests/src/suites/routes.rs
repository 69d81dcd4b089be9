//! Routes: which back end a request goes to, and what it gets when there is none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{addresses, curl, equal, get, python, url};
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    requests_are_split_by_weight,
    path_header_and_method_matches_choose_the_back_end,
    expressions_and_query_parameters_choose_the_back_end,
    a_rule_changes_head_and_target_and_the_response,
    a_redirect_is_answered_by_the_agent,
    a_request_that_no_rule_matches_gets_404,
    a_request_that_takes_too_long_gets_504_in_time,
    a_request_within_its_time_is_left_alone,
    a_rule_whose_back_end_is_not_there_gets_500,
    a_back_end_without_endpoints_gets_503,
    a_service_without_endpoints_gets_503,
    a_pod_address_is_not_routed,
    requests_of_one_connection_are_balanced_one_by_one,
    rules_of_a_virtual_service_choose_as_they_are_written,
    a_virtual_service_splits_aborts_and_redirects,
    a_client_with_a_cookie_jar_stays_at_one_pod,
];

const CLIENT: &str = "shop/client";

fn requests_are_split_by_weight(lab: &Running) -> Result<()> {
    let said = python(lab, CLIENT, "load.py", &["http://split/", "1000"])?;
    let count = |version: &str| {
        said.pointer(&format!("/versions/{version}"))
            .and_then(Value::as_u64)
            .unwrap_or(0)
    };
    let (v1, v2) = (count("v1"), count("v2"));
    equal("answers", v1 + v2, 1000)?;
    // Were each request drawn by itself, five standard deviations would be 47.
    ensure!(
        (853..=947).contains(&v1),
        "of 1000 requests, {v1} went to v1, which has a weight of 90 in 100"
    );
    Ok(())
}

fn path_header_and_method_matches_choose_the_back_end(lab: &Running) -> Result<()> {
    let table: &[(&[&str], &str)] = &[
        (&["http://matches/v1"], "v1"),
        (&["http://matches/v1/"], "v1"),
        (&["http://matches/v1/deeper?x=y"], "v1"),
        (&["http://matches/v2/deeper"], "v2"),
        (&["http://matches/exact"], "v2"),
        (&["-H", "X-Canary: yes", "http://matches/anything"], "v2"),
        // The prefix is the more specific match, so that it goes before the header.
        (&["-H", "X-Canary: yes", "http://matches/v1/x"], "v1"),
        (&["-X", "DELETE", "http://matches/anything"], "v2"),
    ];
    for (arguments, version) in table {
        equal(
            &arguments.join(" "),
            curl(lab, CLIENT, arguments)?.says("version")?,
            *version,
        )?;
    }
    Ok(())
}

fn expressions_and_query_parameters_choose_the_back_end(lab: &Running) -> Result<()> {
    for (url, version) in [
        ("http://matches/items/42", "v2"),
        ("http://matches/items/42?kind=a%20b", "v1"),
        ("http://matches/items?kind=a+b&kind=c", "v1"),
    ] {
        equal(url, get(lab, CLIENT, url)?.says("version")?, version)?;
    }
    for url in ["http://matches/items/4x", "http://matches/items?kind=c&kind=a+b"] {
        equal(url, get(lab, CLIENT, url)?.status, 404)?;
    }
    Ok(())
}

fn a_rule_changes_head_and_target_and_the_response(lab: &Running) -> Result<()> {
    let url = "http://matches/old/a?q=1";
    let reply = curl(lab, CLIENT, &["-H", "X-Secret: s", "-H", "X-Set: client", url])?;
    equal("path", reply.says("path")?, "/new/a?q=1")?;
    let said = reply.json()?;
    let header = |name: &str| said.pointer(&format!("/headers/{name}")).and_then(Value::as_str);
    equal("host", header("host"), Some("new.example"))?;
    equal("what is set", header("x-set"), Some("by-rule"))?;
    equal("what the back end's filter sets", header("x-backend"), Some("v1"))?;
    equal("what is removed", header("x-secret"), None)?;
    let head = curl(lab, CLIENT, &["--include", url])?.body;
    ensure!(
        head.contains("x-added: by-rule"),
        "the response has no new header: {head}"
    );
    Ok(())
}

fn a_redirect_is_answered_by_the_agent(lab: &Running) -> Result<()> {
    let reply = curl(lab, CLIENT, &["--include", "http://matches/moved/a?q=1"])?;
    equal("status", reply.status, 301)?;
    let location = "location: http://example.org/here?q=1";
    ensure!(
        reply.body.contains(location),
        "it leads elsewhere: {}",
        reply.body
    );
    Ok(())
}

fn a_request_that_no_rule_matches_gets_404(lab: &Running) -> Result<()> {
    let table: &[&[&str]] = &[
        &["http://matches/"],
        &["http://matches/v1x"],
        &["http://matches/exact/more"],
        &["-H", "X-Canary: no", "http://matches/anything"],
    ];
    for arguments in table {
        equal(&arguments.join(" "), curl(lab, CLIENT, arguments)?.status, 404)?;
    }
    Ok(())
}

fn a_request_that_takes_too_long_gets_504_in_time(lab: &Running) -> Result<()> {
    let reply = get(lab, CLIENT, "http://timed/slow/3000")?;
    equal("status", reply.status, 504)?;
    ensure!(
        reply.took < Duration::from_millis(1500),
        "300 ms took {:?}",
        reply.took
    );
    Ok(())
}

fn a_request_within_its_time_is_left_alone(lab: &Running) -> Result<()> {
    equal("status", get(lab, CLIENT, "http://timed/slow/10")?.status, 200)
}

fn a_rule_whose_back_end_is_not_there_gets_500(lab: &Running) -> Result<()> {
    equal("status", get(lab, CLIENT, "http://no-backend/")?.status, 500)
}

fn a_back_end_without_endpoints_gets_503(lab: &Running) -> Result<()> {
    equal("status", get(lab, CLIENT, "http://no-endpoints/")?.status, 503)
}

fn a_service_without_endpoints_gets_503(lab: &Running) -> Result<()> {
    equal("status", get(lab, CLIENT, "http://nobody/")?.status, 503)
}

fn a_pod_address_is_not_routed(lab: &Running) -> Result<()> {
    let url = url(addresses(lab, "shop/web-v1")?[0], 8080, "/v2");
    equal("version", get(lab, CLIENT, &url)?.says("version")?, "v1")
}

fn requests_of_one_connection_are_balanced_one_by_one(lab: &Running) -> Result<()> {
    let said = python(lab, CLIENT, "load.py", &["http://web/", "100"])?;
    let pods = said.get("pods").and_then(Value::as_object).context("no pods")?;
    for pod in ["web-v1", "web-v2"] {
        let share = pods.get(pod).and_then(Value::as_u64).unwrap_or(0);
        ensure!(share >= 20, "{pod} got {share} of 100 requests: {said}");
    }
    Ok(())
}

fn rules_of_a_virtual_service_choose_as_they_are_written(lab: &Running) -> Result<()> {
    let table: &[(&[&str], &str)] = &[
        (&["http://virtual/"], "v1"),
        // The first rule counts, although the path of the second is the more specific match.
        (&["-H", "X-Canary: yes", "http://virtual/abort"], "v2"),
        (&["http://virtual/delegated/two"], "v2"),
        (&["http://virtual/delegated/one"], "v1"),
    ];
    for (arguments, version) in table {
        equal(
            &arguments.join(" "),
            curl(lab, CLIENT, arguments)?.says("version")?,
            *version,
        )?;
    }
    Ok(())
}

fn a_virtual_service_splits_aborts_and_redirects(lab: &Running) -> Result<()> {
    equal("status", get(lab, CLIENT, "http://virtual/abort")?.status, 418)?;
    equal("status", get(lab, CLIENT, "http://virtual/moved")?.status, 302)?;
    let followed = curl(lab, CLIENT, &["--location", "http://virtual/moved"])?;
    equal("version", followed.says("version")?, "v2")?;
    let said = python(lab, CLIENT, "load.py", &["http://virtual/split", "1000"])?;
    let v1 = said.pointer("/versions/v1").and_then(Value::as_u64).unwrap_or(0);
    ensure!(
        (853..=947).contains(&v1),
        "of 1000 requests, {v1} went to v1, which has a weight of 90 in 100"
    );
    Ok(())
}

fn a_client_with_a_cookie_jar_stays_at_one_pod(lab: &Running) -> Result<()> {
    const URL: &str = "http://kept/shop";
    // Each first request begins a session, and the jar, anew. Were the cookie not heeded, half of the requests that show it
    // would go to the other pod.
    let script = format!(
        "jar=\"$SCRATCH/session.jar\"; curl -sS -m 10 --cookie-jar \"$jar\" {URL} && echo && \
         for path in '' /deeper '?x=y'; do curl -sS -m 10 --cookie \"$jar\" \"{URL}$path\" && echo || exit 1; done"
    );
    for _ in 0..8 {
        let said = lab.exec(CLIENT, &["sh", "-c", &script])?.success()?.stdout;
        let replies = said.lines().filter(|line| !line.is_empty()).map(|reply| {
            let reply: Value = serde_json::from_str(reply)?;
            let pod = reply.get("pod").and_then(Value::as_str);
            pod.map(str::to_owned)
                .with_context(|| format!("no pod in {reply}"))
        });
        let pods = replies.collect::<Result<Vec<_>>>()?;
        let first = pods.first().context("no reply")?;
        ensure!(pods.len() == 4 && pods.iter().all(|pod| pod == first), "{pods:?}");
    }
    let reply = curl(lab, CLIENT, &["--include", URL])?;
    for attribute in ["set-cookie: cart=", "; Path=/shop", "; HttpOnly; SameSite=Strict"] {
        ensure!(reply.body.contains(attribute), "no {attribute} in {}", reply.body);
    }
    Ok(())
}
