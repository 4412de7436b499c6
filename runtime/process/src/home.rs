//! Children's folders, and their removal. A folder belongs to a process that may have been hostile: it may hold millions of
//! files, or folders twenty thousand deep, which would overflow a stack that follows them.
//!
//! One thread removes them all, so that nobody waits. Invariant: constant memory, stack and descriptors, whatever the depth.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// A child's folder, handed to the janitor when it is dropped.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) path: PathBuf,
    pub(super) janitor: Janitor,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.janitor.remove(std::mem::take(&mut self.path));
    }
}

/// Takes folders to remove.
#[derive(Debug, Clone)]
pub(super) struct Janitor(mpsc::Sender<PathBuf>);

impl Janitor {
    /// Starts the thread. Its queue holds at most one path for each process there ever was at once.
    pub(super) fn start() -> io::Result<Self> {
        let (paths, inbox) = mpsc::channel::<PathBuf>();
        std::thread::Builder::new().name("janitor".into()).spawn(move || {
            for path in inbox {
                if let Err(error) = remove_tree(&path) {
                    tracing::debug!(%error, "a child's folder could not be removed");
                }
            }
        })?;
        Ok(Self(paths))
    }

    fn remove(&self, path: PathBuf) {
        // The thread ends with the server, and the next start removes what is left.
        let _ = self.0.send(path);
    }
}

/// Removes a folder that nobody changes any more, however deep: what lies in its folders is moved up, level by level.
pub fn remove_tree(root: &Path) -> io::Result<()> {
    open_up(root);
    let mut moved = 0u64;
    loop {
        let mut left = false;
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                std::fs::remove_file(entry.path())?;
                continue;
            }
            open_up(&entry.path());
            for inner in std::fs::read_dir(entry.path())? {
                let inner = inner?;
                if inner.file_type()?.is_dir() {
                    // Moving a folder changes the entry for the one above it, inside.
                    open_up(&inner.path());
                    let name = loop {
                        moved += 1;
                        let name = root.join(format!(".removed-{moved}"));
                        if !name.exists() {
                            break name;
                        }
                    };
                    std::fs::rename(inner.path(), name)?;
                    left = true;
                } else {
                    std::fs::remove_file(inner.path())?;
                }
            }
            std::fs::remove_dir(entry.path())?;
        }
        if !left {
            return std::fs::remove_dir(root);
        }
    }
}

/// Lets the owner in: a child may have shut everybody out. What does not work shows in the next step.
fn open_up(folder: &Path) {
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700));
}

/// Removes whatever lies in a folder, as far as that can be done.
pub fn empty(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let removed =
            if entry.file_type()?.is_dir() { remove_tree(&entry.path()) } else { std::fs::remove_file(entry.path()) };
        if let Err(error) = removed {
            let name: &OsStr = &entry.file_name();
            tracing::warn!(?name, %error, "what an earlier run left behind could not be removed");
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_far_too_deep_for_a_stack_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("home");
        std::fs::create_dir(&root).unwrap();
        let mut at = rustix::fs::open(&root, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        }
        drop(at);
        std::fs::create_dir_all(root.join("wide/a")).unwrap();
        std::fs::write(root.join("wide/a/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", root.join("wide/link")).unwrap();
        std::fs::set_permissions(root.join("wide/a"), std::fs::Permissions::from_mode(0o0)).unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists() && Path::new("/etc").exists());
    }
}
