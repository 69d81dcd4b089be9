//! Claims about settings: where they come from, which are refused, and that the example shows them all.

use super::*;
use crate::config::file::{FIELDS, parse};

#[test]
fn every_field_is_known_to_suggestions() {
    for field in FIELDS {
        let error = parse(&format!("{field}: [1]")).unwrap_err();
        assert!(!error.contains("unknown field"), "{error}");
    }
}

#[test]
fn the_example_file_shows_every_setting_with_its_default() {
    let example = include_str!("../../../deploy/agent.yaml");
    let as_shipped = parse(example).unwrap().complete(4).unwrap();
    let uncommented = example.replace("\n# ", "\n");
    let is_setting = |line: &&str| FIELDS.iter().any(|name| line.starts_with(&format!("{name}:")));
    let settings: Vec<&str> = uncommented.lines().filter(is_setting).collect();
    assert_eq!(settings.len(), FIELDS.len());
    // What has no default is shown empty.
    let with_default: Vec<_> = settings
        .into_iter()
        .filter(|line| !line.contains(": \"\""))
        .collect();
    assert_eq!(
        parse(&with_default.join("\n")).unwrap().complete(4).unwrap(),
        as_shipped
    );
}

#[test]
fn an_unknown_field_is_refused_with_the_nearest_known() {
    assert_eq!(
        parse("node_nam: a").unwrap_err(),
        "unknown field \"node_nam\": did you mean \"node_name\"?"
    );
    assert!(parse("zzz: 1").unwrap_err().contains("known are node_name"));
}

#[test]
fn a_wrong_type_names_its_field() {
    assert!(
        parse("detect_timeout_ms: soon")
            .unwrap_err()
            .starts_with("detect_timeout_ms: ")
    );
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = parse("node_name: file\nmanifests: /m\ndrain_timeout_s: 9").unwrap();
    let flags = Settings {
        node_name: Some("flag".into()),
        ..Settings::default()
    };
    let config = flags.over(file).complete(16).unwrap();
    assert_eq!(config.node_name, "flag");
    assert_eq!(config.drain_timeout, Duration::from_secs(9));
    assert_eq!(config.detect_timeout, Duration::from_millis(100));
    assert_eq!(config.data_threads, 4);
}

#[test]
fn a_missing_setting_says_every_way_to_give_it() {
    let error = Settings::default().complete(1).unwrap_err().to_string();
    assert_eq!(
        error,
        "node_name is not set: give --node-name, MESH_NODE_NAME or node_name in the config file"
    );
}

#[test]
fn dns_capture_is_on_or_off_and_off_unless_said() {
    let complete = |line: &str| {
        parse(&format!("node_name: a\nmanifests: /m\n{line}"))
            .unwrap()
            .complete(1)
    };
    assert!(!complete("").unwrap().dns_capture);
    assert!(complete("dns_capture: on").unwrap().dns_capture);
    assert!(!complete("dns_capture: off").unwrap().dns_capture);
    let error = complete("dns_capture: maybe").unwrap_err().to_string();
    assert_eq!(error, "dns_capture is \"maybe\": use on or off");
    assert!(complete("cluster_domain: a_b").is_err());
}

#[test]
fn numbers_outside_their_range_are_refused() {
    let settings = parse("node_name: a\nmanifests: /m\ncertificate_ttl_s: 1").unwrap();
    let error = settings.complete(1).unwrap_err().to_string();
    assert_eq!(
        error,
        "certificate_ttl_s is 1, but must lie between 30 and 7776000"
    );
}
