//! A control group for each child, if the system allows it. The kernel then bounds the child's memory, page cache
//! included, and its number of threads. A child that exceeds its memory is killed without harm to others. Version 2 of
//! control groups is used if it has the controllers, otherwise version 1.
//!
//! Where no groups can be made, children are bounded by the resource limits of `confine` and the resident-set watchdog.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Threads of one child. Its driver and its runtime each start some threads for every processor.
const THREADS_MAX: u64 = 1024;

/// The parent groups in which children's groups are made. They are removed on drop.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// One folder in version 2, or one for each controller in version 1.
    parents: Vec<PathBuf>,
    /// Memory limit of each child.
    memory_bytes: u64,
}

/// The group of one child. It is removed on drop.
#[derive(Debug)]
pub(super) struct Cgroup {
    folders: Vec<PathBuf>,
}

/// Returns the mounted hierarchies that `/proc/self/mountinfo` lists: `2` or the name of the controller, and the folder
/// of this process's group.
fn hierarchies() -> io::Result<Vec<(String, PathBuf)>> {
    let (mounts, own) =
        (std::fs::read_to_string("/proc/self/mountinfo")?, std::fs::read_to_string("/proc/self/cgroup")?);
    let path_in = |controller: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?);
            names.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(at) = before.split(' ').nth(4) else { continue };
        let mut after = after.split(' ');
        let (kind, options) = (after.next().unwrap_or_default(), after.nth(1).unwrap_or_default());
        match kind {
            "cgroup2" => found.extend(path_in("").map(|path| ("2".to_owned(), Path::new(at).join(path)))),
            "cgroup" => {
                for controller in options.split(',').filter(|name| ["memory", "pids"].contains(name)) {
                    found.extend(path_in(controller).map(|path| (controller.to_owned(), Path::new(at).join(path))));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

impl Cgroups {
    /// Makes the parent groups. Returns `None` if the system does not allow it.
    pub(super) fn find(memory_bytes: u64) -> Option<Arc<Self>> {
        let found = hierarchies().ok()?;
        let second = found.iter().find(|(kind, _)| kind == "2").and_then(|(_, path)| delegate(path).ok());
        let parents = match second {
            Some(parent) => vec![parent],
            None => {
                let first = found.into_iter().filter(|(kind, _)| kind != "2");
                first.filter_map(|(_, path)| parent_in(&path).ok()).collect()
            }
        };
        (!parents.is_empty()).then(|| Arc::new(Self { parents, memory_bytes }))
    }

    /// Makes a group and moves a process into it.
    pub(super) fn hold(&self, process: i32) -> io::Result<Cgroup> {
        let mut group = Cgroup { folders: Vec::new() };
        for parent in &self.parents {
            let folder = parent.join(format!("child-{process}"));
            std::fs::create_dir(&folder)?;
            group.folders.push(folder.clone());
            for (file, value) in [
                ("memory.max", self.memory_bytes),
                ("memory.limit_in_bytes", self.memory_bytes),
                ("memory.swap.max", 0),
                ("memory.oom.group", 1),
                ("pids.max", THREADS_MAX),
            ] {
                // Which of these files exist depends on the version and the controller.
                let path = folder.join(file);
                if path.exists() {
                    std::fs::write(path, value.to_string())?;
                }
            }
            std::fs::write(folder.join("cgroup.procs"), process.to_string())?;
        }
        Ok(group)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for parent in &self.parents {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

fn parent_in(own: &Path) -> io::Result<PathBuf> {
    let parent = own.join(format!("gannet-{}", std::process::id()));
    std::fs::create_dir(&parent)?;
    Ok(parent)
}

/// Makes a parent group of version 2 whose child groups have the controllers. A group that contains processes cannot
/// delegate its controllers, so this process first moves into a leaf group beside the parent.
fn delegate(own: &Path) -> io::Result<PathBuf> {
    let has = |file: &str| -> io::Result<bool> {
        let text = std::fs::read_to_string(own.join(file))?;
        Ok(["memory", "pids"].iter().all(|name| text.split_whitespace().any(|known| known == *name)))
    };
    if !has("cgroup.controllers")? {
        return Err(io::Error::other("the memory and pids controllers are not available"));
    }
    if !has("cgroup.subtree_control")? {
        let leaf = own.join("gannet-front");
        match std::fs::create_dir(&leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        std::fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())?;
        std::fs::write(own.join("cgroup.subtree_control"), "+memory +pids")?;
    }
    let parent = parent_in(own)?;
    std::fs::write(parent.join("cgroup.subtree_control"), "+memory +pids")?;
    Ok(parent)
}

impl Cgroup {
    /// Returns whether the kernel has killed a process of the group because it ran out of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let count = |text: String| {
            text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
        };
        let files = ["memory.events", "memory.oom_control"];
        let paths = self.folders.iter().flat_map(|folder| files.map(|file| folder.join(file)));
        paths.filter_map(|path| std::fs::read_to_string(path).ok()).any(count)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            if let Err(error) = std::fs::remove_dir(folder) {
                tracing::debug!(%error, "a control group could not be removed");
            }
        }
    }
}
