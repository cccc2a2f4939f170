//! Debian's docker-registry as a process of its own on a free port, with its storage in a directory.
//! What needs a login or TLS is pushed through a second one, without them, on the same storage.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::picture::Picture;

#[derive(Debug)]
pub(crate) struct DockerRegistry {
    port: u16,
    child: Child,
}

impl DockerRegistry {
    /// `http` and `auth` are the sections of its configuration, at their indentation.
    pub(crate) fn start(storage: &Path, http: &str, auth: &str) -> DockerRegistry {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n  secret: test\n{http}{auth}",
            storage.display(),
        );
        let path = storage.with_file_name(format!("registry-{port}.yml"));
        std::fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env_remove("OTEL_TRACES_EXPORTER")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry must be installed (apt-get install docker-registry)");
        let registry = DockerRegistry { port, child };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Uploads every blob and document, and tags the top.
    pub(crate) fn push(&self, repository: &str, tag: &str, picture: &Picture) {
        for (digest, bytes) in &picture.blobs {
            let (status, head) = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
            assert_eq!(status, 202, "{head}");
            let location = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
            let path = &location[location.find("/v2/").unwrap()..];
            let path = format!("{path}&digest={digest}");
            assert_eq!(self.send("PUT", &path, "application/octet-stream", bytes).0, 201);
        }
        let mut rest: Vec<_> = picture.manifests.iter().collect();
        // Children first: the registry refuses an index whose entries it lacks, but for foreign platforms.
        rest.sort_by_key(|(digest, _)| **digest == picture.top);
        for (digest, (media_type, bytes)) in rest {
            let name = if *digest == picture.top { tag } else { digest.as_str() };
            let (status, head) =
                self.send("PUT", &format!("/v2/{repository}/manifests/{name}"), media_type, bytes);
            assert_eq!(status, 201, "{head}");
        }
    }

    fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            self.host(),
            body.len(),
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        (status, answer)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
