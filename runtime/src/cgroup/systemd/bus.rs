//! A connection to a systemd manager: the handshake, calls, and the wait for a job's end.
//!
//! It goes through the message bus, as is documented; where root finds no bus, through the manager's own socket,
//! as systemctl does. Everything together has one deadline.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Failure;
use super::wire::{self, Call, Message, PROLOGUE, Value};

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const PRIVATE_SOCKET: &str = "/run/systemd/private";
/// A manager that reloads its units on a large node answers nobody for some seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// `OK` and 32 hexadecimal digits.
const MAX_LINE: usize = 256;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// Whose manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    System,
    /// The caller's own, `systemd --user`.
    User,
}

#[derive(Debug)]
pub(super) struct Bus {
    socket: UnixStream,
    serial: u32,
    deadline: Instant,
    /// There is a bus between us and the manager.
    is_bus: bool,
}

impl Bus {
    /// Connected, and hearing of the jobs of `unit`.
    pub(super) fn connect(manager: Manager, unit: &str) -> Result<Bus, Failure> {
        let (socket, is_bus) = open(manager)?;
        let mut bus = Bus { socket, serial: 0, deadline: Instant::now() + PATIENCE, is_bus };
        bus.authenticate()?;
        if bus.is_bus {
            bus.call_bus("Hello", &[])?;
            let rule = format!(
                "type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved',\
                 path='{MANAGER_PATH}',arg2='{unit}'"
            );
            bus.call_bus("AddMatch", &[Value::Text(rule)])?;
        }
        // The manager tells of its jobs only to those who asked for it.
        bus.tell("Subscribe", &[])?;
        Ok(bus)
    }

    /// D-Bus specification, "Authentication Protocol": EXTERNAL with no identity of our own, so that the other
    /// side takes the one that the kernel gives it. Our number in a user namespace would mean nothing to it.
    fn authenticate(&mut self) -> Result<(), Failure> {
        self.send(b"\0AUTH EXTERNAL\r\n")?;
        let mut line = self.line()?;
        if line == "DATA" {
            self.send(b"DATA\r\n")?;
            line = self.line()?;
        }
        if !line.starts_with("OK") {
            return Err(Failure::Refused { name: "authentication".into(), text: line });
        }
        self.send(b"BEGIN\r\n")
    }

    /// Calls a method of the manager and waits until it has answered.
    pub(super) fn ask(&mut self, member: &str, arguments: &[Value]) -> Result<(), Failure> {
        let serial = self.call_manager(member, arguments, true)?;
        loop {
            match self.hear()? {
                Message::Return { to } if to == serial => return Ok(()),
                Message::Error { to, name, text } if to == serial => {
                    return Err(Failure::Refused { name, text });
                }
                _ => {}
            }
        }
    }

    /// Calls a method of the manager whose answer nobody needs.
    pub(super) fn tell(&mut self, member: &str, arguments: &[Value]) -> Result<(), Failure> {
        self.call_manager(member, arguments, false).map(drop)
    }

    /// Waits for the end of the job that was asked for. `done` is success.
    pub(super) fn wait_for_job(&mut self, unit: &str) -> Result<(), Failure> {
        loop {
            let Message::Signal { member, words } = self.hear()? else { continue };
            match words.as_slice() {
                [_, _, of, result] if member == "JobRemoved" && of == unit => {
                    let result = result.clone();
                    return if result == "done" { Ok(()) } else { Err(Failure::Job { result }) };
                }
                _ => {}
            }
        }
    }

    fn call_manager(&mut self, member: &str, arguments: &[Value], wants_reply: bool) -> Result<u32, Failure> {
        self.call(&Call {
            destination: self.is_bus.then_some(SYSTEMD),
            path: MANAGER_PATH,
            interface: MANAGER,
            member,
            arguments,
            wants_reply,
        })
    }

    fn call_bus(&mut self, member: &str, arguments: &[Value]) -> Result<u32, Failure> {
        self.call(&Call {
            destination: Some(BUS),
            path: BUS_PATH,
            interface: BUS,
            member,
            arguments,
            wants_reply: true,
        })
    }

    fn call(&mut self, call: &Call<'_>) -> Result<u32, Failure> {
        self.serial += 1;
        self.send(&call.bytes(self.serial))?;
        Ok(self.serial)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        Ok(self.socket.write_all(bytes)?)
    }

    fn hear(&mut self) -> Result<Message, Failure> {
        let mut prologue = [0; PROLOGUE];
        self.read(&mut prologue)?;
        let mut bytes = prologue.to_vec();
        bytes.resize(wire::length(&prologue)?, 0);
        self.read(&mut bytes[PROLOGUE..])?;
        wire::parse(&bytes)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Failure> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        Ok(self.socket.read_exact(buffer)?)
    }

    /// Without its `\r\n`. One byte at a time: what follows the last line is a message.
    fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > MAX_LINE {
                return Err(Failure::Malformed("is too long"));
            }
            let mut byte = [0];
            self.read(&mut byte)?;
            line.extend(byte);
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn left(&self) -> Result<Duration, Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Failure::Io(io::ErrorKind::TimedOut.into())) } else { Ok(left) }
    }
}

/// The socket, and whether a bus is behind it.
fn open(manager: Manager) -> Result<(UnixStream, bool), Failure> {
    let connect = |path: PathBuf| {
        UnixStream::connect(&path).map_err(|source| Failure::Unreachable { socket: path, source })
    };
    match manager {
        Manager::User => connect(user_bus()?).map(|socket| (socket, true)),
        Manager::System => match connect(SYSTEM_BUS.into()) {
            Ok(socket) => Ok((socket, true)),
            // What the documented way met is what there is to tell.
            Err(error) => connect(PRIVATE_SOCKET.into()).map(|socket| (socket, false)).map_err(|_| error),
        },
    }
}

fn user_bus() -> Result<PathBuf, Failure> {
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    let named = path_of(&address).map(PathBuf::from);
    let usual = || std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("bus"));
    named.or_else(usual).ok_or(Failure::NoUserBus)
}

/// Addresses are `TRANSPORT:KEY=VALUE,…;…`. One with escapes or of another kind is left to XDG_RUNTIME_DIR.
fn path_of(addresses: &str) -> Option<&str> {
    let unix = addresses.split(';').find_map(|address| address.strip_prefix("unix:"))?;
    unix.split(',').find_map(|pair| pair.strip_prefix("path=")).filter(|path| !path.contains('%'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_bus_is_found_in_its_address() {
        assert_eq!(path_of("unix:path=/run/user/7/bus"), Some("/run/user/7/bus"));
        assert_eq!(path_of("tcp:host=x;unix:guid=1,path=/b"), Some("/b"));
        assert_eq!(path_of("unix:abstract=/b"), None);
        assert_eq!(path_of(""), None);
    }
}
