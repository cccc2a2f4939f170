//! The images that critest names, built on the spot from Debian's packages.
//!
//! Each is what its spec needs (see the table in test/README.md), not a copy of
//! the published one. They are served under the published names by a mirror.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::image::{Built, Format, Layer, Recipe};
use crate::programs::{Programs, target_dir};
use crate::registry::DockerRegistry;

/// The digest that critest names and nobody outside can rebuild.
pub const PUBLISHED_DIGEST: &str = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

/// Registries whose images the local one serves.
pub const MIRRORED: &[&str] = &["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws"];

const TOOLS: &str = "k8s-staging-cri-tools";

/// One repository with its tags.
struct StandIn {
    repository: String,
    tags: Vec<&'static str>,
    image: Built,
}

/// Fetches what only Debian's archive has; done before a task leaves the machine's network.
pub fn fetch() -> Result<()> {
    program_with_libraries("nginx", "usr/sbin/nginx")?;
    program_with_libraries("busybox", "bin/busybox").map(drop)
}

/// What the specs need to know of the images that were pushed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Hex of the manifest list that stands in for [`PUBLISHED_DIGEST`].
    pub digest_image: String,
}

/// Builds every stand-in and pushes it.
pub async fn push_all(registry: &DockerRegistry, programs: &Programs) -> Result<Pushed> {
    let kitchen = Kitchen::open(programs)?;
    let mut digest_image = String::new();
    for stand_in in kitchen.all()? {
        if stand_in.repository.ends_with("test-image-digest") {
            digest_image = stand_in.image.top.digest().trim_start_matches("sha256:").to_owned();
        }
        registry.push(&stand_in.repository, &stand_in.tags, &stand_in.image).await?;
    }
    Ok(Pushed { digest_image })
}

/// busybox as critest's default image, on its own: for node tests, the tour and the benchmarks.
pub fn busybox(programs: &Programs) -> Result<Built> {
    Ok(Kitchen::open(programs)?.busybox())
}

/// The same with a layer of the test's own over it, and a configuration.
pub fn busybox_with(programs: &Programs, layer: Vec<u8>, config: Value) -> Result<Built> {
    Ok(Kitchen::open(programs)?.image(Some(layer), config))
}

/// The layers that images are put together from.
struct Kitchen {
    busybox: Vec<u8>,
    stand_in: Vec<u8>,
}

impl Kitchen {
    fn open(programs: &Programs) -> Result<Kitchen> {
        let stand_in = std::fs::read(&programs.stand_in)
            .with_context(|| format!("reading {}: build first", programs.stand_in.display()))?;
        let busybox = busybox_layer(&stand_in)?;
        Ok(Kitchen { busybox, stand_in })
    }

    fn image(&self, extra: Option<Vec<u8>>, config: Value) -> Built {
        let layers = [self.busybox.clone()].into_iter().chain(extra).collect();
        Recipe::new(layers, config).docker_list().build()
    }

    fn busybox(&self) -> Built {
        self.image(None, json!({"Cmd": ["sh"], "Env": ["PATH=/usr/bin:/bin"]}))
    }

    /// busybox and one file that makes the image its own.
    fn marked(&self, mark: &str) -> Built {
        let layer = Layer::new().file(mark, 0o644, mark.as_bytes()).finish();
        self.image(Some(layer), json!({"Cmd": ["sh"]}))
    }

    fn with_user(&self, user: &str) -> Built {
        self.image(None, json!({"Cmd": ["sh"], "User": user}))
    }

    fn all(&self) -> Result<Vec<StandIn>> {
        let mut images = vec![
            StandIn::new("e2e-test-images/busybox", &["1.29-2"], self.busybox()),
            StandIn::new("e2e-test-images/nginx", &["1.14-2"], self.nginx(80, true)?),
            StandIn::new("e2e-test-images/httpd", &["2.4.39-4"], self.httpd()),
            StandIn::new("e2e-test-images/nonewprivs", &["1.3"], self.nonewprivs()),
            StandIn::new("pause", &["3.9"], self.pause()),
            StandIn::tools("hostnet-nginx-amd64", &["latest"], self.nginx(12003, false)?),
            StandIn::tools("test-image-tag", &["test"], self.marked("test")),
            StandIn::tools("test-image-tag", &["all"], self.marked("all")),
            StandIn::tools("test-image-latest", &["latest"], self.marked("latest")),
            StandIn::tools("test-image-digest", &["digest"], self.marked("digest")),
            StandIn::tools("test-image-1", &["latest"], self.marked("1")),
            StandIn::tools("test-image-2", &["latest"], self.marked("2")),
            StandIn::tools("test-image-3", &["latest"], self.marked("3")),
            StandIn::tools("test-image-tags", &["1", "2", "3"], self.marked("tags")),
            StandIn::tools("test-image-user-uid", &["latest"], self.with_user("1002")),
            StandIn::tools("test-image-user-username", &["latest"], self.with_user("www-data")),
            StandIn::tools("test-image-user-uid-group", &["latest"], self.with_user("1003:1004")),
            StandIn::tools("test-image-user-username-group", &["latest"], self.with_user("www-data:1004")),
            StandIn::tools("test-image-predefined-group", &["latest"], self.predefined_group()),
        ];
        for tag in ["1.35.0-glibc", "1-uclibc", "1", "1-glibc", "1-musl"] {
            let layer = Layer::new().file(tag, 0o644, tag.as_bytes()).finish();
            let mut recipe = Recipe::new(vec![self.busybox.clone(), layer], json!({"Cmd": ["sh"]}));
            recipe.format = Format::Oci;
            recipe.architectures = vec!["amd64"];
            images.push(StandIn::new("docker/library/busybox", &[tag], recipe.build()));
        }
        Ok(images)
    }

    fn httpd(&self) -> Built {
        let start = b"#!/bin/sh\necho \"AH00094: Command line: 'httpd -D FOREGROUND'\" >&2\n\
            exec httpd -f -p 80 -h /var/www\n";
        let layer = Layer::new()
            .dir("var/www/", 0o755)
            .file("var/www/index.html", 0o644, b"<html><body>It works!</body></html>\n")
            .file("bin/httpd-foreground", 0o755, start)
            .finish();
        self.image(Some(layer), json!({"Cmd": ["httpd-foreground"]}))
    }

    fn nonewprivs(&self) -> Built {
        let layer = Layer::new().file("nnp", 0o4755, &self.stand_in).finish();
        self.image(Some(layer), json!({"Entrypoint": ["/nnp"]}))
    }

    fn pause(&self) -> Built {
        let layer = Layer::new().file("pause", 0o755, &self.stand_in).finish();
        Recipe::new(vec![layer], json!({"Entrypoint": ["/pause"], "User": "65535:65535"}))
            .docker_list()
            .build()
    }

    fn predefined_group(&self) -> Built {
        let passwd = format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n");
        let group = format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n");
        let layer = Layer::new()
            .file("etc/passwd", 0o644, passwd.as_bytes())
            .file("etc/group", 0o644, group.as_bytes())
            .finish();
        self.image(Some(layer), json!({"Cmd": ["sh"], "User": "1000"}))
    }

    /// Debian's nginx over busybox, listening on `port`.
    fn nginx(&self, port: u16, list: bool) -> Result<Built> {
        let config = format!(
            "user nginx;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log /dev/stderr;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; server {{ listen {port}; root /usr/share/nginx/html; }} }}\n"
        );
        let mut layer = Layer::new()
            .dir("run/", 0o755)
            .dir("var/run/", 0o755)
            .dir("var/log/nginx/", 0o755)
            .dir("var/lib/nginx/", 0o755)
            .file("etc/nginx/nginx.conf", 0o644, config.as_bytes())
            .file(
                "usr/share/nginx/html/index.html",
                0o644,
                b"<html><title>Welcome to nginx!</title></html>\n",
            );
        for file in program_with_libraries("nginx", "usr/sbin/nginx")? {
            layer = file.add_to(layer)?;
        }
        let config = json!({"Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT",
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
        if list {
            return Ok(self.image(Some(layer.finish()), config));
        }
        let mut recipe = Recipe::new(vec![self.busybox.clone(), layer.finish()], config);
        recipe.format = Format::Docker;
        Ok(recipe.build())
    }
}

impl StandIn {
    fn new(repository: &str, tags: &[&'static str], image: Built) -> StandIn {
        StandIn { repository: repository.to_owned(), tags: tags.to_vec(), image }
    }

    fn tools(name: &str, tags: &[&'static str], image: Built) -> StandIn {
        StandIn::new(&format!("{TOOLS}/{name}"), tags, image)
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\nnginx:x:101:101:nginx:/nonexistent:/bin/false\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnginx:x:101:\nnobody:x:65534:\n";

/// Debian's busybox with every applet as a hard link (a spec masks `/bin/ls` and still needs `/bin/sh`), and
/// what that busybox lacks. The static one will not do: its shell runs applets without looking for their files.
fn busybox_layer(stand_in: &[u8]) -> Result<Vec<u8>> {
    let files = program_with_libraries("busybox", "bin/busybox")?;
    let list = Command::new(&files[0].source).arg("--list").output().context("running busybox --list")?;
    let applets = String::from_utf8(list.stdout).context("busybox's list of applets")?;
    let mut layer = Layer::new();
    let dirs =
        ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "var", "var/www"];
    for dir in dirs {
        layer = layer.dir(&format!("{dir}/"), 0o755);
    }
    layer = layer.dir("tmp/", 0o1777);
    for file in &files {
        layer = file.add_to(layer)?;
    }
    let own: BTreeSet<&str> = ["busybox", "pgrep", "ipcs", "pause"].into();
    for applet in applets.lines().filter(|applet| !own.contains(applet)) {
        layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    layer = layer.file("bin/pgrep", 0o755, stand_in).hard_link("bin/ipcs", "bin/pgrep");
    layer = layer.hard_link("bin/pause", "bin/pgrep");
    layer = layer.file("etc/passwd", 0o644, PASSWD.as_bytes()).file("etc/group", 0o644, GROUP.as_bytes());
    Ok(layer.finish())
}

/// A file of this machine or of an unpacked package, and its name in the image.
struct Copied {
    source: PathBuf,
    name: String,
}

impl Copied {
    fn add_to(&self, layer: Layer) -> Result<Layer> {
        let data =
            std::fs::read(&self.source).with_context(|| format!("reading {}", self.source.display()))?;
        Ok(layer.file(&self.name, 0o755, &data))
    }
}

/// A program of Debian's package and the libraries that it is linked to. The package is unpacked, never
/// installed: nothing of it starts on the machine, and it conflicts with nothing.
fn program_with_libraries(package: &str, program: &str) -> Result<Vec<Copied>> {
    let dir = target_dir().join("packages").join(package);
    let source = dir.join(program);
    if !source.exists() {
        unpack_package(package, &dir)?;
    }
    let ldd = Command::new("ldd").arg(&source).output().context("running ldd")?;
    let mut files = vec![Copied { source, name: program.to_owned() }];
    for line in String::from_utf8_lossy(&ldd.stdout).lines() {
        ensure!(!line.contains("not found"), "{package} lacks a library here: {line}");
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
            files.push(Copied { source: path.into(), name: path.trim_start_matches('/').to_owned() });
        }
    }
    Ok(files)
}

fn unpack_package(package: &str, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let status = Command::new("apt-get")
        // The archive's own user may not write here.
        .args(["-o", "APT::Sandbox::User=root", "download", "-qq", package])
        .current_dir(dir)
        .stdout(Stdio::null())
        .status()
        .context("running apt-get download")?;
    ensure!(status.success(), "apt-get download {package} failed: run apt-get update and try again");
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            let status = Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(dir).status()?;
            ensure!(status.success(), "unpacking {} failed", entry.path().display());
        }
    }
    Ok(())
}
