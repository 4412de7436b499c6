//! The folders of children, and their removal. A child may have been hostile: its folder may contain millions of files,
//! or folders nested twenty thousand deep, on which a recursive removal would overflow its stack.
//!
//! One thread removes all folders, so that nobody else waits for it. Invariant: removal takes constant memory, stack
//! and descriptors, however deep a folder is.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// A child's folder. When this is dropped, the janitor removes the folder.
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

/// Sends folders to the thread that removes them.
#[derive(Debug, Clone)]
pub(super) struct Janitor(mpsc::Sender<PathBuf>);

impl Janitor {
    /// Starts the thread. Its queue contains one path for each ended child whose folder is not removed yet.
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
        // Sending fails only when the thread has ended, with the server. The next start removes the remaining folders.
        let _ = self.0.send(path);
    }
}

/// Removes a folder of any depth. Instead of descending, it moves nested folders up into `root`, one level in each
/// round. Nobody else may change the folder meanwhile.
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
                    // To move a folder, its `..` entry must be changed, which needs write access to the folder itself.
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

/// Gives the owner access to a folder, because the child may have taken it away. A failure shows in the caller's next
/// step.
fn open_up(folder: &Path) {
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700));
}

/// Removes the contents of a folder. What cannot be removed is logged and left.
pub fn empty(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let removed =
            if entry.file_type()?.is_dir() { remove_tree(&entry.path()) } else { std::fs::remove_file(entry.path()) };
        if let Err(error) = removed {
            let name: &OsStr = &entry.file_name();
            tracing::warn!(?name, %error, "a file or folder of an earlier run could not be removed");
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
