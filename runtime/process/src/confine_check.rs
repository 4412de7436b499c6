//! The confinement check of `gannet doctor` and `gannet serve`. A helper child is confined like a worker. It tries what
//! a worker must not be able to do, and reports how each attempt ended.

use crate::child::Child;
use crate::{channel, confine, spawn};
use gannet_base::hop::Confinement;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// An attempt to break the confinement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    /// What was tried.
    pub what: String,
    /// Whether the attempt failed, as it must.
    pub refused: bool,
    /// The error that the system returned, or that the attempt worked.
    pub answer: String,
}

/// The report of the helper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Findings {
    /// The layers that are in force in the helper.
    pub confinement: Confinement,
    /// All attempts and how they ended.
    pub attempts: Vec<Attempt>,
}

fn attempt(what: &str, result: Result<(), io::Error>) -> Attempt {
    let (refused, answer) = match result {
        Ok(()) => (false, "it worked".to_owned()),
        Err(error) => (true, error.to_string()),
    };
    Attempt { what: what.to_owned(), refused, answer }
}

fn system(result: i64) -> Result<(), io::Error> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs the helper. Arguments: the data folder, the process id of another child, and that child's folder.
pub fn run(mut child: Child, arguments: &[String]) -> io::Result<()> {
    confine::after_drivers(&mut child.confinement).map_err(io::Error::other)?;
    let data = arguments.first().map(Path::new).unwrap_or(Path::new("/"));
    let folder = arguments.get(2).map(Path::new).unwrap_or(Path::new("/"));
    let other: i32 = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let attempts = vec![
        attempt("open the data folder", std::fs::read_dir(data).map(drop)),
        attempt("read the operator key", std::fs::read(data.join("operator.key")).map(drop)),
        attempt("read /etc/passwd", std::fs::read("/etc/passwd").map(drop)),
        attempt("write outside its folder", std::fs::write("/tmp/gannet-confine-check", "x")),
        attempt("write over a library folder", std::fs::write("/usr/lib/gannet-confine-check", "x")),
        attempt("connect to an internet address", std::net::TcpStream::connect(("127.0.0.1", 9)).map(drop)),
        attempt("make an internet socket", std::net::UdpSocket::bind(("127.0.0.1", 0)).map(drop)),
        attempt("connect to a unix socket", std::os::unix::net::UnixStream::connect("/run/x").map(drop)),
        attempt("run another program", std::process::Command::new("/bin/true").status().map(drop)),
        attempt("start another process", {
            // SAFETY: if a child is created, it ends at once and touches nothing.
            match unsafe { libc::fork() } {
                // SAFETY: as above.
                0 => unsafe { libc::_exit(0) },
                result => system(i64::from(result)),
            }
        }),
        attempt("trace another child", {
            // SAFETY: PTRACE_ATTACH takes no pointer.
            system(unsafe { libc::ptrace(libc::PTRACE_ATTACH, other, 0, 0) })
        }),
        attempt("signal another child", {
            // SAFETY: a plain system call; signal 0 only asks for permission.
            system(i64::from(unsafe { libc::kill(other, 0) }))
        }),
        attempt("read another child's folder", std::fs::read_dir(folder).map(drop)),
        attempt("write into another child's folder", std::fs::write(folder.join("x"), "x")),
        attempt("read another child's memory by its address", {
            let mut byte = 0_u8;
            let own = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
            let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(0x40_0000), iov_len: 1 };
            // SAFETY: writes at most one byte, into a variable that outlives the call.
            system(unsafe { libc::process_vm_readv(other, &raw const own, 1, &raw const remote, 1, 0) } as i64)
        }),
        attempt("take another child's descriptor", {
            // SAFETY: neither call takes a pointer; a descriptor that is created is closed when the process ends.
            match unsafe { libc::syscall(libc::SYS_pidfd_open, other, 0) } {
                // SAFETY: as above.
                pidfd if pidfd >= 0 => system(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, 3, 0) }),
                refused => system(refused),
            }
        }),
        attempt("become readable to others", {
            // SAFETY: sets a flag of this process; takes no pointer.
            system(i64::from(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }))
        }),
        attempt("become another user", {
            // SAFETY: takes no pointer.
            system(i64::from(unsafe { libc::setresuid(0, 0, 0) }))
        }),
        attempt("make an io_uring", {
            // SAFETY: the kernel refuses a null pointer with EFAULT. The filter must refuse the call before that.
            match unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, std::ptr::null_mut::<u8>()) } {
                -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) => Ok(()),
                result => system(result),
            }
        }),
        attempt("make a socket by another number", {
            // The x32 variant of the call, which some kernels support.
            // SAFETY: takes no pointer.
            system(unsafe { libc::syscall(libc::SYS_socket | 0x4000_0000, libc::AF_INET, libc::SOCK_STREAM, 0) })
        }),
        attempt("type into the server's terminal", {
            // SAFETY: reads one byte of a static string.
            match unsafe { libc::ioctl(2, libc::TIOCSTI, c"x".as_ptr()) } {
                // ENOTTY comes from the descriptor, so the filter has let the call through.
                -1 if io::Error::last_os_error().raw_os_error() == Some(libc::ENOTTY) => Ok(()),
                result => system(i64::from(result)),
            }
        }),
        attempt("read another child's memory", std::fs::read(format!("/proc/{other}/mem")).map(drop)),
        attempt("read another child's environment", std::fs::read(format!("/proc/{other}/environ")).map(drop)),
        attempt("list another child's descriptors", std::fs::read_dir(format!("/proc/{other}/fd")).map(drop)),
    ];
    let findings = Findings { confinement: child.confinement, attempts };
    let text = serde_json::to_vec(&findings)?;
    let socket = child.descriptors.first().ok_or_else(|| io::Error::other("no control socket"))?;
    channel::send_now(socket.as_fd(), &text, &[])
}

/// Starts the helper, and a second child that it attacks. Returns the helper's findings.
pub async fn ask(spawner: &spawn::Spawner, data: &Path, run_folder: &Path) -> io::Result<Findings> {
    let victim = start(spawner, run_folder, "victim", vec!["/".into(), "1".into()]).await?;
    let folder = victim.0.home().to_string_lossy().into_owned();
    let arguments = vec![data.to_string_lossy().into_owned(), victim.0.id().to_string(), folder];
    let attacker = start(spawner, run_folder, "attacker", arguments).await?;
    let received = tokio::time::timeout(std::time::Duration::from_secs(10), attacker.1.receive()).await;
    victim.0.kill();
    let _ = victim.0.ended().await;
    attacker.0.kill();
    let ending = attacker.0.ended().await;
    match received {
        Ok(Ok((findings, _))) => Ok(findings),
        Ok(Err(error)) => Err(io::Error::other(format!("the helper ended with {ending}: {error}"))),
        Err(_) => Err(io::Error::other("the helper did not report within 10 s")),
    }
}

async fn start(
    spawner: &spawn::Spawner,
    run_folder: &Path,
    name: &str,
    arguments: Vec<String>,
) -> io::Result<(spawn::Process, channel::Channel)> {
    let home: PathBuf = run_folder.join(format!("check-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&home)?;
    let (ours, theirs) = channel::frame_pair()?;
    let spec = spawn::ChildSpec { role: crate::child::Role::ConfineCheck, arguments, home, descriptors: vec![theirs] };
    Ok((spawner.spawn(spec).await?, channel::Channel::new(ours)?))
}
