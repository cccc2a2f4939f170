//! Against a directory that looks like resctrl, but for the files that the kernel makes in new directories.

use super::*;

struct Fake(tempfile::TempDir);

impl Fake {
    fn new() -> Fake {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mon_groups")).unwrap();
        fs::create_dir(dir.path().join("info")).unwrap();
        fs::write(dir.path().join("info/last_cmd_status"), "ok\n").unwrap();
        Fake(dir)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn class(&self, name: &str, schemata: &str) {
        fs::create_dir_all(self.path(name).join("mon_groups")).unwrap();
        fs::write(self.path(name).join("schemata"), schemata).unwrap();
    }

    fn groups(&self, plan: &RdtPlan) -> Groups {
        Groups::of(self.0.path(), "ID", plan)
    }
}

fn plan(class: Class, schemas: &[&str], schemata: &[&str]) -> RdtPlan {
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    RdtPlan { class, schemas: lines(schemas), schemata: lines(schemata), monitoring: false }
}

fn named(name: &str) -> Class {
    Class::Named(name.to_owned())
}

#[test]
fn a_class_without_a_name_is_the_containers_own_and_goes_with_it() {
    let fake = Fake::new();
    let plan = plan(Class::Own, &["L3:0=f", "MB:0=20"], &[]);
    let groups = fake.groups(&plan);
    groups.make(&plan).unwrap();
    assert_eq!(fake.read("ID/schemata"), "L3:0=f\nMB:0=20\n");
    groups.join(42).unwrap();
    assert_eq!(fake.read("ID/tasks"), "42");
    for file in ["schemata", "tasks"] {
        fs::remove_file(fake.path("ID").join(file)).unwrap();
    }
    groups.remove().unwrap();
    assert!(!fake.path("ID").exists());
    groups.remove().unwrap();
}

#[test]
fn schemata_are_written_last_and_nothing_is_written_when_nothing_was_said() {
    let fake = Fake::new();
    let both = plan(named("gold"), &["L3:0=f"], &["L2:0=3"]);
    fake.groups(&both).make(&both).unwrap();
    // Without truncation the second write lies over the first, as it would not in resctrl.
    assert_eq!(fake.read("gold/schemata"), "L2:0=3\n");
    let none = plan(Class::Own, &[], &[]);
    fake.groups(&none).make(&none).unwrap();
    assert!(fake.path("ID").is_dir() && !fake.path("ID/schemata").exists());
}

#[test]
fn a_class_that_exists_must_be_as_the_configuration_says() {
    let fake = Fake::new();
    fake.class("gold", "    L3:0=00f;1=0ff\n");
    let same = plan(named("gold"), &["L3:0=f"], &[]);
    fake.groups(&same).make(&same).unwrap();
    assert_eq!(fake.read("gold/schemata"), "    L3:0=00f;1=0ff\n", "it is others' as well");
    let other = plan(named("gold"), &["L3:0=3"], &[]);
    let error = fake.groups(&other).make(&other).unwrap_err().to_string();
    assert!(error.contains("linux.intelRdt") && error.contains("L3:0=3"), "{error}");
    let groups = fake.groups(&same);
    groups.remove().unwrap();
    assert!(fake.path("gold").exists(), "a named class is shared");
}

#[test]
fn a_named_class_without_schemas_must_exist() {
    let fake = Fake::new();
    let plan = plan(named("gold"), &[], &[]);
    let error = fake.groups(&plan).make(&plan).unwrap_err().to_string();
    assert!(error.starts_with("linux.intelRdt.closID: ") && error.contains("does not exist"), "{error}");
    assert!(!fake.path("gold").exists());
    fake.class("gold", "L3:0=f\n");
    fake.groups(&plan).make(&plan).unwrap();
    fake.groups(&plan).join(7).unwrap();
    assert_eq!(fake.read("gold/tasks"), "7");
}

#[test]
fn monitoring_has_a_group_of_its_own_in_any_class() {
    let fake = Fake::new();
    let plan = RdtPlan { monitoring: true, ..plan(Class::Default, &[], &[]) };
    let groups = fake.groups(&plan);
    groups.make(&plan).unwrap();
    groups.join(9).unwrap();
    assert_eq!((fake.read("tasks"), fake.read("mon_groups/ID/tasks")), ("9".into(), "9".into()));
    fs::remove_file(fake.path("mon_groups/ID/tasks")).unwrap();
    groups.remove().unwrap();
    assert!(!fake.path("mon_groups/ID").exists() && fake.path("mon_groups").exists());
}

#[test]
fn what_was_made_is_taken_back_when_the_rest_fails() {
    let fake = Fake::new();
    // No `mon_groups` appears in a directory that is none of the kernel's.
    let plan = RdtPlan { monitoring: true, ..plan(Class::Own, &[], &[]) };
    let error = fake.groups(&plan).make(&plan).unwrap_err();
    assert!(error.to_string().contains("monitoring group"), "{error}");
    assert!(!fake.path("ID").exists());
}

#[test]
fn what_was_there_before_the_container_stays_when_it_goes() {
    let fake = Fake::new();
    fake.class("ID", "L3:0=f\n");
    let other = plan(Class::Own, &["L3:0=3"], &[]);
    let groups = fake.groups(&other);
    let error = groups.make(&other).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    // As the unmaking of a failed create does.
    groups.remove().unwrap();
    assert_eq!(fake.read("ID/schemata"), "L3:0=f\n");
    let monitored = RdtPlan { monitoring: true, ..plan(Class::Default, &[], &[]) };
    fs::create_dir(fake.path("mon_groups/ID")).unwrap();
    let groups = fake.groups(&monitored);
    groups.make(&monitored).unwrap();
    groups.remove().unwrap();
    assert!(fake.path("mon_groups/ID").exists());
}

#[test]
fn an_update_writes_the_containers_own_class_and_no_shared_one() {
    let fake = Fake::new();
    let groups = fake.groups(&plan(Class::Own, &["L3:0=f"], &[]));
    fake.class("ID", "L3:0=f\n");
    let change = plan(Class::Own, &["L3:0=3"], &[]);
    groups.change(&change).unwrap();
    assert_eq!(fake.read("ID/schemata"), "L3:0=3\n");
    fake.class("gold", "L3:0=f\n");
    for (class, dir) in [(named("gold"), fake.path("gold")), (Class::Default, fake.0.path().to_owned())] {
        let error = fake.groups(&plan(class, &[], &[])).change(&change).unwrap_err().to_string();
        assert!(error.contains(dir.to_str().unwrap()) && error.contains("alone"), "{error}");
    }
    assert_eq!(fake.read("gold/schemata"), "L3:0=f\n");
}

#[test]
fn a_class_that_an_update_could_not_fill_is_gone() {
    let fake = Fake::new();
    let plan = plan(Class::Own, &[], &[]);
    let none = || Err(Error::unsupported("cgroup", "is away"));
    let error = fake.groups(&plan).make_around(&plan, none).unwrap_err().to_string();
    assert!(error.contains("is away"), "{error}");
    assert!(!fake.path("ID").exists());
    fake.groups(&plan).make_around(&plan, || Ok(Vec::new())).unwrap();
    assert!(fake.path("ID").exists());
}

#[test]
fn all_threads_of_all_processes_join_and_those_that_ended_do_not_matter() {
    let fake = Fake::new();
    fake.class("ID", "");
    let groups = fake.groups(&plan(Class::Own, &[], &[]));
    let looks = std::cell::Cell::new(0);
    let own = i32::try_from(std::process::id()).unwrap();
    let (ended, waits) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || waits.recv().ok());
    groups
        .join_all(|| {
            looks.set(looks.get() + 1);
            Ok(vec![own, i32::MAX])
        })
        .unwrap();
    let threads = change::threads_of(own);
    assert!(threads.contains(&own) && threads.len() > 1, "{threads:?}");
    drop(ended);
    thread.join().unwrap();
    assert!(looks.get() >= 2, "a new process may have come while the others joined");
    assert!(!fake.read("ID/tasks").is_empty());
}

#[test]
fn resctrl_is_found_in_the_mount_table() {
    let line = "77 23 0:40 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw";
    assert_eq!(
        mounted(&format!("1 1 8:1 / / rw - ext4 /dev/sda rw\n{line}\n")),
        Some("/sys/fs/resctrl".into())
    );
    assert_eq!(mounted("1 1 8:1 / / rw - ext4 /dev/sda rw"), None);
    assert_eq!(mounted("nonsense - resctrl\n - \n"), None);
}
