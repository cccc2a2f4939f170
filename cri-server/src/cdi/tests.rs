//! Files of vendors, good and bad, and what they come to.

use super::*;

const GPU: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu",
  "containerEdits": {"env": ["ALL=1"], "additionalGids": [0, 44]},
  "devices": [
    {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null"}]}},
    {"name": "1", "annotations": {"a": "b"}, "containerEdits": {"env": ["ONE=1"],
      "mounts": [{"hostPath": "/usr/lib/x", "containerPath": "/x", "options": ["ro"]}],
      "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true"], "timeout": 5}],
      "netDevices": [{"hostInterfaceName": "ib0", "name": "ib0"}],
      "intelRdt": {"closID": "c", "enableCMT": true}}}]}"#;
const NIC: &str = "cdiVersion: 1.0.0\nkind: vendor.com/nic\ndevices:\n- name: a.b:c\n  containerEdits:\n    env:\n    - NIC=1\n";

fn dirs(files: &[(&str, &str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let dirs = vec![dir.path().join("etc"), dir.path().join("run")];
    for (parent, name, text) in files {
        std::fs::create_dir_all(dir.path().join(parent)).unwrap();
        std::fs::write(dir.path().join(parent).join(name), text).unwrap();
    }
    (dir, dirs)
}

fn of(dirs: &[PathBuf], names: &[&str]) -> Result<Edits, String> {
    let names: Vec<DeviceName> = names.iter().map(|name| DeviceName::parse(name).unwrap()).collect();
    edits(dirs, &names).map_err(|error| error.to_string())
}

#[test]
fn json_and_yaml_describe_devices_and_what_is_for_all_is_done_once() {
    let (_dir, dirs) = dirs(&[("etc", "gpu.json", GPU), ("run", "nic.yaml", NIC), ("run", "x.txt", "{")]);
    let edits = of(&dirs, &["vendor.com/gpu=0", "vendor.com/gpu=1", "vendor.com/nic=a.b:c"]).unwrap();
    assert_eq!(edits.env, ["ALL=1", "ONE=1", "NIC=1"]);
    assert_eq!(edits.additional_gids, [44], "root is no group to add (CDI 0.7)");
    assert_eq!(edits.nodes[0].host_path, Path::new("/dev/null"));
    assert_eq!((edits.mounts.len(), edits.hooks.len(), edits.net_devices.len()), (1, 1, 1));
    assert_eq!(edits.rdt.unwrap().clos_id.as_deref(), Some("c"));
    assert_eq!(of(&dirs, &[]).unwrap(), Edits::default());
}

#[test]
fn a_later_directory_wins_and_two_files_of_one_are_a_conflict() {
    let other = GPU.replace("ALL=1", "ALL=2");
    let (_dir, found) = dirs(&[("etc", "gpu.json", GPU), ("run", "gpu.json", &other)]);
    assert_eq!(of(&found, &["vendor.com/gpu=0"]).unwrap().env, ["ALL=2"]);
    let (_dir, found) = dirs(&[("etc", "a.json", GPU), ("etc", "b.json", &other), ("etc", "nic.yml", NIC)]);
    let refused = of(&found, &["vendor.com/gpu=0"]).unwrap_err();
    assert!(refused.contains("a.json and ") && refused.contains("b.json"), "{refused}");
    assert_eq!(of(&found, &["vendor.com/nic=a.b:c"]).unwrap().env, ["NIC=1"]);
}

#[test]
fn a_missing_device_is_named_with_the_files_that_are_not_usable() {
    let broken = [
        ("{", "EOF"),
        (r#"{"cdiVersion": "9.0", "kind": "vendor.com/gpu", "devices": []}"#, "cdiVersion 9.0"),
        (r#"{"cdiVersion": "1.0", "kind": "gpu", "devices": []}"#, "kind has no /"),
        (r#"{"cdiVersion": "1.0", "kind": "v.com/gpu", "devices": [{"name": "/"}]}"#, "device \"/\""),
        (r#"{"cdiVersion": "1.0", "kind": "v.com/gpu", "devices": [], "more": 1}"#, "unknown field `more`"),
    ];
    for (text, why) in broken {
        let (_dir, dirs) = dirs(&[("etc", "gpu.json", text)]);
        let refused = of(&dirs, &["vendor.com/gpu=0"]).unwrap_err();
        assert!(refused.contains("vendor.com/gpu=0") && refused.contains(why), "{refused}");
    }
    for edit in [
        r#"{"env": ["X"]}"#,
        r#"{"deviceNodes": [{"path": "dev/x"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/x", "type": "p"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/x", "permissions": "x"}]}"#,
        r#"{"hooks": [{"hookName": "never", "path": "/x"}]}"#,
        r#"{"mounts": [{"hostPath": "", "containerPath": "/x"}]}"#,
    ] {
        let text = format!(
            r#"{{"cdiVersion": "1.0", "kind": "v.com/gpu", "devices": [], "containerEdits": {edit}}}"#
        );
        let (_dir, dirs) = dirs(&[("etc", "gpu.json", &text)]);
        assert!(of(&dirs, &["v.com/gpu=0"]).unwrap_err().contains("not usable"), "{edit}");
    }
}

#[test]
fn devices_are_asked_for_by_field_and_by_annotation_each_once() {
    let device = |name: &str| v1::CdiDevice { name: name.to_owned() };
    let annotations =
        [("cdi.k8s.io/plugin", "vendor.com/gpu=0, vendor.com/gpu=1"), ("other", "vendor.com/gpu=9")];
    let config = v1::ContainerConfig {
        cdi_devices: vec![device("vendor.com/gpu=1")],
        annotations: annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..Default::default()
    };
    let names: Vec<String> = asked(&config).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["vendor.com/gpu=1", "vendor.com/gpu=0"]);
    for name in ["gpu", "vendor.com/gpu", "vendor.com=0", "1v/gpu=0", "v/gp.u=0", "v/gpu=", "v/gpu=-x"] {
        let config = v1::ContainerConfig { cdi_devices: vec![device(name)], ..Default::default() };
        assert!(asked(&config).unwrap_err().to_string().contains(name), "{name}");
    }
}
