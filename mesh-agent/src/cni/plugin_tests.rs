//! Runs of the plugin against an agent that a thread plays.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;

use proptest::prelude::*;

use super::super::wire::line_of;
use super::*;

fn conf(dir: &Path, fail_mode: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "mesh-agent-cni",
        "socket": dir.join("s"),
        "namespaces": dir.join("namespaces.json"),
        "failMode": fail_mode,
        "timeoutSeconds": 5,
        "exemptNamespaces": ["kube-system"],
        "prevResult": { "cniVersion": "0.4.0", "ips": [{ "address": "10.0.0.5/24", "interface": 0 }], "dns": {} },
    })
}

fn call(command: &str, namespace: &str) -> Call {
    Call {
        command: command.to_owned(),
        container: "9f".to_owned(),
        netns: "/run/netns/cni-1".to_owned(),
        args: format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web;K8S_POD_UID=0b6d"),
    }
}

fn passed() -> Value {
    json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.5/24", "interface": 0 }], "dns": {} })
}

/// One run while an agent answers `reply`; what it was told.
fn answered(reply: &Reply, call: &Call, fail_mode: &str) -> (Told, Outcome) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            (&stream).write_all(line_of(reply).unwrap().as_bytes()).unwrap();
            serde_json::from_str(&line).unwrap()
        });
        let outcome = run(call, conf(dir.path(), fail_mode).to_string().as_bytes());
        (agent.join().unwrap(), outcome)
    })
}

#[test]
fn a_pod_that_the_agent_has_or_does_not_want_starts_with_the_result_as_it_was() {
    for reply in [Reply::Enrolled, Reply::NotEnrolled] {
        let (told, outcome) = answered(&reply, &call("ADD", "shop"), "closed");
        assert_eq!(outcome, Outcome::saying(passed()), "{reply:?}");
        let expected = Sandbox {
            id: "9f".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: Some("0b6d".to_owned()),
            netns: "/run/netns/cni-1".into(),
            addrs: vec!["10.0.0.5".parse().unwrap()],
        };
        assert_eq!(told, Told::Begins(expected));
    }
}

#[test]
fn a_pod_that_is_refused_starts_only_where_it_fails_open() {
    let why = Reply::Refused {
        why: "no room".to_owned(),
    };
    let (_, open) = answered(&why, &call("ADD", "shop"), "open");
    assert_eq!((open.is_ok, open.said), (true, Some(passed())));
    assert!(open.noted.unwrap().contains("starts unmeshed: no room"));
    let (_, closed) = answered(&why, &call("ADD", "shop"), "closed");
    assert!(!closed.is_ok);
    let said = closed.said.unwrap();
    assert_eq!(
        (&said["code"], &said["cniVersion"]),
        (&json!(11), &json!("1.0.0"))
    );
    assert!(said["msg"].as_str().unwrap().contains("no room"), "{said}");
}

#[test]
fn without_an_agent_only_pods_that_may_take_part_are_held_back() {
    for (known, namespace, fail_mode, starts) in [
        (Some(json!(["shop"])), "shop", "closed", false),
        (Some(json!(["shop"])), "shop", "open", true),
        (Some(json!(["shop"])), "other", "closed", true),
        (Some(json!(["shop"])), "kube-system", "closed", true),
        (Some(json!([])), "shop", "closed", true),
        (None, "other", "closed", false),
        (None, "kube-system", "closed", true),
        (Some(json!("damaged")), "other", "closed", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        if let Some(known) = &known {
            fs::write(dir.path().join("namespaces.json"), known.to_string()).unwrap();
        }
        let mut stdin = conf(dir.path(), fail_mode);
        stdin["timeoutSeconds"] = json!(0);
        let stdin = stdin.to_string();
        let outcome = run(&call("ADD", namespace), stdin.as_bytes());
        assert_eq!(
            outcome.is_ok, starts,
            "{known:?} {namespace} {fail_mode}: {outcome:?}"
        );
        let said = outcome.said.unwrap();
        if starts {
            assert_eq!(said, passed());
        } else {
            assert!(
                said["msg"].as_str().unwrap().contains("does not answer"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_sandbox_may_always_go() {
    let dir = tempfile::tempdir().unwrap();
    for stdin in [
        conf(dir.path(), "closed").to_string(),
        "{".to_owned(),
        String::new(),
    ] {
        let outcome = run(&call("DEL", "shop"), stdin.as_bytes());
        assert_eq!((outcome.is_ok, outcome.said), (true, None), "{stdin}");
    }
    let (told, _) = answered(&Reply::NotEnrolled, &call("DEL", "shop"), "closed");
    assert!(matches!(told, Told::Ends(sandbox) if sandbox.id == "9f" && sandbox.addrs.is_empty()));
}

#[test]
fn what_is_wrong_has_the_specifications_number() {
    let dir = tempfile::tempdir().unwrap();
    let good = conf(dir.path(), "closed");
    let with = |key: &str, value: Value| {
        let mut conf = good.clone();
        conf[key] = value;
        conf.to_string()
    };
    for (command, stdin, code) in [
        ("ADD", with("cniVersion", json!("0.2.0")), 1),
        ("CHECK", with("cniVersion", json!("7.0.0")), 1),
        ("ADD", with("prevResult", Value::Null), 7),
        ("ADD", with("failMode", json!("maybe")), 6),
        ("ADD", "nothing".to_owned(), 6),
        ("SING", good.to_string(), 4),
        ("", good.to_string(), 4),
    ] {
        let outcome = run(&call(command, "shop"), stdin.as_bytes());
        assert!(!outcome.is_ok);
        assert_eq!(outcome.said.unwrap()["code"], code, "{command} {stdin}");
    }
    for command in ["CHECK", "GC", "STATUS"] {
        let outcome = run(&call(command, "shop"), good.to_string().as_bytes());
        assert_eq!((outcome.is_ok, outcome.said), (true, None), "{command}");
    }
    let version = run(&call("VERSION", ""), b"{}");
    assert_eq!(version.said.unwrap()["supportedVersions"], json!(VERSIONS));
}

#[test]
fn what_is_no_pod_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let call = Call {
        args: String::new(),
        ..call("ADD", "shop")
    };
    let outcome = run(&call, conf(dir.path(), "closed").to_string().as_bytes());
    assert_eq!((outcome.is_ok, outcome.said), (true, Some(passed())));
}

proptest! {
    #[test]
    fn no_input_makes_it_panic(command in "ADD|DEL|CHECK|GC|STATUS|VERSION", stdin in ".{0,200}", args in ".{0,80}") {
        let call = Call { command, args, ..Call::default() };
        let outcome = run(&call, stdin.as_bytes());
        prop_assert!(outcome.is_ok || outcome.said.is_some());
    }
}
