//! QEMU: the guest's devices, its boot, its snapshot, and the port that its agent listens at.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::image::Image;
use super::{Options, shares};

/// An emulated boot takes half a minute on a quiet machine.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const SAVE_LIMIT: Duration = Duration::from_secs(120);
const RESUME_LIMIT: Duration = Duration::from_secs(60);
/// The name of the state in the disk.
const SAVED: &str = "booted";

/// A running guest.
#[derive(Debug)]
pub(super) struct Machine {
    qemu: Child,
    monitor: UnixStream,
    /// To and from the guest's agent.
    pub(super) port: UnixStream,
    dir: PathBuf,
}

impl Machine {
    /// Boots, and waits until the agent is ready. On a busy machine an emulated processor may be too late for its
    /// kernel's patience at the boot, so it gets a second and a third chance.
    pub(super) fn boot(image: &Image, disk: &Path, options: &Options, dir: &Path) -> Result<Machine> {
        let mut outcome = Machine::boot_once(image, disk, options, dir);
        for _ in 0..2 {
            let Err(error) = &outcome else { break };
            println!("booting again: {error:#}");
            outcome = Machine::boot_once(image, disk, options, dir);
        }
        outcome
    }

    fn boot_once(image: &Image, disk: &Path, options: &Options, dir: &Path) -> Result<Machine> {
        for socket in ["monitor", "port"] {
            std::fs::remove_file(dir.join(socket)).ok();
        }
        make_overlay(&image.root, disk)?;
        let mut machine = Machine::start(image, disk, options, dir, &[])?;
        machine.wait_for_agent()?;
        Ok(machine)
    }

    /// Goes on from where [`Machine::save`] has left.
    pub(super) fn resume(image: &Image, disk: &Path, options: &Options, dir: &Path) -> Result<Machine> {
        Machine::start(image, disk, options, dir, &["-loadvm", SAVED])
    }

    /// Writes memory and disk into the disk's file, and ends.
    pub(super) fn save(mut self) -> Result<()> {
        // Units that are still starting get a moment.
        std::thread::sleep(Duration::from_secs(2));
        writeln!(self.monitor, "savevm {SAVED}\nquit")?;
        let end = Instant::now() + SAVE_LIMIT;
        while self.qemu.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "the snapshot took more than {} s", SAVE_LIMIT.as_secs());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The guest is of no use any more.
    pub(super) fn end(&mut self) {
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }

    /// The end of what the guest's kernel and QEMU said.
    pub(super) fn console(&self) -> String {
        let read = |name: &str| std::fs::read(self.dir.join(name)).unwrap_or_default();
        let text = [read("qemu.log"), read("console.log")].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn start(image: &Image, disk: &Path, options: &Options, dir: &Path, more: &[&str]) -> Result<Machine> {
        let log = File::create(dir.join("qemu.log"))?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(arguments(image, disk, options, dir)).args(more);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut qemu = command.spawn().context("running qemu-system-x86_64")?;
        let sockets = connect(&mut qemu, &dir.join("monitor"))
            .and_then(|monitor| Ok((monitor, connect(&mut qemu, &dir.join("port"))?)));
        match sockets {
            Ok((monitor, port)) => Ok(Machine { qemu, monitor, port, dir: dir.to_path_buf() }),
            Err(error) => {
                qemu.kill().ok();
                qemu.wait().ok();
                let said = std::fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
                Err(error.context(said))
            }
        }
    }

    fn wait_for_agent(&mut self) -> Result<()> {
        self.port.set_read_timeout(Some(BOOT_LIMIT))?;
        let mut word = [0; 6];
        let heard = self.port.read_exact(&mut word);
        if heard.is_err() || &word != b"ready\n" {
            bail!("the guest did not come up; the end of its console:\n{}", self.console());
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// QEMU makes its sockets when it starts.
fn connect(qemu: &mut Child, path: &Path) -> Result<UnixStream> {
    let end = Instant::now() + RESUME_LIMIT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                ensure!(qemu.try_wait()?.is_none(), "QEMU ended at its start");
                ensure!(Instant::now() < end, "QEMU's socket {}: {error}", path.display());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A writable disk upon one that stays as it is.
fn make_overlay(base: &Path, disk: &Path) -> Result<()> {
    let status = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([base, disk])
        .status()
        .context("running qemu-img")?;
    ensure!(status.success(), "qemu-img create {} failed", disk.display());
    Ok(())
}

/// Emulated, a processor with few features is the fastest: Nehalem has all of x86-64-v2.
fn processor() -> [&'static str; 4] {
    let kvm = File::options().read(true).write(true).open("/dev/kvm").is_ok()
        // A paravirtual KVM in a virtual machine interprets foreign kernels, slower than QEMU itself.
        && !Path::new("/sys/module/kvm_pvm").exists();
    if kvm {
        ["-accel", "kvm", "-cpu", "host"]
    } else {
        ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"]
    }
}

fn arguments(image: &Image, disk: &Path, options: &Options, dir: &Path) -> Vec<String> {
    let kernel = format!(
        "root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off nowatchdog no_timer_check systemd.show_status=0 {}",
        options.lsm.arguments()
    );
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get().min(4)).to_string();
    let path = |name: &str| dir.join(name).display().to_string();
    let mut all: Vec<String> = processor().map(String::from).to_vec();
    let fixed = [
        ("-M", "q35,usb=off,vmport=off".to_owned()),
        ("-smp", cpus),
        ("-m", options.memory_mib.to_string()),
        ("-display", "none".into()),
        ("-kernel", image.kernel.display().to_string()),
        ("-initrd", image.initrd.display().to_string()),
        ("-append", kernel),
        ("-serial", format!("file:{}", path("console.log"))),
        ("-drive", format!("if=virtio,format=qcow2,cache=unsafe,file={}", disk.display())),
        ("-device", "virtio-rng-pci".into()),
        ("-device", "virtio-serial-pci".into()),
        ("-chardev", format!("socket,id=port,server=on,wait=off,path={}", path("port"))),
        ("-device", "virtserialport,chardev=port,name=berth.port".into()),
        ("-chardev", format!("socket,id=monitor,server=on,wait=off,path={}", path("monitor"))),
        ("-mon", "chardev=monitor,mode=readline".into()),
    ];
    all.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(String::from));
    all.extend(fixed.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
    for (number, share) in shares().iter().enumerate() {
        all.push("-virtfs".into());
        all.push(format!(
            "local,path={},mount_tag=share{number},security_model=none,multidevs=remap",
            share.display()
        ));
    }
    all
}
