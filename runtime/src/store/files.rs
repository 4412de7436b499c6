//! Files beside the database: components, what the builder made of them, children's folders.
//!
//! Invariant: a file at its final name is whole and on disk. It was written under another name,
//! synced, renamed, and its folder synced.

use crate::names::TenantName;
use crate::store::StoreError;
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub struct Files {
    data: PathBuf,
    counter: AtomicU64,
    /// Names the engine that components are compiled for: code of another is of no use.
    engine: String,
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Syncs a folder, so that renames in it last.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a whole file so that it is there, complete, after a crash.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

/// Takes the lock of a data folder.
pub(super) fn lock(data: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(data.join("lock"))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| StoreError::InUse(data.to_owned()))?;
    Ok(file)
}

impl Files {
    /// Makes the folders. Only the server's user may enter the data folder, but for `run`, where each
    /// child's own folder lies: children have users of their own.
    pub(super) fn open(data: &Path, engine: &str) -> Result<Self, StoreError> {
        make_folder(data, 0o711)?;
        let data = data.canonicalize()?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o711))?;
        for name in ["db", "components", "compiled", "driver-cache", "incoming"] {
            make_folder(&data.join(name), 0o700)?;
        }
        make_folder(&data.join("run"), 0o711)?;
        Ok(Self { data, counter: AtomicU64::new(0), engine: engine.to_owned() })
    }

    /// Removes what a crash left behind.
    pub(super) fn empty_run(&self) -> io::Result<()> {
        for folder in ["run", "incoming"] {
            for entry in std::fs::read_dir(self.data.join(folder))? {
                let path = entry?.path();
                if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
            }
        }
        Ok(())
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where children's folders are made.
    pub fn run(&self) -> PathBuf {
        self.data.join("run")
    }

    /// Makes a folder for a child.
    pub fn child_home(&self, role: &str) -> io::Result<PathBuf> {
        let path = self.run().join(format!("{role}-{}", self.counter.fetch_add(1, Ordering::Relaxed)));
        make_folder(&path, 0o700)?;
        Ok(path)
    }

    /// A new file for an upload on its way in.
    pub fn incoming(&self) -> io::Result<(PathBuf, File)> {
        let path = self.data.join("incoming").join(format!("{}", self.counter.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((path, file))
    }

    /// A component as it was uploaded.
    pub fn component(&self, tenant: &TenantName, digest: &str) -> PathBuf {
        self.data.join("components").join(tenant.as_str()).join(format!("{digest}.wasm"))
    }

    /// A compiled component.
    pub fn compiled(&self, tenant: &TenantName, digest: &str) -> PathBuf {
        self.data.join("compiled").join(tenant.as_str()).join(format!("{digest}-{}.cwasm", self.engine))
    }

    /// What the driver made of a component's kernels.
    pub fn driver_cache(&self, tenant: &TenantName, digest: &str) -> PathBuf {
        self.data.join("driver-cache").join(tenant.as_str()).join(digest)
    }

    /// Moves a written and closed file to its place, durably.
    pub fn keep(&self, from: &Path, to: &Path) -> io::Result<()> {
        File::open(from)?.sync_all()?;
        let folder = to.parent().unwrap_or(&self.data);
        make_folder(folder, 0o700)?;
        std::fs::rename(from, to)?;
        sync_folder(folder)?;
        sync_folder(folder.parent().unwrap_or(&self.data))
    }

    /// Moves a folder's files to its place. They are a cache: losing them costs time only.
    pub fn keep_cache(&self, from: &Path, to: &Path) -> io::Result<()> {
        if to.exists() {
            return Ok(());
        }
        let beside = to.with_extension("new");
        if let Some(folder) = to.parent() {
            make_folder(folder, 0o700)?;
        }
        let _ = std::fs::remove_dir_all(&beside);
        copy_tree(from, &beside)?;
        std::fs::rename(&beside, to)
    }
}

/// Files in one driver cache, and their bytes. A builder is hostile once it is broken.
const CACHE_FILES_MAX: usize = 10_000;
const CACHE_BYTES_MAX: u64 = 256 << 20;

/// Copies regular files and folders, owned by the server, readable by all. Links are left out.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut left = (CACHE_FILES_MAX, CACHE_BYTES_MAX);
    copy_level(from, to, 0, &mut left)
}

fn copy_level(from: &Path, to: &Path, depth: u32, left: &mut (usize, u64)) -> io::Result<()> {
    make_folder(to, 0o755)?;
    let entries = match std::fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let metadata = std::fs::symlink_metadata(entry.path())?;
        let target = to.join(entry.file_name());
        if metadata.is_dir() && depth < 4 {
            copy_level(&entry.path(), &target, depth + 1, left)?;
        } else if metadata.is_file() {
            left.0 = left.0.checked_sub(1).ok_or_else(|| io::Error::other("too many cache files"))?;
            left.1 = left.1.checked_sub(metadata.len()).ok_or_else(|| io::Error::other("the cache is too large"))?;
            std::fs::copy(entry.path(), &target)?;
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

/// Puts a tenant's cache files into a child's folder. The child owns its folder but not these
/// files, which it can read and not change.
pub fn place_cache(from: &Path, home: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let entries = match std::fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let target = home.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            make_folder(&target, 0o700)?;
            if let Some((user, group)) = owner {
                std::os::unix::fs::chown(&target, Some(user), Some(group))?;
            }
            place_cache(&entry.path(), &target, owner)?;
        } else if !target.exists() && std::fs::hard_link(entry.path(), &target).is_err() {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
