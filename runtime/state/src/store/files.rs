//! Files beside the database: compiled components, driver caches and children's folders. `store/uploads.rs` adds
//! unfinished uploads of assets. What is uploaded completely is a blob ([`crate::records::blobs`]).
//!
//! Invariant: a file with its final name is complete and on disk. It was written under another name,
//! synced, renamed, and its folder was synced.
//! Driver caches are the exception: they are renamed into place as a whole folder but not synced, because losing one
//! costs only time.

use crate::store::error::StoreError;
use gannet_base::names::TenantName;
use gannet_base::time::TrustedTime;
use rustix::fs::{AtFlags, Dir, FlockOperation, Gid, Mode, OFlags, Uid, fchown, fstat, linkat, mkdirat, openat};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Version of the format that this binary writes. 2 added traffic, tags, limits, secrets and the ledger. 3 added
/// assets. 4 added checksums of records, their count, and the journal. 5 took the sources of kernels out of records. 6
/// added revisions of records.
pub(super) const FORMAT: u32 = 6;
/// The folders of the data folder in which each tenant has a folder of its own.
const TENANT_FOLDERS: [&str; 3] = ["compiled", "driver-cache", "uploads"];

fn entries_of(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned())).collect()
}

/// How the names of folders begin that `gannet check` needs while it runs.
pub(super) const CHECK_PREFIX: &str = "check-";

/// A file of this name in the data folder keeps a start from removing files that nothing refers to.
pub(super) const KEEP_FILES: &str = "keep-files";

/// The kinds of files that are made from components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The driver cache of a component.
    DriverCache,
    /// Compiled code, or the report of its build.
    Build,
}

/// The data folder; see the module.
#[derive(Debug)]
pub struct Files {
    data: PathBuf,
    run: PathBuf,
    /// Numbers children's folders and incoming files.
    counter: AtomicU64,
    /// Identifies the engine that components are compiled for. Code for another engine cannot be used.
    engine: String,
    /// The time by which ages are judged: nothing is removed because of its age by another clock.
    pub trusted_time: TrustedTime,
}

pub(super) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Syncs a folder, so that renames in it survive a crash.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a file durably: after a crash it has either its old or its new content, complete.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    // After a failure the incomplete file is removed, because it would take space on a full disk.
    write().inspect_err(|_| drop(std::fs::remove_file(&beside)))?;
    std::fs::rename(&beside, path)?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

/// Makes and returns the folder for children's folders. It is `run` in the data folder, unless a folder above that
/// cannot be entered by the users that children run as: then it is in the temporary folder, named after the data
/// folder.
fn run_folder(data: &Path) -> io::Result<PathBuf> {
    let reachable =
        |path: &Path| std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
    if !rustix::process::geteuid().is_root() || data.ancestors().skip(1).all(reachable) {
        let run = data.join("run");
        make_folder(&run, 0o711)?;
        return Ok(run);
    }
    let digest = Sha256::digest(data.as_os_str().as_bytes());
    let name = hex::encode(digest.get(..8).unwrap_or_default());
    let run = std::env::temp_dir().join(format!("gannet-run-{name}"));
    match std::fs::DirBuilder::new().mode(0o711).create(&run) {
        Ok(()) => Ok(run),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Left by an earlier run. A folder of another user is not safe to use.
            let metadata = std::fs::symlink_metadata(&run)?;
            if metadata.is_dir() && metadata.uid() == 0 {
                std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o711))?;
                Ok(run)
            } else {
                Err(io::Error::other(format!("{} belongs to another user", run.display())))
            }
        }
        Err(error) => Err(error),
    }
}

/// Takes the lock of a data folder. It is held until the returned file is closed.
pub(super) fn lock(data: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(data.join("lock"))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| StoreError::InUse(data.to_owned()))?;
    Ok(file)
}

/// Returns whether a data folder contains anything that a server wrote.
pub(super) fn is_used(data: &Path) -> bool {
    data.join("format").exists() || has_entries(data, &["db", "journal", "ledger", "components", "assets"])
}

/// Returns whether any of these folders of a data folder contains something.
pub(super) fn has_entries(data: &Path, folders: &[&str]) -> bool {
    let has = |name: &&str| std::fs::read_dir(data.join(name)).is_ok_and(|mut entries| entries.next().is_some());
    folders.iter().any(has)
}

/// Reads the version of a data folder's format. Returns None if the file is missing or cannot be read.
pub(super) fn read_format(data: &Path) -> io::Result<Option<u32>> {
    match std::fs::read_to_string(data.join("format")) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the version of the format that this binary writes.
pub(super) fn write_format(data: &Path) -> io::Result<()> {
    write_durably(&data.join("format"), format!("{FORMAT}\n").as_bytes(), 0o644)
}

impl Files {
    /// Makes the folders. Only the server's user may enter those in the data folder, except `run`: it holds the
    /// children's own folders, and children run as other users.
    pub(super) fn open(data: &Path, engine: &str) -> Result<Self, StoreError> {
        make_folder(data, 0o711)?;
        let data = data.canonicalize()?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o711))?;
        for name in
            ["db", "journal", "components", "compiled", "driver-cache", "incoming", "ledger", "assets", "uploads"]
        {
            make_folder(&data.join(name), 0o700)?;
        }
        let run = run_folder(&data)?;
        Ok(Self {
            data,
            run,
            counter: AtomicU64::new(0),
            engine: engine.to_owned(),
            trusted_time: TrustedTime::default(),
        })
    }

    /// Removes the children's folders and incoming files that a crash left behind.
    pub(super) fn empty_run(&self) -> io::Result<()> {
        for folder in [&self.run, &self.data.join("incoming")] {
            gannet_process::home::empty(folder)?;
        }
        // Copies that an interrupted `gannet check` left.
        for (path, name) in entries_of(&self.data) {
            if name.starts_with(CHECK_PREFIX) {
                self.remove_path(&path);
            }
        }
        Ok(())
    }

    /// Returns the data folder, as an absolute path.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the folder in which children's folders are made.
    pub fn run(&self) -> PathBuf {
        self.run.clone()
    }

    /// Makes a folder of its own for a child process.
    pub fn child_home(&self, role: &str) -> io::Result<PathBuf> {
        let path = self.run().join(format!("{role}-{}", self.counter.fetch_add(1, Ordering::Relaxed)));
        // A folder that is left from an earlier run is an error: a child trusts what the server put into its folder.
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }

    /// Creates a file for bytes that have no final name yet: a component being uploaded, or a builder's output.
    pub fn incoming(&self) -> io::Result<(PathBuf, File)> {
        let path = self.data.join("incoming").join(format!("{}", self.counter.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((path, file))
    }

    /// Returns the path of a compiled component. `build` is the component's digest, with a suffix for a build with a
    /// snapshot.
    pub fn compiled(&self, tenant: &TenantName, build: &str) -> PathBuf {
        self.data.join("compiled").join(tenant.as_str()).join(format!("{build}-{}.cwasm", self.engine))
    }

    /// Returns the path of what the builder reported of a build: kernels and warnings. It lies beside the compiled
    /// component.
    pub fn build_report(&self, tenant: &TenantName, build: &str) -> PathBuf {
        self.data.join("compiled").join(tenant.as_str()).join(format!("{build}-{}.report", self.engine))
    }

    /// Returns the folder with the driver's cache of a component's compiled kernels.
    pub fn driver_cache(&self, tenant: &TenantName, digest: &str) -> PathBuf {
        self.data.join("driver-cache").join(tenant.as_str()).join(digest)
    }

    /// Returns the bytes of files, and of folders with all that is in them. What cannot be read counts as nothing.
    pub fn size_of(&self, paths: &[&Path]) -> u64 {
        let size = |path: &&Path| match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => entries_of(path).iter().map(|(path, _)| self.size_of(&[path])).sum(),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        };
        paths.iter().map(size).sum()
    }

    /// Removes the tenant's compiled component and report of this build.
    pub fn remove_build(&self, tenant: &TenantName, name: &str) {
        // Without a version these are not used; a leftover only takes disk space.
        let _ = std::fs::remove_file(self.compiled(tenant, name));
        let _ = std::fs::remove_file(self.build_report(tenant, name));
    }

    /// Removes the driver cache of the tenant's component with this digest.
    pub fn remove_driver_cache(&self, tenant: &TenantName, digest: &str) {
        // A component without kernels has none.
        let _ = std::fs::remove_dir_all(self.driver_cache(tenant, digest));
    }

    /// Removes all files of a tenant.
    pub fn remove_tenant(&self, tenant: &TenantName) {
        for name in TENANT_FOLDERS {
            let folder = self.data.join(name).join(tenant.as_str());
            if let Err(error) = std::fs::remove_dir_all(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "files of a deleted tenant could not be removed");
            }
        }
    }

    /// Returns whether files that nothing refers to must stay, because a repair has lost records.
    pub fn must_keep(&self) -> bool {
        self.data.join(KEEP_FILES).exists()
    }

    /// Returns the names of the tenants' folders.
    pub fn stored_tenants(&self) -> BTreeSet<String> {
        let folders = TENANT_FOLDERS.iter().flat_map(|folder| entries_of(&self.data.join(folder)));
        folders.map(|(_, name)| name).collect()
    }

    /// Returns what was made from the tenant's components: the kind, the name of the build or the digest of the component,
    /// and the path. A file that this binary cannot use has no name.
    pub fn stored_files(&self, tenant: &TenantName) -> Vec<(FileKind, Option<String>, PathBuf)> {
        let current = [format!("-{}.cwasm", self.engine), format!("-{}.report", self.engine)];
        let mut files = Vec::new();
        for (folder, kind) in [("compiled", FileKind::Build), ("driver-cache", FileKind::DriverCache)] {
            for (path, name) in entries_of(&self.data.join(folder).join(tenant.as_str())) {
                let name = match kind {
                    // Code for another engine cannot be used.
                    FileKind::Build => {
                        current.iter().find_map(|ending| name.strip_suffix(ending)).map(ToOwned::to_owned)
                    }
                    FileKind::DriverCache => Some(name),
                };
                files.push((kind, name, path));
            }
        }
        files
    }

    /// Removes a file or a folder.
    pub fn remove_path(&self, path: &Path) {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "an unneeded file could not be removed");
        }
    }

    /// Moves a file that is completely written to its final path, durably.
    pub fn move_durably(&self, from: &Path, to: &Path) -> io::Result<()> {
        File::open(from)?.sync_all()?;
        let folder = to.parent().unwrap_or(&self.data);
        make_folder(folder, 0o700)?;
        std::fs::rename(from, to)?;
        sync_folder(folder)?;
        sync_folder(folder.parent().unwrap_or(&self.data))
    }

    /// Copies a child's driver cache to its final path, unless there is one. Nothing is synced: losing a cache costs
    /// only time.
    pub fn store_driver_cache(&self, from: &Path, to: &Path) -> io::Result<()> {
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

/// Limits of one driver cache: entries, bytes and depth. The builder that wrote it may have been compromised.
const CACHE_FILES_MAX: usize = 2_000;
const CACHE_BYTES_MAX: u64 = 256 << 20;
const CACHE_DEPTH_MAX: u32 = 4;

fn open_folder(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    // NOFOLLOW at every step: the folder belongs to a process that may be hostile, and links in it must not be
    // followed.
    Ok(openat(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn entries(folder: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if names.len() > CACHE_FILES_MAX {
            return Err(io::Error::other("too many cache files"));
        }
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// Copies regular files and folders out of a child's folder. The copies belong to the server. Links are skipped.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut left = (CACHE_FILES_MAX, CACHE_BYTES_MAX);
    let from = open_folder(rustix::fs::CWD, from.as_os_str())?;
    copy_level(from.as_fd(), to, 0, &mut left)
}

fn copy_level(from: BorrowedFd<'_>, to: &Path, depth: u32, left: &mut (usize, u64)) -> io::Result<()> {
    make_folder(to, 0o755)?;
    for name in entries(from)? {
        left.0 = left.0.checked_sub(1).ok_or_else(|| io::Error::other("too many cache files"))?;
        let target = to.join(&name);
        // Open without blocking, because the entry may be a pipe, and only then check its type.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(opened) = openat(from, &name, flags, Mode::empty()) else { continue };
        let mut opened = File::from(opened);
        let metadata = opened.metadata()?;
        if metadata.is_dir() && depth < CACHE_DEPTH_MAX {
            copy_level(opened.as_fd(), &target, depth + 1, left)?;
        } else if metadata.is_file() {
            let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&target)?;
            let copied = io::copy(&mut (&mut opened).take(left.1 + 1), &mut copy)?;
            left.1 = left.1.checked_sub(copied).ok_or_else(|| io::Error::other("the cache is too large"))?;
        }
    }
    Ok(())
}

/// Links a tenant's driver cache into a child's folder, or copies it if linking fails. The child owns its folder but
/// not these files, so it can read them but not change them.
pub fn install_driver_cache(from: &Path, home: &Path) -> io::Result<()> {
    if !from.exists() {
        return Ok(());
    }
    let home = open_folder(rustix::fs::CWD, home.as_os_str())?;
    let owner = fstat(&home)?;
    place_level(from, home.as_fd(), (owner.st_uid, owner.st_gid))
}

/// Links a compiled component into the folder of a child, which can then map it instead of copying it. Fails if the
/// child runs as the server's own user: it could change the file, and with it what later workers of its tenant load.
pub fn install_component(compiled: &Path, home: &Path, name: &str) -> io::Result<()> {
    let home = open_folder(rustix::fs::CWD, home.as_os_str())?;
    if fstat(&home)?.st_uid == rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // The folder above keeps everybody else out.
    std::fs::set_permissions(compiled, std::fs::Permissions::from_mode(0o444))?;
    Ok(linkat(rustix::fs::CWD, compiled, home.as_fd(), name, AtFlags::empty())?)
}

fn place_level(from: &Path, into: BorrowedFd<'_>, owner: (u32, u32)) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            match mkdirat(into, &name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let folder = open_folder(into, &name)?;
            if rustix::process::geteuid().is_root() {
                fchown(&folder, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
            }
            place_level(&entry.path(), folder.as_fd(), owner)?;
        } else {
            // If the child already has a file of this name, it is kept.
            match linkat(rustix::fs::CWD, entry.path(), into, &name, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(_) => {
                    // The folder may be on another file system, so copy.
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                    let copy = openat(into, &name, flags, Mode::from_raw_mode(0o644))?;
                    io::copy(&mut File::open(entry.path())?, &mut File::from(copy))?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_component_is_linked_read_only_and_only_for_another_user() {
        let folder = tempfile::tempdir().unwrap();
        let (compiled, home) = (folder.path().join("compiled"), folder.path().join("home"));
        std::fs::write(&compiled, "code").unwrap();
        std::fs::create_dir(&home).unwrap();
        // The child would own the file, and could change it.
        assert!(install_component(&compiled, &home, "component-1").is_err());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&home, Some(12_345), Some(12_345)).unwrap();
            install_component(&compiled, &home, "component-1").unwrap();
            let linked = home.join("component-1").metadata().unwrap();
            assert_eq!((linked.uid(), linked.mode() & 0o777), (rustix::process::geteuid().as_raw(), 0o444));
        }
    }
}
