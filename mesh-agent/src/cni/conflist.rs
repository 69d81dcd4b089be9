//! A list of plugins with ours in it: pure changes of JSON.
//!
//! Must not know: files.

use serde_json::{Value, json};

use super::PLUGIN;
use super::netconf::VERSIONS;

/// Why the plugin cannot be put into a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is no configuration of CNI.
    #[error("no list of plugins with a name")]
    Shape,
    /// Its plugins cannot be chained, or are of a future that nobody knows.
    #[error("cniVersion {0} is not among {known}", known = VERSIONS.join(", "))]
    Version(String),
}

/// `list` with `entry` as its last plugin, or in the place where ours is; all else as it was. `None` where nothing has to
/// change.
pub fn with_plugin(list: &Value, entry: &Value) -> Result<Option<Value>, Unfit> {
    let mut changed = list.clone();
    let fields = changed.as_object_mut().ok_or(Unfit::Shape)?;
    let has_name = fields.get("name").is_some_and(Value::is_string);
    let version = fields
        .get("cniVersion")
        .map_or(Some("0.2.0"), Value::as_str)
        .ok_or(Unfit::Shape)?;
    if !VERSIONS.contains(&version) {
        return Err(Unfit::Version(version.to_owned()));
    }
    let plugins = fields.get_mut("plugins").and_then(Value::as_array_mut);
    let plugins = plugins
        .filter(|plugins| has_name && !plugins.is_empty())
        .ok_or(Unfit::Shape)?;
    let place = plugins.iter().position(is_ours).filter(|at| *at > 0);
    let mut others = 0;
    plugins.retain_mut(|plugin| {
        let is_kept = !is_ours(plugin) || Some(others) == place;
        others += 1;
        if is_ours(plugin) {
            plugin.clone_from(entry);
        }
        is_kept
    });
    if plugins.is_empty() {
        return Err(Unfit::Shape);
    }
    if place.is_none() {
        plugins.push(entry.clone());
    }
    Ok((changed != *list).then_some(changed))
}

/// `list` without ours; `None` where it was not in it.
pub fn without_plugin(list: &Value) -> Option<Value> {
    let mut changed = list.clone();
    let plugins = changed.get_mut("plugins")?.as_array_mut()?;
    plugins.retain(|plugin| !is_ours(plugin));
    (changed != *list).then_some(changed)
}

/// The list with one plugin that a configuration of one plugin stands for (libcni, `ConfListFromConf`).
pub fn list_of(single: &Value) -> Value {
    let mut list = json!({ "name": single.get("name"), "plugins": [single] });
    if let (Some(fields), Some(version)) = (list.as_object_mut(), single.get("cniVersion")) {
        fields.insert("cniVersion".to_owned(), version.clone());
    }
    list
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(PLUGIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ours(mark: u64) -> Value {
        json!({ "type": PLUGIN, "mark": mark })
    }

    fn list(plugins: &[Value]) -> Value {
        json!({ "cniVersion": "1.0.0", "name": "net", "x": { "kept": [1.5, null] }, "plugins": plugins })
    }

    #[test]
    fn ours_comes_last_once_and_stays_where_it_is() {
        let (a, b) = (
            json!({ "type": "bridge", "mtu": 1450 }),
            json!({ "type": "portmap" }),
        );
        for (before, after) in [
            (vec![a.clone()], Some(vec![a.clone(), ours(1)])),
            (
                vec![a.clone(), b.clone()],
                Some(vec![a.clone(), b.clone(), ours(1)]),
            ),
            (vec![a.clone(), ours(1)], None),
            (vec![a.clone(), ours(1), b.clone()], None),
            (
                vec![a.clone(), ours(0), b.clone()],
                Some(vec![a.clone(), ours(1), b.clone()]),
            ),
            (vec![a.clone(), ours(1), ours(0)], Some(vec![a.clone(), ours(1)])),
            (vec![ours(1), a.clone()], Some(vec![a.clone(), ours(1)])),
        ] {
            let changed = with_plugin(&list(&before), &ours(1)).unwrap();
            assert_eq!(changed, after.map(|plugins| list(&plugins)), "{before:?}");
        }
    }

    #[test]
    fn what_is_no_chain_is_left_alone() {
        let plugins = json!([{ "type": "bridge" }]);
        for (conf, unfit) in [
            (json!([]), Unfit::Shape),
            (json!({ "cniVersion": "1.0.0", "plugins": plugins }), Unfit::Shape),
            (json!({ "cniVersion": "1.0.0", "name": "n" }), Unfit::Shape),
            (
                json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [] }),
                Unfit::Shape,
            ),
            (
                json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [ours(1)] }),
                Unfit::Shape,
            ),
            (
                json!({ "cniVersion": 1, "name": "n", "plugins": plugins }),
                Unfit::Shape,
            ),
            (
                json!({ "name": "n", "plugins": plugins }),
                Unfit::Version("0.2.0".to_owned()),
            ),
            (
                json!({ "cniVersion": "0.2.0", "name": "n", "plugins": plugins }),
                Unfit::Version("0.2.0".to_owned()),
            ),
            (
                json!({ "cniVersion": "9.0.0", "name": "n", "plugins": plugins }),
                Unfit::Version("9.0.0".to_owned()),
            ),
        ] {
            assert_eq!(with_plugin(&conf, &ours(1)), Err(unfit), "{conf}");
        }
    }

    #[test]
    fn a_single_configuration_becomes_a_list_of_one() {
        let single =
            json!({ "cniVersion": "0.4.0", "name": "n", "type": "bridge", "ipam": { "type": "host-local" } });
        assert_eq!(
            list_of(&single),
            json!({ "cniVersion": "0.4.0", "name": "n", "plugins": [single] })
        );
    }

    fn plugins() -> impl Strategy<Value = Vec<Value>> {
        let plugin = prop_oneof![
            "[a-z]{1,8}".prop_map(|kind| json!({ "type": kind, "deep": { "n": [1, 2.5, "x"] } })),
            (0_u64..3).prop_map(ours),
        ];
        prop::collection::vec(plugin, 1..6)
    }

    proptest! {
        #[test]
        fn putting_twice_is_putting_once_and_taking_away_gives_the_others_back(plugins in plugins()) {
            let before = list(&plugins);
            let others: Vec<_> = plugins.into_iter().filter(|plugin| !is_ours(plugin)).collect();
            prop_assume!(!others.is_empty());
            let put = with_plugin(&before, &ours(1)).unwrap().unwrap_or(before);
            prop_assert_eq!(with_plugin(&put, &ours(1)), Ok(None));
            let own = put["plugins"].as_array().unwrap().iter().filter(|plugin| is_ours(plugin));
            prop_assert_eq!(own.count(), 1);
            prop_assert!(!is_ours(&put["plugins"][0]));
            prop_assert_eq!(without_plugin(&put), Some(list(&others)));
        }
    }
}
