//! TLS: a certificate and its key from two files, taken anew when they change.

use std::{fs, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        Error, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::ParsedCertificate,
    },
    server::TlsStream,
};
use x509_cert::{Certificate, der::Decode as _};

use crate::{app::App, config, http::told};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a client may take to shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest file.
const FILE_MAX: u64 = 1 << 20;
/// The first byte of a TLS connection: a record of the handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// What a client reads that speaks plain HTTP here.
const PLAIN: &str = "this port speaks TLS: use an https:// URL\n";

/// What the two files hold.
#[derive(Clone, PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// What is made of it. Each has its own sessions: none outlives its certificate.
struct Taken {
    config: Arc<ServerConfig>,
    /// Unix time in seconds at which the certificate ends; 0 where that cannot be read.
    not_after: u64,
}

/// Ends TLS with the certificate that the files held when they could last be used.
pub(crate) struct Tls {
    files: config::Tls,
    current: ArcSwap<ServerConfig>,
}

fn read(field: &str, path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: String| format!("`tls.{field}`: cannot read `{}`: {why}", path.display());
    let file = fs::metadata(path).map_err(|e| wrong(e.to_string()))?;
    // A pipe would be waited for.
    if !file.is_file() || file.len() > FILE_MAX {
        return Err(wrong(format!("it is not a file of at most {FILE_MAX} bytes")));
    }
    fs::read(path).map_err(|e| wrong(e.to_string()))
}

impl Pem {
    fn read(files: &config::Tls) -> Result<Self, String> {
        Ok(Self { cert: read("cert", &files.cert)?, key: read("key", &files.key)? })
    }

    /// The certificates, and when the server's own ends; 0 where that cannot be read.
    fn chain(&self, shown: &str) -> Result<(Vec<CertificateDer<'static>>, u64), String> {
        let no_pem = |e| format!("`tls.cert`: `{shown}` is not PEM: {e}");
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&self.cert).collect::<Result<_, _>>().map_err(no_pem)?;
        let Some(own) = chain.first() else {
            return Err(format!("`tls.cert`: `{shown}` holds no certificate in PEM"));
        };
        // One is lenient where the other is strict: what neither reads, no client does.
        let read = |der: &CertificateDer<'_>| {
            Certificate::from_der(der).is_ok() || ParsedCertificate::try_from(der).is_ok()
        };
        if let Some(i) = chain.iter().position(|der| !read(der)) {
            return Err(format!("`tls.cert`: certificate {} of `{shown}` is broken", i + 1));
        }
        let ends = |c: Certificate| c.tbs_certificate().validity().not_after.to_unix_duration();
        let not_after = Certificate::from_der(own).map_or(0, |c| ends(c).as_secs());
        Ok((chain, not_after))
    }

    fn private_key(&self, shown: &str) -> Result<PrivateKeyDer<'static>, String> {
        let holds = |mark: &[u8]| self.key.windows(mark.len()).any(|w| w == mark);
        if holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED") {
            return Err(format!(
                "`tls.key`: `{shown}` is encrypted, and nobody is there to be asked: `openssl pkey -in {shown} -out FILE` decrypts it"
            ));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|e| format!("`tls.key`: `{shown}` holds no private key in PEM: {e}"))?;
        match aws_lc_rs::sign::any_supported_type(&key) {
            Ok(_) => Ok(key),
            Err(_) => Err(format!(
                "`tls.key`: `{shown}` is no key that can be served: RSA of 2048 bits or more, P-256, P-384, P-521, or Ed25519"
            )),
        }
    }

    fn take(&self, files: &config::Tls) -> Result<Taken, String> {
        let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
        let (chain, not_after) = self.chain(&cert)?;
        let private = self.private_key(&key)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|e| match e {
                Error::InconsistentKeys(_) => {
                    format!("`tls.cert` `{cert}` is not of the key `{key}`")
                }
                other => format!("`tls.cert`: `{cert}` cannot be served: {other}"),
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Taken { config: Arc::new(config), not_after })
    }
}

/// Whether a server could serve with these files.
///
/// # Errors
/// If it could not; the message names the file.
pub fn check(files: &config::Tls) -> Result<(), String> {
    if files.is_on() { Pem::read(files)?.take(files).map(drop) } else { Ok(()) }
}

fn tell(app: &App, taken: &Taken) {
    app.metrics().tls_stale.set(0);
    app.metrics().tls_not_after.set(taken.not_after.cast_signed());
    if (1..=app.now_ms() / 1000).contains(&taken.not_after) {
        tracing::warn!(not_after = taken.not_after, "the certificate of `tls.cert` has expired");
    }
}

impl Tls {
    /// Reads the files, and watches them from then on.
    ///
    /// # Errors
    /// If they cannot be used; the message names the file.
    pub(crate) fn open(
        app: &Arc<App>,
        stopped: &watch::Receiver<bool>,
    ) -> Result<Option<Arc<Self>>, String> {
        let files = app.config().tls.clone();
        if !files.is_on() {
            return Ok(None);
        }
        let pem = Pem::read(&files)?;
        let taken = pem.take(&files)?;
        tell(app, &taken);
        let tls = Arc::new(Self { files, current: ArcSwap::new(taken.config) });
        tokio::spawn(tls.clone().watch(pem, app.clone(), stopped.clone()));
        Ok(Some(tls))
    }

    /// Takes the files anew whenever they hold something else; while that cannot be used, what was served before is.
    async fn watch(self: Arc<Self>, first: Pem, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
        let mut seen = Ok(first);
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = told(&mut stopped) => return,
            }
            let files = self.files.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || Pem::read(&files)).await else {
                continue;
            };
            if seen == read {
                continue;
            }
            let taken = read.as_ref().map_err(Clone::clone);
            match taken.and_then(|pem| pem.take(&self.files)) {
                Ok(taken) => {
                    tell(&app, &taken);
                    self.current.store(taken.config);
                    let not_after = taken.not_after;
                    tracing::info!(not_after, "took the certificate of `tls.cert` anew");
                }
                Err(why) => {
                    app.metrics().tls_stale.set(1);
                    tracing::warn!(%why, "the new certificate cannot be used: the one before is served");
                }
            }
            seen = read;
        }
    }

    /// Shakes hands. `None` where the client does not, or speaks plain HTTP, which it is told.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let shaken = timeout(HANDSHAKE_TIMEOUT, async {
            let mut first = [0];
            if stream.peek(&mut first).await.is_ok_and(|n| n == 1) && first[0] != HANDSHAKE {
                refuse(stream).await;
                return None;
            }
            let failed = |e: &std::io::Error| tracing::debug!(%e, "no TLS handshake");
            acceptor.accept(stream).await.inspect_err(failed).ok()
        });
        shaken.await.unwrap_or_default()
    }
}

async fn refuse(mut stream: TcpStream) {
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{PLAIN}", PLAIN.len());
    if stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        // What was sent is read first: a close before that would take the answer away from the client.
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    }
}
