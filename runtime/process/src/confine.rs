//! The layers of confinement between a child and the machine, in the order in which they are applied:
//!
//! 1. no descriptors other than its own (`close_range`), not dumpable, no new privileges;
//! 2. resource limits: files, core dumps, data;
//! 3. a user of its own, if the front door runs as root;
//! 4. Landlock: it may read driver files, open device nodes, and write its own folder, and nothing else; no
//!    TCP, no signals to and no abstract sockets of other processes.
//!
//! Then the GPU driver and the runtime start. The last layer follows, on all threads:
//!
//! 5. seccomp: only the system calls that drivers and the runtime make (`syscalls`).
//!
//! Layers 1 to 4 are applied before a driver is loaded. Layer 5 must wait, because a driver opens files and starts
//! threads when it is loaded. The child reports which layers are in force; the front door refuses to serve when a
//! required one is missing.

use crate::syscalls;
use gannet_base::hop::Confinement;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit};
use std::path::Path;

/// Limit on a child's data: heap and private mappings. It bounds a runaway driver or compiler until the
/// resident-set watchdog notices it.
const DATA_BYTES_MAX: u64 = 20 << 30;
/// Limit on one file. Compiled components are the largest files. It keeps a child from filling the disk.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Limit on open files. Each connection and each loaded component takes one.
const FILES_MAX: u64 = 4096;

/// Paths that drivers read: libraries, their settings, and descriptions of devices. `/proc/self` is for the C
/// library, which reads its own mappings.
const READABLE: [&str; 16] = [
    "/usr",
    "/lib",
    "/lib64",
    "/opt",
    "/etc/ld.so.cache",
    "/etc/vulkan",
    "/etc/glvnd",
    "/etc/OpenCL",
    "/etc/drirc",
    "/etc/nvidia",
    "/sys",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/driver",
    "/dev/urandom",
];
/// Device nodes that drivers open for reading and writing.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/dri", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-modeset", "/dev/nvidia0", "/dev/kfd"];

/// Why a child could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("{layer}: {cause}")]
pub struct ConfineError {
    layer: &'static str,
    cause: String,
}

impl ConfineError {
    pub(crate) fn system<E: std::fmt::Display>(layer: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self { layer, cause: error.to_string() }
    }
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: i32) -> Result<(), ConfineError> {
    let first = u32::try_from(first).unwrap_or(3);
    // SAFETY: closes descriptors that nothing in this process owns yet; called first in `main`.
    let result = unsafe { libc::close_range(first, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(ConfineError::system("close_range")(std::io::Error::last_os_error())) }
}

/// Applies layers 1 to 4, except `close_range`. Call it while the process has one thread. Between 3 and 4 the process
/// is dumpable while `open_own_files` runs, because the files in `/proc` of a process that is not dumpable belong to
/// root. The files are opened with the rights of the child's own user.
pub(crate) fn before_drivers(
    home: &Path,
    user: Option<u32>,
    open_own_files: impl FnOnce(),
) -> Result<Confinement, ConfineError> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(ConfineError::system("not dumpable"))?;
    rustix::thread::set_no_new_privs(true).map_err(ConfineError::system("no new privileges"))?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, FILES_MAX)?;
    limit(Resource::Fsize, FILE_BYTES_MAX)?;
    // The allocator asks for huge pages. Clearing two megabytes for the first bytes of each costs a worker's first
    // requests milliseconds, and an idle worker tens of megabytes.
    // SAFETY: sets a flag of this process, with the arguments that prctl(2) wants.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    // A process session of its own has no controlling terminal that the child could type into.
    rustix::process::setsid().map_err(ConfineError::system("setsid"))?;
    limit(Resource::Data, DATA_BYTES_MAX)?;
    let own_user = match user {
        Some(user) => become_user(user)?,
        None => false,
    };
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .map_err(ConfineError::system("dumpable"))?;
    open_own_files();
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(ConfineError::system("not dumpable"))?;
    let landlock = landlock(home).map_err(ConfineError::system("landlock"))?;
    if own_user {
        // Changing users clears the parent-death signal.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(ConfineError::system("parent death signal"))?;
    }
    let own_folder = std::fs::read_dir(home).is_ok();
    Ok(Confinement { own_user, landlock, seccomp: false, own_folder })
}

fn limit(resource: Resource, value: u64) -> Result<(), ConfineError> {
    let old = rustix::process::getrlimit(resource);
    let value = old.maximum.map_or(value, |hard| hard.min(value));
    let new = Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(resource, new).map_err(ConfineError::system("resource limit"))
}

fn become_user(user: u32) -> Result<bool, ConfineError> {
    let groups = device_groups();
    // SAFETY: plain system calls on this single-threaded process. glibc's wrappers, not the raw
    // calls, because they also hold for threads that come later.
    let failed = unsafe {
        libc::setgroups(groups.len(), groups.as_ptr()) != 0
            || libc::setresgid(user, user, user) != 0
            || libc::setresuid(user, user, user) != 0
    };
    if failed {
        return Err(ConfineError::system("own user")(std::io::Error::last_os_error()));
    }
    Ok(true)
}

/// Returns the groups that own GPU device nodes. Without them, the child's user could not open the GPU.
fn device_groups() -> Vec<libc::gid_t> {
    use std::os::unix::fs::MetadataExt;
    let nodes = std::fs::read_dir("/dev/dri").into_iter().flatten().flatten();
    let mut groups: Vec<_> =
        nodes.filter_map(|node| node.metadata().ok()).map(|node| node.gid()).filter(|gid| *gid != 0).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn landlock(home: &Path) -> Result<bool, landlock::RulesetError> {
    let abi = ABI::V6;
    let read = AccessFs::from_read(abi);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    for path in READABLE {
        if let Ok(opened) = PathFd::new(path) {
            let is_directory = Path::new(path).is_dir();
            let access = if is_directory { read } else { read & AccessFs::from_file(abi) };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    for path in DEVICES {
        if let Ok(opened) = PathFd::new(path) {
            let access = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
            let access = if Path::new(path).is_dir() { access | AccessFs::ReadDir } else { access };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    if let Ok(opened) = PathFd::new(home) {
        rules = rules.add_rule(PathBeneath::new(opened, AccessFs::from_all(abi) & !AccessFs::Execute))?;
    }
    let status = rules.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Applies layer 5 to all threads of the process. Call it after the driver and the runtime have started.
pub fn after_drivers(confinement: &mut Confinement) -> Result<(), ConfineError> {
    let filter = syscalls::filter().map_err(ConfineError::system("seccomp"))?;
    seccompiler::apply_filter_all_threads(&filter).map_err(ConfineError::system("seccomp"))?;
    confinement.seccomp = true;
    Ok(())
}
