//! What settings files mean, and what of them is refused.

use super::*;

fn read(files: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("berth.toml.d")).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    Config::read(&dir.path().join("berth.toml"), false).map_err(|error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    })
}

#[test]
fn no_file_is_all_defaults() {
    assert_eq!(read(&[]).unwrap(), Config::default());
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    let text = Config::default_text();
    assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default(), "{text}");
    // What is left out would be at its default too.
    let sections = |table: toml::Table| table.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let (printed, all) = (toml::from_str(&text).unwrap(), toml::Table::try_from(Config::default()).unwrap());
    assert_eq!(sections(printed), sections(all), "{text}");
}

#[test]
fn every_key_but_a_table_says_what_it_means() {
    fn check<T: Described + Serialize + Default>() {
        let table = toml::Table::try_from(T::default()).unwrap();
        for (key, doc) in T::KEYS {
            let is_table = matches!(table.get(*key), Some(toml::Value::Table(_)));
            assert!(is_table || !doc.is_empty(), "{key} is not documented");
        }
    }
    check::<Config>();
    check::<ImageSection>();
    check::<NetworkSection>();
    check::<RuntimeSection>();
    check::<crate::container::plan::Settings>();
    check::<CheckpointSection>();
    check::<StreamSection>();
    check::<MetricsSection>();
    check::<TracingSection>();
    check::<crate::nri::NriSection>();
    check::<crate::nri::ValidatorSection>();
}

#[test]
fn a_later_drop_in_wins_key_by_key() {
    let config = read(&[
        ("berth.toml", "root = \"/a\"\n[network]\nplugin_timeout_s = 1\ndefault_network = \"x\""),
        ("berth.toml.d/20.toml", "[network]\nplugin_timeout_s = 3"),
        ("berth.toml.d/10.toml", "[network]\nplugin_timeout_s = 2"),
        ("berth.toml.d/30.off", "not even TOML"),
    ])
    .unwrap();
    assert_eq!(config.root, PathBuf::from("/a"));
    assert_eq!(config.network.plugin_timeout_s, 3);
    assert_eq!(config.network.default_network, "x");
}

#[test]
fn what_does_not_belong_is_refused_with_its_place() {
    let check = |text: &str, words: &[&str]| {
        let error = read(&[("berth.toml", text)]).unwrap_err();
        for word in words {
            assert!(error.contains(word), "{error:?} does not say {word:?}");
        }
    };
    check("[network]\nplugin_timeout = 3", &["berth.toml", "line 2", "plugin_timeout", "plugin_timeout_s"]);
    check("workers = \"two\"", &["berth.toml", "line 1", "invalid type"]);
    check("root = \"var\"", &["root", "not an absolute path"]);
    check("[runtime]\ndefault_handler = \"kata\"", &["default_handler", "kata"]);
    check("workers = 0", &["workers"]);
    check("[network]\nmax_networks = 0", &["network.max_networks", "0 is not from 1 to 32"]);
    check("[network]\nmax_networks = 33", &["network.max_networks", "33"]);
    check("[nri]\nenable = false\n[nri.default_validator]\nenable = true", &["nri.default_validator.enable"]);
    for listen in ["0.0.0.0:9537", "[::]:9537", "10.1.2.3:9537", "node.example:9537", "9537", "unix://socket"]
    {
        check(&format!("[metrics]\nlisten = \"{listen}\""), &["metrics.listen", listen, "allow_remote"]);
    }
    check("[metrics]\ntls_cert = \"/c\"", &["metrics.tls_cert", "tls_key"]);
    check("[metrics]\ntls_client_ca = \"/c\"", &["metrics.tls_cert"]);
    let handler = |keys: &str| format!("[runtime.handlers.x]\n{keys}");
    check(&handler("path = \"runc\""), &["x.path", "not an absolute path"]);
    check(&handler("seccomp_profile = \"a.json\""), &["x.seccomp_profile", "not an absolute path"]);
    check(&handler("monitor_cgroup = \"pods\""), &["x.monitor_cgroup", "\"pods\"", "neither"]);
    check(&handler("monitor_cgroup = \"/a/../b\""), &["x.monitor_cgroup", "neither"]);
    let systemd = |cgroup: &str| {
        let handler = handler(&format!("monitor_cgroup = \"{cgroup}\""));
        format!("[runtime]\ncgroup_driver = \"systemd\"\n{handler}")
    };
    for path in ["/monitors", "x.scope", "a--b.slice", ".slice", "a b.slice"] {
        check(&systemd(path), &["x.monitor_cgroup", path, "a-b.slice"]);
    }
    for slice in ["pod", "system.slice", "berth-monitors.slice"] {
        assert!(read(&[("berth.toml", &systemd(slice))]).is_ok(), "{slice}");
    }
    check(&handler("monitor_cgroup = \"system.slice\""), &["x.monitor_cgroup", "the path of a cgroup"]);
    assert!(read(&[("berth.toml", &handler("monitor_cgroup = \"/monitors\""))]).is_ok());
}

#[test]
fn metrics_are_for_this_machine_unless_the_operator_says_otherwise() {
    for keys in [
        "listen = \"127.0.0.1:9537\"",
        "listen = \"[::1]:9537\"",
        "listen = \"localhost:9537\"",
        "listen = \"unix:///run/metrics\"",
        "listen = \"0.0.0.0:9537\"\nallow_remote = true",
        "listen = \"0.0.0.0:9537\"\ntls_cert = \"/cert\"\ntls_key = \"/key\"",
    ] {
        let read = read(&[("berth.toml", &format!("[metrics]\n{keys}"))]);
        assert!(read.is_ok(), "{keys}: {read:?}");
    }
}

#[test]
fn what_a_reload_does_not_take_up_is_named() {
    let kept = |text: &str| {
        let newer = read(&[("berth.toml", text)]).unwrap();
        let now = Config::default().reloaded(newer.clone());
        now.kept_from(&newer)
    };
    assert_eq!(kept(""), Vec::<String>::new());
    let taken_up = "log = \"debug\"\n[container]\npids_limit = 7\n[checkpoint]\nallow = \"none\"\n\
        [runtime.handlers.x]\npath = \"/x\"";
    assert_eq!(kept(taken_up), Vec::<String>::new());
    let kept = kept(
        "log_format = \"json\"\nworkers = 3\n[tracing]\nsampling_per_million = 5\n[runtime]\n\
         cgroup_driver = \"systemd\"\n[nri.default_validator]\nenable = true\n[image]\npinned = [\"x\"]",
    );
    let expected = [
        "image.pinned",
        "log_format",
        "nri.default_validator.enable",
        "runtime.cgroup_driver",
        "tracing.sampling_per_million",
        "workers",
    ];
    assert_eq!(kept, expected);
}

#[test]
fn the_documentation_says_what_a_reload_takes_up() {
    let defaults = Config::default_text();
    let about = |words: &str| assert!(defaults.contains(words), "{words:?} is not in {defaults}");
    about("(reload)\nlog = ");
    about("or `json`. Not reloaded.\nlog_format = ");
    about("over gRPC. Not reloaded.\n[tracing]");
    about("gets. (reload)\n[container]");
}
