//! What is refused, by what it says.

use proto::nri::{Container, LinuxContainer, OwningPlugins, PluginInstance, SecurityProfile};

use super::super::owners::Owners;
use super::*;

/// A container of which plugins have set something, and what is to be judged.
struct Case {
    section: ValidatorSection,
    owners: Owners,
    pod: PodSandbox,
    profile: Option<SecurityProfile>,
    plugins: Vec<(&'static str, &'static str)>,
}

impl Case {
    fn new(change: impl FnOnce(&mut ValidatorSection)) -> Self {
        let mut section = ValidatorSection { enable: true, ..Default::default() };
        change(&mut section);
        Case {
            section,
            owners: Owners::default(),
            pod: PodSandbox::default(),
            profile: None,
            plugins: vec![("10", "tuner")],
        }
    }

    fn set(mut self, field: Field, key: Option<&str>) -> Self {
        self.owners.claim("c", "10-tuner", (field, key.map(str::to_owned))).unwrap();
        self
    }

    fn annotated(mut self, name: &str, value: &str) -> Self {
        self.pod.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    fn judged(self) -> Result<(), String> {
        let linux = Some(LinuxContainer { seccomp_profile: self.profile, ..Default::default() });
        let plugin = |(index, name): (&str, &str)| PluginInstance { index: index.into(), name: name.into() };
        let request = ValidateContainerAdjustmentRequest {
            pod: Some(self.pod),
            container: Some(Container { id: "c".into(), name: "app".into(), linux, ..Default::default() }),
            owners: Some(OwningPlugins { ..self.owners.told() }),
            plugins: self.plugins.into_iter().map(plugin).collect(),
            ..Default::default()
        };
        judge(&self.section, &request)
    }
}

#[track_caller]
fn refused(case: Case, words: &[&str]) {
    let why = case.judged().expect_err("refused");
    for word in words {
        assert!(why.contains(word), "{why:?} does not say {word:?}");
    }
}

#[test]
fn what_is_not_rejected_may_be_done() {
    let all = || {
        Case::new(|_| {})
            .set(Field::OciHooks, None)
            .set(Field::SeccompPolicy, None)
            .set(Field::Namespace, Some("network"))
            .set(Field::Sysctl, Some("net.x"))
    };
    assert_eq!(all().judged(), Ok(()));
    let off = Case::new(|section| {
        (section.enable, section.reject_oci_hook_adjustment) = (false, true);
        section.required_plugins = vec!["nobody".into()];
    });
    assert_eq!(off.set(Field::OciHooks, None).judged(), Ok(()), "it is not enabled");
    let other = Case::new(|section| section.reject_oci_hook_adjustment = true);
    assert_eq!(other.set(Field::Env, Some("A")).judged(), Ok(()));
}

#[test]
fn what_is_rejected_is_told_with_who_did_it_and_the_key_that_forbids_it() {
    let hooks = Case::new(|section| section.reject_oci_hook_adjustment = true);
    refused(hooks.set(Field::OciHooks, None), &["10-tuner", "reject_oci_hook_adjustment"]);
    let namespaces = Case::new(|section| section.reject_namespace_adjustment = true);
    refused(namespaces.set(Field::Namespace, Some("ipc")), &["\"ipc\" by 10-tuner", "reject_namespace"]);
    let sysctls = Case::new(|section| section.reject_sysctl_adjustment = true);
    refused(sysctls.set(Field::Sysctl, Some("net.x")), &["\"net.x\" by 10-tuner", "reject_sysctl"]);
    let mut removed = Case::new(|section| section.reject_sysctl_adjustment = true);
    removed.owners.clear("c", "10-tuner", (Field::Sysctl, Some("net.x".into())));
    refused(removed, &["\"net.x\" by 10-tuner"]);
}

#[test]
fn a_seccomp_profile_is_kept_by_its_kind() {
    type Reject = fn(&mut ValidatorSection);
    let kinds: [(Option<ProfileType>, Reject, &str); 4] = [
        (
            Some(ProfileType::RuntimeDefault),
            |it| it.reject_runtime_default_seccomp_adjustment = true,
            "default",
        ),
        (Some(ProfileType::Localhost), |it| it.reject_custom_seccomp_adjustment = true, "custom"),
        (Some(ProfileType::Unconfined), |it| it.reject_unconfined_seccomp_adjustment = true, "unconfined"),
        (None, |it| it.reject_unconfined_seccomp_adjustment = true, "unconfined"),
    ];
    for (asked, (kind, _, _)) in kinds.iter().enumerate() {
        for (at, (_, reject, word)) in kinds.iter().enumerate() {
            let mut case = Case::new(reject).set(Field::SeccompPolicy, None);
            case.profile =
                kind.map(|kind| SecurityProfile { profile_type: kind.into(), ..Default::default() });
            if at == asked || (at.min(asked) == 2 && at.max(asked) == 3) {
                refused(case, &["10-tuner", word]);
            } else {
                assert_eq!(case.judged(), Ok(()), "{kind:?} {word}");
            }
        }
    }
}

#[test]
fn a_container_is_shown_to_the_plugins_that_it_needs() {
    let needs = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Case::new(|section| {
            section.required_plugins = names;
            section.tolerate_missing_plugins_annotation = "lenient.example".into();
        })
    };
    assert_eq!(needs(&["tuner", "10-tuner"]).judged(), Ok(()));
    refused(needs(&["tuner", "guard", "11-tuner"]), &["guard, 11-tuner"]);
    assert_eq!(needs(&["guard"]).annotated("lenient.example", "true").judged(), Ok(()));
    assert_eq!(needs(&["guard"]).annotated("lenient.example/container.app", "T").judged(), Ok(()));
    refused(needs(&["guard"]).annotated("lenient.example/container.other", "true"), &["guard"]);
    let stricter = needs(&["guard"]).annotated("lenient.example/pod", "1");
    refused(stricter.annotated("lenient.example/container.app", "0"), &["guard"]);
    refused(needs(&["guard"]).annotated("lenient.example", "maybe"), &["lenient.example", "maybe"]);

    let required = "required-plugins.noderesource.dev";
    assert_eq!(needs(&[]).annotated(required, "[tuner]").judged(), Ok(()));
    refused(needs(&[]).annotated(required, "[ tuner, guard ]"), &["guard"]);
    refused(needs(&[]).annotated(&format!("{required}/pod"), r#"["guard"]"#), &["guard"]);
    refused(needs(&[]).annotated(&format!("{required}/container.app"), "[guard]"), &["guard"]);
    assert_eq!(needs(&[]).annotated(&format!("{required}/container.other"), "[guard]").judged(), Ok(()));
    refused(needs(&[]).annotated(required, "guard"), &[required, "no list"]);
}
