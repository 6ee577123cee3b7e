//! Group commit to the disk: one sync serves all that wait for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use pawl_store::Log;

/// The log could not be synced; it takes nothing more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyncError(pub String);

/// How long records that nobody waits for may stay off the disk.
const BACKGROUND: Duration = Duration::from_secs(1);

/// A thread that syncs the log when asked, and every second while there is something to sync.
#[derive(Debug)]
pub struct Syncer {
    asked: Arc<AtomicBool>,
    wake: mpsc::SyncSender<()>,
    thread: Option<thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Syncer {
    /// Starts it. `done` is told the offset up to which the log is on the disk, after each sync, and how long that took.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn spawn(
        log: Arc<Log>,
        done: impl Fn(Result<u64, SyncError>, Duration) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (wake, woken) = mpsc::sync_channel(1);
        let asked = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let (is_asked, stopped) = (asked.clone(), stop.clone());
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                // Asking again while a sync runs leaves one token in the channel: it is served by the next.
                let token = woken.recv_timeout(BACKGROUND);
                if matches!(token, Err(mpsc::RecvTimeoutError::Disconnected)) {
                    break;
                }
                is_asked.store(false, Ordering::Release);
                // Whoever asked is told even where somebody else's sync came first.
                if token.is_ok() || log.synced() < log.head() {
                    let begun = Instant::now();
                    let synced = log.sync().map_err(|e| SyncError(e.to_string()));
                    done(synced, begun.elapsed());
                }
            }
        };
        let thread = thread::Builder::new().name("pawl-sync".to_owned()).spawn(run)?;
        Ok(Self { asked, wake, thread: Some(thread), stop })
    }

    /// Asks for a sync of everything written so far.
    pub fn ask(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            // Full means that a token is there already.
            let _already = self.wake.try_send(());
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _already = self.wake.try_send(());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
