//! A disk in memory that forgets what was not synced, in any combination of blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use pawl_stats::rng::Stream;
use pawl_store::{Disk, DiskFile};

/// The unit that a power loss keeps or loses.
const BLOCK: usize = 512;

/// A disk in memory that forgets what was not synced.
#[derive(Debug, Default)]
pub struct FaultyDisk {
    files: Mutex<BTreeMap<String, Arc<FaultyFile>>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes that can still be written; `u64::MAX` is no limit.
    space: AtomicU64,
    limited: AtomicBool,
    sync_fails: AtomicBool,
}

#[derive(Debug)]
struct FaultyFile {
    content: Mutex<Content>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyDisk {
    /// Only `bytes` more can be written: then writes are short and fail.
    pub fn limit(&self, bytes: Option<u64>) {
        self.shared.space.store(bytes.unwrap_or(u64::MAX), Ordering::Release);
        self.shared.limited.store(bytes.is_some(), Ordering::Release);
    }

    /// Whether syncs fail from now on.
    pub fn fail_syncs(&self, fail: bool) {
        self.shared.sync_fails.store(fail, Ordering::Release);
    }

    /// What a power loss leaves: of each file what was synced, and of the rest any subset of its blocks, each whole or
    /// torn; the length anything between.
    #[must_use]
    pub fn after_power_loss(&self, seed: u64) -> Self {
        let mut stream = Stream::new(seed);
        let survivor = Self::default();
        for (path, file) in lock(&self.files).iter() {
            let content = lock(&file.content);
            let (old, new) = (&content.durable, &content.now);
            let len = if new.len() > old.len() {
                old.len() + stream.below((new.len() - old.len()) as u64 + 1) as usize
            } else {
                new.len()
            };
            let mut left = old.clone();
            left.resize(len, 0);
            for &block in &content.dirty {
                let (from, mut to) = (block * BLOCK, ((block + 1) * BLOCK).min(len).min(new.len()));
                match stream.below(3) {
                    0 => continue,
                    1 => {}
                    _ => to = to.min(from + stream.below(BLOCK as u64) as usize),
                }
                if from < to {
                    left[from..to].copy_from_slice(&new[from..to]);
                }
            }
            let content = Content { now: left.clone(), durable: left, dirty: BTreeSet::new() };
            let file = FaultyFile { content: Mutex::new(content), shared: survivor.shared.clone() };
            lock(&survivor.files).insert(path.clone(), Arc::new(file));
        }
        survivor
    }

    /// What the end of the process leaves: everything that was written.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let survivor = Self::default();
        for (path, file) in lock(&self.files).iter() {
            let from = lock(&file.content);
            let content = Content {
                now: from.now.clone(),
                durable: from.durable.clone(),
                dirty: from.dirty.clone(),
            };
            let file = FaultyFile { content: Mutex::new(content), shared: survivor.shared.clone() };
            lock(&survivor.files).insert(path.clone(), Arc::new(file));
        }
        survivor
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = lock(&self.files);
        let new = || {
            let content = Mutex::default();
            Arc::new(FaultyFile { content, shared: self.shared.clone() })
        };
        Ok(files.entry(path.to_owned()).or_insert_with(new).clone())
    }

    fn open_existing(&self, path: &str) -> io::Result<Option<Arc<dyn DiskFile>>> {
        Ok(lock(&self.files).get(path).map(|file| file.clone() as Arc<dyn DiskFile>))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let inside = |p: &String| Some(p.strip_prefix(dir)?.strip_prefix('/')?.to_owned());
        Ok(lock(&self.files).keys().filter_map(inside).filter(|n| !n.contains('/')).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.files);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        lock(&self.files).remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.shared.space.load(Ordering::Acquire))
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = lock(&self.content);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.now.len());
        let n = buffer.len().min(content.now.len() - from);
        buffer[..n].copy_from_slice(&content.now[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = lock(&self.content);
        let mut taken = bytes.len();
        if self.shared.limited.load(Ordering::Acquire) {
            let space = self.shared.space.load(Ordering::Acquire);
            taken = taken.min(usize::try_from(space).unwrap_or(usize::MAX));
            self.shared.space.store(space - taken as u64, Ordering::Release);
        }
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        if content.now.len() < from + taken {
            content.now.resize(from + taken, 0);
        }
        content.now[from..from + taken].copy_from_slice(&bytes[..taken]);
        if taken > 0 {
            content.dirty.extend(from / BLOCK..=(from + taken - 1) / BLOCK);
        }
        if taken < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.shared.sync_fails.load(Ordering::Acquire) {
            return Err(io::Error::other("the disk failed to sync"));
        }
        let mut content = lock(&self.content);
        content.durable = content.now.clone();
        content.dirty.clear();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        lock(&self.content).now.resize(len, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.content).now.len() as u64)
    }
}
