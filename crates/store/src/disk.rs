//! The one way to files: a directory with the operations that durability needs, so that a simulation can replace it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

/// A directory of files. Paths are relative to it, with `/`.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing, and creates it and its directory if it does not exist.
    ///
    /// # Errors
    /// As the operating system says.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading; `None` if it does not exist.
    ///
    /// # Errors
    /// As the operating system says.
    fn open_existing(&self, path: &str) -> io::Result<Option<Arc<dyn DiskFile>>>;
    /// The names in a directory, sorted; none if it does not exist.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Renames a file over another, and makes that durable.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes that can still be written.
    ///
    /// # Errors
    /// As the operating system says.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`: into the operating system's hands, not yet onto the disk.
    ///
    /// # Errors
    /// As the operating system says; part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written durable.
    ///
    /// # Errors
    /// As the operating system says; what was written since the last success may then be lost for good.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The file's length.
    ///
    /// # Errors
    /// As the operating system says.
    fn size(&self) -> io::Result<u64>;
}

/// The end of the name of a file that is being written as a whole.
pub(crate) const TEMPORARY: &str = ".tmp";

/// Writes a whole file so that after a crash it is there in full or not at all.
///
/// # Errors
/// As the operating system says.
pub fn write_whole(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}{TEMPORARY}");
    let file = disk.open(&temporary)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, path)
}

/// Reads a whole file.
///
/// # Errors
/// As the operating system says.
pub fn read_whole(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Creates a directory where it is missing, for its owner alone: contexts and keys are in it. Those above it are as usual.
///
/// # Errors
/// If it cannot be created.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    private_dirs(path)
}

/// The same, and of those above it that are missing too: inside one that is private.
///
/// # Errors
/// If one cannot be created.
pub(crate) fn private_dirs(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens a file for reading and writing, and creates it where it is missing, for its owner alone.
///
/// # Errors
/// If it cannot be opened.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

/// A directory of the file system, locked for one process.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    _lock: Option<File>,
}

impl RealDisk {
    /// Opens `root`, creates it if needed, and locks it.
    ///
    /// # Errors
    /// If it cannot be created, or another process holds the lock.
    pub fn open(root: &Path) -> io::Result<Self> {
        private_dir(root)?;
        let path = root.join("lock");
        let lock = private_file(&path)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |_| {
                io::Error::other(format!(
                    "`{}` is in use by another process; stop it, or use another directory",
                    root.display()
                ))
            },
        )?;
        Ok(Self { root: root.to_owned(), _lock: Some(lock) })
    }

    /// Looks into `root`, which another process may have locked and be writing to. Nothing may be written through it.
    ///
    /// # Errors
    /// If it is not a directory.
    pub fn look_into(root: &Path) -> io::Result<Self> {
        if !root.is_dir() {
            return Err(io::Error::other(format!("`{}` is not a directory", root.display())));
        }
        Ok(Self { root: root.to_owned(), _lock: None })
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.root.join(path);
        if let Some(dir) = path.parent() {
            private_dirs(dir)?;
        }
        Ok(Arc::new(RealFile(private_file(&path)?)))
    }

    fn open_existing(&self, path: &str) -> io::Result<Option<Arc<dyn DiskFile>>> {
        match File::open(self.root.join(path)) {
            Ok(file) => Ok(Some(Arc::new(RealFile(file)))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(dir)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))?;
        self.sync_dir(Path::new(to).parent().and_then(Path::to_str).unwrap_or(""))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.root.join(dir))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// Files in memory: for folds whose log nobody keeps.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    files: RwLock<BTreeMap<String, Arc<MemoryFile>>>,
}

#[derive(Debug, Default)]
struct MemoryFile(RwLock<Vec<u8>>);

impl Disk for MemoryDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        Ok(files.entry(path.to_owned()).or_default().clone())
    }

    fn open_existing(&self, path: &str) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        Ok(files.get(path).map(|file| file.clone() as Arc<dyn DiskFile>))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let inside = |p: &String| Some(p.strip_prefix(dir)?.strip_prefix('/')?.to_owned());
        Ok(files.keys().filter_map(inside).filter(|n| !n.contains('/')).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let n = buffer.len().min(bytes.len() - from);
        buffer[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        if bytes.len() < from + new.len() {
            bytes.resize(from + new.len(), 0);
        }
        bytes[from..from + new.len()].copy_from_slice(new);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.0.write().unwrap_or_else(PoisonError::into_inner).resize(len, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }
}
