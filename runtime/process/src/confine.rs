//! Layers between a child and the machine, in the order they are applied:
//!
//! 1. no descriptor but its own (`close_range`), not dumpable, no new privileges;
//! 2. resource limits: files, core dumps, data;
//! 3. its own user, when started as root;
//! 4. Landlock: driver files and device nodes to read, its own folder to write, nothing else; no
//!    TCP, no signals and no abstract sockets beyond the process;
//!
//! then GPU driver and runtime start, and last, on all threads,
//!
//! 5. seccomp: the system calls that drivers and runtime make, and no others (`syscalls`).
//!
//! A driver needs to open files and start threads, which is why 5 comes after it and 1 to 4 before.
//! Each layer says whether it holds; the front door refuses to serve when one does not.

use crate::syscalls;
use gannet_base::hop::Confinement;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit};
use std::path::Path;

/// Data that a child may hold: heap and private mappings. It bounds a runaway driver or compiler
/// until the resident-set watchdog sees it.
const DATA_BYTES_MAX: u64 = 16 << 30;
/// One file: compiled components are the largest. It keeps a child from filling the disk it shares.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Open files. Each connection and each loaded component takes one.
const FILES_MAX: u64 = 4096;

/// What drivers read: libraries, their settings, the devices' descriptions. `/proc/self` is for the
/// C library, which looks at its own mappings.
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

/// Applies layers 1 to 4.
pub(crate) fn before_drivers(home: &Path, user: Option<u32>) -> Result<Confinement, ConfineError> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(ConfineError::system("not dumpable"))?;
    rustix::thread::set_no_new_privs(true).map_err(ConfineError::system("no new privileges"))?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, FILES_MAX)?;
    limit(Resource::Fsize, FILE_BYTES_MAX)?;
    // The allocator asks for huge pages; clearing two megabytes for the first bytes of each costs a worker's first requests
    // milliseconds, and its idle life tens of megabytes.
    // SAFETY: sets a flag of this process, with the arguments that prctl(2) wants.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    // A session of its own: no terminal that it could type into.
    rustix::process::setsid().map_err(ConfineError::system("setsid"))?;
    limit(Resource::Data, DATA_BYTES_MAX)?;
    let own_user = match user {
        Some(user) => become_user(user)?,
        None => false,
    };
    let landlock = landlock(home).map_err(ConfineError::system("landlock"))?;
    // setuid makes a process undumpable or not by a sysctl; we want it undumpable.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(ConfineError::system("not dumpable"))?;
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

/// The groups that own GPU device nodes: without them another user could not open the GPU.
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

/// Applies layer 5 to all threads of the process. Call it when the driver and the runtime are up.
pub fn after_drivers(confinement: &mut Confinement) -> Result<(), ConfineError> {
    let filter = syscalls::filter().map_err(ConfineError::system("seccomp"))?;
    seccompiler::apply_filter_all_threads(&filter).map_err(ConfineError::system("seccomp"))?;
    confinement.seccomp = true;
    Ok(())
}
