//! TLS: a certificate and its key from two files, taken anew when they change.

use std::{path::Path, sync::Arc, time::Duration};

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
        ServerConfig,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};

use crate::{app::App, config::Tls as Files, http::told};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a client may take to shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Ends TLS with the certificate that the files held when they could last be used.
pub(crate) struct Tls {
    files: Files,
    provider: CryptoProvider,
    current: ArcSwap<CertifiedKey>,
}

impl core::fmt::Debug for Tls {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Tls {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Pem {
    fn read(files: &Files) -> Result<Self, String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))
        };
        Ok(Self { cert: read(&files.cert)?, key: read(&files.key)? })
    }

    fn certified(&self, files: &Files, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
        let (cert, key) = (files.cert.display(), files.key.display());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<_, _>>()
            .map_err(|e| format!("`tls.cert`: `{cert}` is not PEM: {e}"))?;
        if chain.is_empty() {
            return Err(format!("`tls.cert`: `{cert}` holds no certificate in PEM"));
        }
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|e| format!("`tls.key`: `{key}` holds no private key in PEM: {e}"))?;
        CertifiedKey::from_der(chain, private, provider)
            .map_err(|e| format!("`{cert}` and `{key}` do not go together: {e}"))
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// If they cannot be used; the message names the file.
    pub(crate) fn open(files: &Files) -> Result<(Arc<Self>, TlsAcceptor), String> {
        let provider = aws_lc_rs::default_provider();
        let first = Pem::read(files)?.certified(files, &provider)?;
        let tls = Arc::new(Self {
            files: files.clone(),
            provider: provider.clone(),
            current: ArcSwap::from_pointee(first),
        });
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(tls.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((tls, TlsAcceptor::from(Arc::new(config))))
    }

    /// Takes the files anew whenever they hold something else; while that cannot be used, what was served before is.
    pub(crate) async fn watch(self: Arc<Self>, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
        let mut seen = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = told(&mut stopped) => return,
            }
            let files = self.files.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || Pem::read(&files)).await else {
                continue;
            };
            if seen.as_ref() == Some(&read) {
                continue;
            }
            let first = seen.is_none();
            let taken = read.as_ref().map_err(Clone::clone);
            match taken.and_then(|pem| pem.certified(&self.files, &self.provider)) {
                Ok(now) => {
                    let same = now.cert == self.current.load().cert;
                    self.current.store(Arc::new(now));
                    app.metrics().tls_stale.set(0);
                    if !(first && same) {
                        tracing::info!("took the certificate of `tls.cert` anew");
                    }
                }
                Err(why) => {
                    app.metrics().tls_stale.set(1);
                    tracing::warn!(%why, "the new certificate cannot be used: the one before is served");
                }
            }
            seen = Some(read);
        }
    }
}

/// Shakes hands. `None` where the client does not, or speaks plain HTTP, which it is told.
pub(crate) async fn accept(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> Option<TlsStream<TcpStream>> {
    let shaken = timeout(HANDSHAKE_TIMEOUT, async {
        let mut first = [0];
        if stream.peek(&mut first).await.is_ok_and(|n| n == 1) && first[0] != HANDSHAKE {
            refuse(stream).await;
            return None;
        }
        acceptor.accept(stream).await.inspect_err(|e| tracing::debug!(%e, "no TLS handshake")).ok()
    });
    shaken.await.unwrap_or_default()
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
