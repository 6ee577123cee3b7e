//! TLS with certificates of our own: who is trusted, what a change of the files does, what a broken one does.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::{Certificate, blocking::Client};

use crate::process::pawl;

/// An authority, and the certificate and key of a server on loopback that it signed.
struct Signed {
    authority: String,
    cert: String,
    key: String,
}

impl Signed {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let names = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let cert = names.signed_by(&own, &issuer).unwrap();
        Self { authority: authority.pem(), cert: cert.pem(), key: own.serialize_pem() }
    }

    fn install(&self, dir: &Path) {
        std::fs::write(dir.join("cert.pem"), &self.cert).unwrap();
        std::fs::write(dir.join("key.pem"), &self.key).unwrap();
    }

    /// A client that trusts this authority alone.
    fn client(&self) -> Client {
        let trusted = Certificate::from_pem(self.authority.as_bytes()).unwrap();
        Client::builder().tls_certs_only([trusted]).build().unwrap()
    }
}

struct Server {
    child: Child,
    base: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

impl Server {
    fn start(dir: &Path) -> Self {
        let config = dir.join("pawl.toml");
        let path = |name: &str| dir.join(name).display().to_string();
        let text = format!("[tls]\ncert = '{}'\nkey = '{}'\n", path("cert.pem"), path("key.pem"));
        std::fs::write(&config, text).unwrap();
        let mut command = pawl();
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config);
        command.arg("--data").arg(dir.join("data"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        match line.split_whitespace().find(|w| w.starts_with("https://")) {
            Some(base) => Self { base: base.to_owned(), child },
            None => {
                let mut why = String::new();
                child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
                child.wait().unwrap();
                panic!("{line}{why}")
            }
        }
    }

    fn metrics(&self, client: &Client) -> Result<String, reqwest::Error> {
        client.get(format!("{}/metrics", self.base)).send()?.text()
    }
}

/// Waits until it holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(50));
    }
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = pawl().args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_client_trusts_whom_it_was_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let (signed, other) = (Signed::new(), Signed::new());
    signed.install(dir.path());
    for (name, of) in [("ca.pem", &signed), ("other.pem", &other)] {
        std::fs::write(dir.path().join(name), &of.authority).unwrap();
    }
    let path = |name: &str| dir.path().join(name).display().to_string();
    let server = Server::start(dir.path());
    let base = server.base.as_str();

    let (code, said) = run(&["health", "--server", base, "--ca", &path("ca.pem")]);
    assert_eq!((code, said.lines().next()), (Some(0), Some("ready")));
    let (code, said) = run(&["health", "--server", base, "--ca", &path("other.pem")]);
    assert!(code == Some(1) && said.contains("certificate") && said.contains("--ca"), "{said}");
    let (code, said) = run(&["health", "--server", base, "--ca", &path("key.pem")]);
    assert!(code == Some(1) && said.contains("holds no certificate"), "{said}");
    let (code, said) = run(&["health", "--server", base]);
    assert!(code == Some(1) && said.contains("`--ca FILE`"), "{said}");
    let plain = base.replace("https", "http");
    let (code, said) = run(&["model", "list", "--server", &plain]);
    assert!(code == Some(1) && said.contains("use an https:// URL"), "{said}");
    let (code, said) = run(&["health", "--server", &plain]);
    assert!(code == Some(1) && said.contains("use an https:// URL"), "{said}");
    std::fs::write(
        dir.path().join("junk.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let (code, said) = run(&["health", "--server", base, "--ca", &path("junk.pem")]);
    assert!(code == Some(1) && said.contains("junk.pem"), "{said}");
    let empty = pawl().args(["spec", "check", "/none"]).env("PAWL_CA", "").output().unwrap();
    assert_eq!(empty.status.code(), Some(1), "an empty variable is none");

    // Who says nothing keeps nobody waiting.
    let address = base.trim_start_matches("https://");
    let silent: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(&[22, 3, 1]).unwrap();
    let metrics = server.metrics(&signed.client()).unwrap();
    assert!(metrics.lines().any(|l| l == "pawl_tls_stale 0"), "{metrics}");
    drop((silent, half));
}

/// Open connections go on, new ones get the new certificate; a broken file changes nothing until it is mended.
#[test]
fn a_certificate_is_renewed_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Signed::new(), Signed::new());
    first.install(dir.path());
    let server = Server::start(dir.path());
    let before = first.client();
    assert!(server.metrics(&before).is_ok());
    assert!(server.metrics(&second.client()).is_err());

    // Half of the change: the new certificate and the old key do not go together.
    std::fs::write(dir.path().join("cert.pem"), &second.cert).unwrap();
    let stale = |client: &Client, n: u8| {
        let line = format!("pawl_tls_stale {n}");
        server.metrics(client).is_ok_and(|m| m.lines().any(|l| l == line))
    };
    until("a wrong pair is seen", || stale(&first.client(), 1));
    std::fs::write(dir.path().join("key.pem"), &second.key).unwrap();
    until("the new pair is served", || stale(&second.client(), 0));
    assert!(server.metrics(&first.client()).is_err());
    assert!(server.metrics(&before).is_ok(), "an open connection goes on");

    // None of these can be used, and each leaves what was served.
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for breaks in ["missing", "pipe", "intermediate"] {
        match breaks {
            "intermediate" => std::fs::write(&cert, format!("{}{broken}", second.cert)).unwrap(),
            _ => std::fs::remove_file(&key).unwrap(),
        }
        if breaks == "pipe" {
            let made = std::process::Command::new("mkfifo").arg(&key).status().unwrap();
            assert!(made.success());
        }
        until(breaks, || stale(&second.client(), 1));
        let _pipe = std::fs::remove_file(&key);
        second.install(dir.path());
        until("it is back", || stale(&second.client(), 0));
    }
    let metrics = server.metrics(&second.client()).unwrap();
    let ends = metrics.lines().find_map(|l| l.strip_prefix("pawl_tls_not_after_seconds "));
    // The default of the library that made it.
    assert_eq!(ends, Some("67090118400"), "4096-01-01T00:00:00Z");
}

#[test]
fn a_server_does_not_start_with_what_it_cannot_serve() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Signed::new(), Signed::new());
    let serve = || {
        let config = dir.path().join("pawl.toml");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let text = format!("[tls]\ncert = '{}'\nkey = '{}'\n", path("cert.pem"), path("key.pem"));
        std::fs::write(&config, text).unwrap();
        let (config, data) = (config.display().to_string(), path("data"));
        run(&["serve", "--listen", "127.0.0.1:0", "--config", &config, "--data", &data])
    };
    let refused = |expected: &str| {
        let (code, said) = serve();
        assert!(code == Some(1) && said.contains(expected), "{expected}: {said}");
    };
    refused("`tls.cert`: cannot read");
    first.install(dir.path());
    std::fs::write(dir.path().join("cert.pem"), "hello").unwrap();
    refused("cert.pem` holds no certificate");
    std::fs::write(dir.path().join("cert.pem"), &second.cert).unwrap();
    refused("is not of the key");
    std::fs::write(dir.path().join("key.pem"), &second.cert).unwrap();
    refused("key.pem` holds no private key");
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(dir.path().join("key.pem"), encrypted).unwrap();
    refused("is encrypted");
    assert!(!dir.path().join("data").exists(), "nothing is made for a server that cannot listen");
}
