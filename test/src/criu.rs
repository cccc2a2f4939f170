//! criu of the Debian after the one that tests run on: what Debian 12 has does not know newer kernels.
//!
//! apt takes it from the archive, signatures checked, into a root of its own below cargo's output folder; nothing of
//! the machine changes. It brings its own C library, with whose loader a script starts it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::programs::target_dir;
use crate::tools::{self, mirror};

/// Tests of checkpoint and restore run the criu that this names, and may not skip then.
pub const CRIU_VARIABLE: &str = "BERTH_CRIU";

const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// In Debian's merged /usr.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The script that starts it; fetched where it is missing.
///
/// # Errors
/// The archive cannot be reached, or has no criu for this machine.
pub fn ensure() -> Result<PathBuf> {
    let home = target_dir().join("criu").join(SUITE);
    let script = home.join("criu");
    if script.exists() {
        return Ok(script);
    }
    println!("fetching criu and its libraries of Debian {SUITE} (once)");
    tools::ensure_packages(&[(KEYRING, "debian-archive-keyring"), ("/usr/bin/dpkg-deb", "dpkg")])?;
    let parent = home.parent().context("a folder is in a folder")?;
    std::fs::create_dir_all(parent)?;
    let unfinished = tempfile::Builder::new().prefix("new-").tempdir_in(parent)?;
    let root = unfinished.path().join("root");
    for package in download(&unfinished.path().join("apt"))? {
        run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root))?;
    }
    std::fs::remove_dir_all(unfinished.path().join("apt"))?;
    write_script(&unfinished.path().join("criu"), &home.join("root"))?;
    std::fs::rename(unfinished.keep(), &home).context("the folder of criu")?;
    let version = Command::new(&script).arg("--version").output().context("running the criu fetched")?;
    ensure!(
        version.status.success(),
        "{} does not run; remove {} to try again",
        script.display(),
        home.display()
    );
    Ok(script)
}

/// The packages' files: criu, and all that it needs, since nothing is installed in that root.
fn download(apt: &Path) -> Result<Vec<PathBuf>> {
    for dir in ["state/lists/partial", "cache/archives/partial", "etc", "log"] {
        std::fs::create_dir_all(apt.join(dir))?;
    }
    std::fs::write(apt.join("status"), "")?;
    let source = format!("deb [signed-by={KEYRING}] {} {SUITE} main\n", mirror());
    std::fs::write(apt.join("etc/sources.list"), source)?;
    let conf = apt.join("apt.conf");
    std::fs::write(&conf, configuration(apt))?;
    let apt_get = |words: &[&str]| run(Command::new("apt-get").args(words).env("APT_CONFIG", &conf));
    apt_get(&["update", "-qq"])?;
    apt_get(&["install", "-qq", "-y", "--download-only", "criu"])?;
    let files = std::fs::read_dir(apt.join("cache/archives"))?.map(|entry| Ok(entry?.path()));
    let packages =
        files.filter(|file| file.as_ref().is_ok_and(|path| path.extension().is_some_and(|ext| ext == "deb")));
    packages.collect()
}

fn configuration(apt: &Path) -> String {
    let apt = apt.display();
    format!(
        "Dir::State \"{apt}/state\";\nDir::State::status \"{apt}/status\";\nDir::Cache \"{apt}/cache\";\n\
         Dir::Etc::sourcelist \"{apt}/etc/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Log \"{apt}/log\";\nDebug::NoLocking \"true\";\nAPT::Architecture \"amd64\";\n\
         APT::Architectures {{\"amd64\";}};\nAPT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
    )
}

fn write_script(at: &Path, root: &Path) -> Result<()> {
    let libraries = root.join(LIBRARIES);
    let text = format!(
        "#!/bin/sh\nexec '{0}/ld-linux-x86-64.so.2' --library-path '{0}' '{1}/usr/sbin/criu' \"$@\"\n",
        libraries.display(),
        root.display()
    );
    std::fs::write(at, text)?;
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdout(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
