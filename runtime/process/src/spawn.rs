//! Starts all children, from one thread, and waits for their end.
//!
//! The parent-death signal is sent when the *thread* that spawned a child ends. So one thread starts all
//! children, and runs as long as the front door. A child's environment contains only the variables set here:
//! its folder (also for the driver's caches), its number of descriptors, its user, and a few settings that
//! are passed on. Its descriptors have fixed numbers, from 3 on.

use crate::cgroup::{Cgroup, Cgroups};
use crate::child::{DESCRIPTORS_VARIABLE, Role};
use crate::home::{Home, Janitor};
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the spawning thread. It takes about a millisecond for one.
const QUEUE_CAPACITY: usize = 64;
/// The first of the user ids that children run as when the front door runs as root. The range is that of
/// systemd's dynamic users, so no account of the machine has such an id.
const USER_FIRST: u32 = 61_184;
const USERS: u32 = 4_000;

/// What a child is started with.
#[derive(Debug)]
pub struct ChildSpec {
    /// The role of the child.
    pub role: Role,
    /// Arguments after the role's verb.
    pub arguments: Vec<String>,
    /// The child's own folder, for its home and driver caches. It must exist. It is removed after the child has ended.
    pub home: PathBuf,
    /// The child's descriptors. It gets them at 3, 4, 5, …
    pub descriptors: Vec<OwnedFd>,
}

type Reply = oneshot::Sender<io::Result<Process>>;

/// Handle of the spawning thread.
#[derive(Debug, Clone)]
pub struct Spawner {
    requests: mpsc::Sender<(ChildSpec, Reply)>,
    binary: Arc<Path>,
    cgroups: Option<Arc<Cgroups>>,
}

impl Spawner {
    /// Starts the spawning thread. `memory_bytes` limits the memory of each child, if control groups can be made.
    pub fn start(memory_bytes: u64) -> io::Result<Self> {
        let cgroups = Cgroups::find(memory_bytes);
        let holding = cgroups.clone();
        // This is the link and not its target, because the binary may be replaced on disk while this one runs.
        let binary: Arc<Path> = PathBuf::from("/proc/self/exe").into();
        let (requests, mut inbox) = mpsc::channel::<(ChildSpec, Reply)>(QUEUE_CAPACITY);
        let janitor = Janitor::start()?;
        let path = Arc::clone(&binary);
        std::thread::Builder::new().name("spawner".into()).spawn(move || {
            let mut user_offset = 0;
            while let Some((spec, answer)) = inbox.blocking_recv() {
                user_offset = (user_offset + 1) % USERS;
                let spawned = spawn(&path, spec, USER_FIRST + user_offset, janitor.clone(), holding.as_deref());
                let _ = answer.send(spawned);
            }
        })?;
        Ok(Self { requests, binary, cgroups })
    }

    /// Returns whether children get control groups.
    pub fn has_cgroups(&self) -> bool {
        self.cgroups.is_some()
    }

    /// Starts a child.
    pub async fn spawn(&self, spec: ChildSpec) -> io::Result<Process> {
        let (answer, receiver) = oneshot::channel();
        let gone = |_| io::Error::other("the spawning thread has ended");
        self.requests.send((spec, answer)).await.map_err(|_| io::Error::other("the spawning thread has ended"))?;
        receiver.await.map_err(gone)?
    }
}

fn spawn(
    binary: &Path,
    spec: ChildSpec,
    user: u32,
    janitor: Janitor,
    cgroups: Option<&Cgroups>,
) -> io::Result<Process> {
    let ChildSpec { role, arguments, home, descriptors } = spec;
    // From here on, the folder is removed even if spawning fails.
    let home = Home { path: home, janitor };
    let mut command = Command::new(binary);
    command.arg0("gannet").arg(role.verb()).args(arguments).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    for variable in
        ["HOME", "XDG_CACHE_HOME", "MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH", "TMPDIR", "XDG_RUNTIME_DIR"]
    {
        command.env(variable, &home.path);
    }
    command.env("GANNET_CHILD_HOME", &home.path).env(DESCRIPTORS_VARIABLE, descriptors.len().to_string());
    for passed in ["GANNET_LOG", "VK_ICD_FILENAMES", "VK_DRIVER_FILES", "LP_NUM_THREADS"] {
        if let Some(value) = std::env::var_os(passed) {
            command.env(passed, value);
        }
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&home.path, Some(user), Some(user))?;
        command.env("GANNET_CHILD_USER", user.to_string());
    }
    let mappings = (3..).zip(descriptors).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    let child = command.spawn()?;
    let pid =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no process id"))?;
    // The child has not been reaped yet, so the id is still its own.
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    let group = cgroups.and_then(|cgroups| {
        let held = cgroups.hold(pid.as_raw_nonzero().get());
        held.inspect_err(|error| tracing::warn!(%error, "a child could not be put into a control group")).ok()
    });
    Ok(Process { pid, pidfd: Arc::new(pidfd), home: Arc::new(home), group: group.map(Arc::new) })
}

/// A running child. It is killed and waited for through its pidfd, which never refers to another process.
#[derive(Debug, Clone)]
pub struct Process {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    home: Arc<Home>,
    /// Removed when the last clone of this handle is dropped, which is after the child was reaped.
    group: Option<Arc<Cgroup>>,
}

impl Process {
    /// Returns whether the kernel has killed the child because its control group ran out of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.ran_out_of_memory())
    }

    /// Returns the process id, for logs and for reading `/proc`.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Returns the child's own folder.
    pub fn home(&self) -> &Path {
        &self.home.path
    }

    /// Kills the child.
    pub fn kill(&self) {
        // An error means that the child has ended already.
        let _ = pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
    }

    /// Returns the CPU time that the child has used, all its threads together. Returns None if the child was reaped, or
    /// if the system hides it (`hidepid`).
    pub fn cpu_time(&self) -> Option<Duration> {
        // Until it is reaped, the id is the child's own.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        let ticks = cpu_ticks(&stat)?;
        Some(Duration::from_millis(ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1)))
    }

    /// Waits until the child has ended, and reaps it. Only one task may call this.
    pub async fn ended(&self) -> Ending {
        // SAFETY: the descriptor is owned, through the Arc, for as long as it is registered.
        let readable = unsafe { AsyncFd::register(Arc::clone(&self.pidfd)) };
        if let Ok(readable) = &readable {
            let _ = readable.readable().await;
        }
        // The system keeps it for a child that has ended and was not reaped.
        let cpu_time = self.cpu_time();
        match rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG,
        ) {
            Ok(Some(status)) => Ending { code: status.exit_status(), signal: status.terminating_signal(), cpu_time },
            _ => Ending { code: None, signal: None, cpu_time },
        }
    }
}

/// Reads the ticks of CPU time, in user and in system mode, of the file `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, which may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user.saturating_add(system))
}

/// A child that is killed and reaped on drop, unless [`disarm`](Self::disarm) was called.
#[derive(Debug)]
pub struct KillOnDrop(pub Option<Process>);

impl KillOnDrop {
    /// Returns the child, which is then no longer killed on drop.
    ///
    /// # Panics
    /// Never: the child is taken once, by value.
    pub fn disarm(mut self) -> Process {
        match self.0.take() {
            Some(process) => process,
            None => unreachable!("a child is taken over once"),
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            process.kill();
            tokio::spawn(async move { process.ended().await });
        }
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The exit code, if the child exited.
    pub code: Option<i32>,
    /// The signal that killed the child, if one did.
    pub signal: Option<i32>,
    /// The CPU time that it used, if it is known.
    pub cpu_time: Option<Duration>,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("an unknown cause"),
        }
    }
}

impl Spawner {
    /// Returns the path of the binary that children run.
    pub fn binary(&self) -> &Path {
        &self.binary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_is_found_behind_any_name() {
        let stat = "77 (a) b (c)) R 1 77 77 0 -1 4194304 100 0 0 0 25 17 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("77 (x"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        assert!(cpu_ticks(&own).is_some());
    }
}
