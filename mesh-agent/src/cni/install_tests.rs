//! The two directories of a node, as other CNIs leave them.

use std::os::fd::AsRawFd as _;

use serde_json::json;

use super::super::netconf::FailMode;
use super::*;

struct Node {
    dir: tempfile::TempDir,
    installer: Installer,
}

fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let (conf, bin) = (dir.path().join("net.d"), dir.path().join("bin"));
    fs::create_dir(&conf).unwrap();
    fs::create_dir(&bin).unwrap();
    let entry = Entry {
        kind: PLUGIN.to_owned(),
        socket: "/run/mesh-agent/cni.sock".into(),
        namespaces: "/run/mesh-agent/namespaces.json".into(),
        fail_mode: FailMode::Closed,
        timeout_seconds: 10,
        exempt_namespaces: vec!["kube-system".to_owned()],
    };
    Node {
        installer: Installer::new(conf, bin, entry),
        dir,
    }
}

impl Node {
    fn write(&self, name: &str, value: &Value) {
        fs::write(self.installer.conf_dir.join(name), value.to_string()).unwrap();
    }

    fn read(&self, name: &str) -> Value {
        read(&self.installer.conf_dir.join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.installer.conf_dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn repair(&self) -> Standing {
        self.installer.repair().unwrap()
    }

    fn remove(&self) -> Vec<String> {
        remove(&self.installer.conf_dir, &self.installer.bin_dir).unwrap()
    }
}

fn list(name: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "name": name, "plugins": [{ "type": "bridge" }, { "type": "portmap" }] })
}

fn types(list: &Value) -> Vec<&str> {
    let plugins = list["plugins"].as_array().unwrap().iter();
    plugins.map(|plugin| plugin["type"].as_str().unwrap()).collect()
}

#[test]
fn the_first_list_gets_the_plugin_and_gives_it_back() {
    let node = node();
    node.write("10-a.conflist", &list("a"));
    node.write("20-b.conflist", &list("b"));
    node.write("05-notes.txt", &list("c"));
    let first = node.installer.conf_dir.join("10-a.conflist");
    assert_eq!(node.repair(), Standing::Put(first.clone()));
    assert_eq!(node.repair(), Standing::InPlace(first));
    assert_eq!(types(&node.read("10-a.conflist")), ["bridge", "portmap", PLUGIN]);
    assert_eq!(node.read("20-b.conflist"), list("b"));
    assert_eq!(node.remove().len(), 1);
    assert_eq!(node.read("10-a.conflist"), list("a"));
    assert_eq!(node.names(), ["05-notes.txt", "10-a.conflist", "20-b.conflist"]);
    assert_eq!(node.remove(), [""; 0]);
}

#[test]
fn a_list_that_is_written_anew_or_that_sorts_first_is_repaired() {
    let node = node();
    node.write("10-a.conflist", &list("a"));
    node.repair();
    node.write("10-a.conflist", &list("a"));
    assert!(matches!(node.repair(), Standing::Put(_)));
    node.write("00-first.conflist", &list("first"));
    assert!(matches!(node.repair(), Standing::Put(_)));
    assert_eq!(types(&node.read("00-first.conflist")).len(), 3);
    assert_eq!(node.remove().len(), 2);
    assert_eq!(node.read("10-a.conflist"), list("a"));
    assert_eq!(node.read("00-first.conflist"), list("first"));
}

#[test]
fn a_single_configuration_becomes_a_list_and_comes_back_as_it_was() {
    let node = node();
    let single = json!({ "cniVersion": "0.4.0", "name": "n", "type": "bridge" });
    node.write("10-n.conf", &single);
    for round in 0..2 {
        assert!(matches!(node.repair(), Standing::Put(_)), "{round}");
        assert!(matches!(node.repair(), Standing::InPlace(_)), "{round}");
        assert_eq!(types(&node.read("10-n.conflist")), ["bridge", PLUGIN]);
        assert_eq!(node.names(), ["10-n.conf.before-mesh-agent-cni", "10-n.conflist"]);
        // Its owner writes it again.
        if round == 0 {
            node.write("10-n.conf", &single);
        }
    }
    node.remove();
    assert_eq!(node.names(), ["10-n.conf"]);
    assert_eq!(node.read("10-n.conf"), single);
}

#[test]
fn an_empty_or_absent_directory_is_waited_for() {
    let node = node();
    assert_eq!(node.repair(), Standing::Empty);
    fs::remove_dir(&node.installer.conf_dir).unwrap();
    assert_eq!(node.repair(), Standing::Empty);
    assert_eq!(node.remove(), [""; 0]);
}

#[test]
fn what_cannot_be_chained_is_named_and_left_as_it_is() {
    for (text, part) in [
        ("{", "as JSON"),
        (
            "{\"cniVersion\":\"0.2.0\",\"name\":\"n\",\"plugins\":[{}]}",
            "chain a plugin in",
        ),
        ("[]", "chain a plugin in"),
    ] {
        let node = node();
        let path = node.installer.conf_dir.join("10-a.conflist");
        fs::write(&path, text).unwrap();
        let error = node.installer.repair().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("10-a.conflist"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(node.names(), ["10-a.conflist"]);
    }
}

#[test]
fn the_program_is_put_whole_once_and_again_when_it_differs() {
    let node = node();
    let own = node.dir.path().join("own");
    fs::write(&own, b"program").unwrap();
    assert!(node.installer.put_program(&own).unwrap());
    assert!(!node.installer.put_program(&own).unwrap());
    let place = node.installer.bin_dir.join(PLUGIN);
    assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o755);
    fs::write(&place, b"PROGRAM").unwrap();
    assert!(node.installer.put_program(&own).unwrap());
    assert_eq!(fs::read(&place).unwrap(), b"program");
    assert_eq!(node.remove().len(), 1);
    assert!(!place.exists());
    assert_eq!(fs::read_dir(&node.installer.bin_dir).unwrap().count(), 0);
}

#[test]
fn rights_of_a_list_stay() {
    let node = node();
    node.write("10-a.conflist", &list("a"));
    let path = node.installer.conf_dir.join("10-a.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    node.repair();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_directory_that_was_removed_below_its_mount_is_named() {
    let node = node();
    node.write("10-net.conflist", &list("net"));
    // What a descriptor shows of a removed directory is what a mount shows of it.
    let shown = |dir: &Path| {
        let kept = File::open(dir).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", kept.as_raw_fd()));
        (kept, path)
    };
    let entry = node.installer.entry.clone();
    let (_conf, conf_dir) = shown(&node.installer.conf_dir);
    let (_bin, bin_dir) = shown(&node.installer.bin_dir);
    let mounted = Installer::new(conf_dir.clone(), bin_dir.clone(), entry);
    let own = Path::new("/proc/self/exe");
    assert!(mounted.put_program(own).unwrap());
    assert!(matches!(mounted.repair().unwrap(), Standing::Put(_)));
    for dir in [&node.installer.conf_dir, &node.installer.bin_dir] {
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir(dir).unwrap();
    }
    let named = |error: InstallError| {
        let InstallError::Removed(dir) = error else {
            panic!("{error}");
        };
        dir
    };
    assert_eq!(named(mounted.put_program(own).unwrap_err()), bin_dir);
    assert_eq!(named(mounted.repair().unwrap_err()), conf_dir);
}
