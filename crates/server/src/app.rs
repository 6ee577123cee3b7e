//! What every request shares: the log and its fold, the registry, the keys, the clock, the counters.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pawl_domain::{
    Event, ModelName,
    event::{Decided, JoinLimits},
};
use pawl_driver::{
    Clock, Fold, Live, RecoverError, Recovered, Retention, Settings, SlewedClock, SyncError, Syncer,
};
use pawl_model::HashKey;
use pawl_store::{
    Disk, Log, RealDisk,
    log::{Config as LogConfig, Recovery},
    registry::{Registry, RegistryError},
};
use tokio::sync::{Mutex, MutexGuard, Semaphore, watch};

use crate::{
    auth::Keys,
    config::Config,
    error::{ApiError, ApiResult, Code},
    metrics::Metrics,
    quotas::Quotas,
    requests::Requests,
    sessions, tls,
};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error("the data directory `{path}` cannot be used: {why}")]
    Data {
        /// Which.
        path: String,
        /// The reason.
        why: std::io::Error,
    },
    /// The log or the fold.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registry lacks changes that the log has.
    #[error(
        "the registry has {seq} changes, the log knows of {known}: `registry.sqlite` was lost or replaced; restore it, \
         with its -wal file, from a copy"
    )]
    RegistryBehind {
        /// In the log.
        known: u64,
        /// In the registry.
        seq: u64,
    },
    /// The address.
    #[error("cannot listen on `{address}`: {why}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// The reason.
        why: std::io::Error,
    },
    /// The certificate.
    #[error("{0}")]
    Tls(String),
    /// No key protects an open address.
    #[error(
        "`{0}` is not a loopback address and there is no key: start on loopback, make one with `pawl key create`, \
         then listen there; or say `--insecure`"
    )]
    Unprotected(std::net::SocketAddr),
    /// A thread or runtime could not be started.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
}

/// What every request shares.
pub struct App {
    config: Config,
    disk: Arc<dyn Disk>,
    live: Live,
    log: Arc<Log>,
    syncer: Syncer,
    synced: watch::Receiver<Result<u64, SyncError>>,
    registry: Registry,
    /// The seq up to which changes are in the log.
    relayed: Mutex<u64>,
    keys: Keys,
    request_key: HashKey,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    requests: OnceLock<Requests>,
    sessions: sessions::Table,
    quotas: Quotas,
    in_flight: AtomicUsize,
    stopping: AtomicBool,
    /// Explanations fold the log again: one at a time.
    explaining: Semaphore,
    /// One artifact at a time is read: each may be large.
    reading_artifact: Semaphore,
    /// One backup at a time is described: every file is read.
    backing_up: Semaphore,
    /// Levers are pulled one after the other.
    pulling: Mutex<()>,
    recovery: Recovery,
}

impl core::fmt::Debug for App {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("App").field("config", &self.config).finish_non_exhaustive()
    }
}

/// One request that counts against the limit, until dropped.
#[derive(Debug)]
pub struct InFlight<'a>(&'a App);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl App {
    /// Opens the data directory, folds the log to its head and takes in what the registry changed meanwhile.
    ///
    /// # Errors
    /// If anything there is not as it should be.
    pub async fn open(config: Config, accept_loss: bool) -> Result<Arc<Self>, StartError> {
        // Nothing is brought up to date for a server that could not listen.
        tls::check(&config.tls).map_err(StartError::Tls)?;
        let disk: Arc<dyn Disk> = Arc::new(open_data(&config.data)?);
        let registry = Registry::open(&config.data.join("registry.sqlite")).await?;
        warn_if_exposed(&config.data);
        let limits = JoinLimits {
            open_max: config.join.open,
            requests_max: config.join.requests as u64,
            early_max: config.join.early as u64,
        };
        let log_config = LogConfig { segment_bytes: config.log.segment_bytes, read_only: false };
        let now_ms = SlewedClock::new(0).now_ms();
        let Recovered { mut fold, recovery, .. } =
            Fold::recover(&disk, log_config, limits, accept_loss, now_ms)?;
        fold.catch_up()?;
        let (incarnation, seq) = registry.head().await?;
        let known = fold.engine().state().registry;
        if known > (incarnation, seq) {
            return Err(StartError::RegistryBehind { known: known.1, seq });
        }
        let relayed = relay(&registry, fold.log(), fold.engine().state().registry.1).await?;
        fold.catch_up()?;
        let clock: Arc<dyn Clock> = Arc::new(SlewedClock::new(fold.engine().state().now_ms));
        let app = Self::assemble(config, disk, fold, registry, relayed, clock, recovery)?;
        app.keys.reload(&app.registry).await?;
        Ok(app)
    }

    fn assemble(
        config: Config,
        disk: Arc<dyn Disk>,
        fold: Fold,
        registry: Registry,
        relayed: u64,
        clock: Arc<dyn Clock>,
        recovery: Recovery,
    ) -> Result<Arc<Self>, StartError> {
        let log = fold.log().clone();
        let (tell, synced) = watch::channel(Ok(log.synced()));
        let metrics = Metrics::default();
        let sync_seconds = metrics.sync_seconds.clone();
        let syncer = Syncer::spawn(log.clone(), move |result, took| {
            sync_seconds.observe(took.as_secs_f64());
            let _nobody_waits = tell.send(result);
        })
        .map_err(StartError::Start)?;
        let join = &fold.engine().state().join;
        let sessions = sessions::Table::new(config.join.requests as u64, join.sessions());
        let requests = Requests::new(config.join.requests, config.limits.request_window.ms());
        let now_ms = clock.now_ms();
        for (key, id) in join.requests() {
            requests.complete(key, now_ms, id);
        }
        // A log may fill nine tenths of what the disk has left, whatever its bound says.
        let free = disk.free_bytes().map_err(StartError::Start)?;
        let space = (free / 10 * 9).saturating_add(log.bytes());
        if space < config.log.max_bytes {
            tracing::warn!(
                space,
                wanted = config.log.max_bytes,
                "the disk is smaller than `log.max_bytes`"
            );
        }
        let quotas = Quotas::new(&config.quotas);
        let request_key = HashKey::of_requests(registry.hash_secret().bytes());
        let settings = Settings {
            checkpoint_every: Duration::from_millis(config.checkpoint_interval.ms()),
            retention: Retention {
                log_bytes_max: config.log.max_bytes.min(space),
                record_ms: config.log.retention.ms(),
                context_ms: config.log.context_retention.ms(),
            },
        };
        let live =
            Live::spawn(fold, disk.clone(), clock.clone(), settings).map_err(StartError::Start)?;
        Ok(Arc::new(Self {
            config,
            disk,
            live,
            log,
            syncer,
            synced,
            registry,
            relayed: Mutex::new(relayed),
            keys: Keys::default(),
            request_key,
            clock,
            metrics,
            requests: OnceLock::from(requests),
            sessions,
            quotas,
            in_flight: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            explaining: Semaphore::new(1),
            reading_artifact: Semaphore::new(1),
            backing_up: Semaphore::new(1),
            pulling: Mutex::new(()),
            recovery,
        }))
    }

    /// The key under which words of a model's contexts are hashed.
    pub(crate) fn hash_key(&self, model: &ModelName) -> HashKey {
        HashKey::of(self.registry.hash_secret().bytes(), model)
    }

    /// What a record keeps of its request, to know it again.
    pub(crate) fn request_hash(&self, text: &str) -> u64 {
        self.request_key.hash(text.as_bytes())
    }

    /// Whether a decision answered this request. Older versions kept another hash; erased ones, none.
    pub(crate) fn answered(
        &self,
        decided: &Decided,
        request_id: Option<&String>,
        text: &str,
    ) -> bool {
        let known = decided.caller.body_hash;
        decided.caller.request_id.as_ref() == request_id
            && (decided.is_erased()
                || known == Some(self.request_hash(text))
                || known == Some(xxhash_rust::xxh3::xxh3_64(text.as_bytes())))
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What opening the log found.
    #[must_use]
    pub const fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The keys in force.
    #[must_use]
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) const fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(crate) const fn live(&self) -> &Live {
        &self.live
    }

    pub(crate) const fn log(&self) -> &Arc<Log> {
        &self.log
    }

    pub(crate) const fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) const fn explaining(&self) -> &Semaphore {
        &self.explaining
    }

    pub(crate) const fn pulling(&self) -> &Mutex<()> {
        &self.pulling
    }

    pub(crate) const fn backing_up(&self) -> &Semaphore {
        &self.backing_up
    }

    /// No change of the registry reaches the log while what this gives is held.
    pub(crate) async fn hold_relay(&self) -> MutexGuard<'_, u64> {
        self.relayed.lock().await
    }

    pub(crate) const fn reading_artifact(&self) -> &Semaphore {
        &self.reading_artifact
    }

    pub(crate) fn requests(&self) -> &Requests {
        self.requests.get_or_init(|| Requests::new(self.config.join.requests, 0))
    }

    pub(crate) const fn sessions(&self) -> &sessions::Table {
        &self.sessions
    }

    pub(crate) const fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Counts a request, if there is room for it.
    ///
    /// # Errors
    /// If there are too many already.
    pub(crate) fn enter(&self) -> ApiResult<InFlight<'_>> {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let entered = InFlight(self);
        if before >= self.config.limits.in_flight {
            let detail =
                format!("{before} requests are in flight, `limits.in_flight` allows no more");
            return Err(ApiError::new(Code::TooManyRequests, detail));
        }
        Ok(entered)
    }

    /// Checks how many items a request has in `field`.
    pub(crate) fn check_batch(&self, field: &str, n: usize) -> ApiResult<()> {
        let most = self.config.limits.batch;
        if n <= most {
            return Ok(());
        }
        Err(ApiError::field(field, format!("has {n} items; at most {most}")))
    }

    /// Waits until the log is on the disk up to `end`.
    ///
    /// # Errors
    /// If the disk failed.
    pub(crate) async fn on_disk(&self, end: u64) -> ApiResult<()> {
        let failed = |why: String| ApiError::new(Code::LogUnavailable, why);
        if self.log.synced() >= end {
            return Ok(());
        }
        self.syncer.ask();
        let mut synced = self.synced.clone();
        let reached = synced.wait_for(|s| s.as_ref().map_or(true, |s| *s >= end)).await;
        match reached.map_err(|_| failed("the server is stopping".to_owned()))?.as_ref() {
            Ok(_) => Ok(()),
            Err(e) => Err(failed(e.0.clone())),
        }
    }

    /// Puts every new change of the registry into the log, and waits until it is folded.
    ///
    /// # Errors
    /// If the log or the registry fails, or learning has stopped.
    pub(crate) async fn relay(&self) -> ApiResult<()> {
        {
            let mut relayed = self.relayed.lock().await;
            *relayed =
                relay(&self.registry, &self.log, *relayed).await.map_err(ApiError::internal)?;
        }
        let head = self.log.head();
        self.on_disk(head).await?;
        self.live.wake();
        while self.live.position() < head {
            if let Some(stopped) = self.live.stopped() {
                return Err(ApiError::internal(stopped));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Closes the registry. The log and the fold close when the last reference goes.
    pub(crate) async fn close(&self) {
        self.registry.close().await;
    }
}

fn open_data(path: &Path) -> Result<RealDisk, StartError> {
    RealDisk::open(path).map_err(|why| StartError::Data { path: path.display().to_string(), why })
}

/// Says so where every user of the machine can read what is in the data directory: one that an older version made.
fn warn_if_exposed(data: &Path) {
    let open = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o005 == 0o005)
    };
    if open(data) && open(&data.join("log")) {
        let data = data.display();
        tracing::warn!("every user of this machine can read `{data}`: `chmod -R o-rwx {data}`");
    }
}

/// Appends the changes after `seq` to the log, in order. Returns the seq of the last.
async fn relay(registry: &Registry, log: &Log, mut seq: u64) -> Result<u64, StartError> {
    loop {
        let changes = registry.changes_after(seq, 100).await?;
        let Some(last) = changes.last() else { return Ok(seq) };
        seq = last.seq;
        for change in changes {
            log.append_event(&Event::Changed(change)).map_err(RecoverError::from)?;
        }
    }
}
