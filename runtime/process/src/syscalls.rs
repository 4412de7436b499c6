//! The seccomp filter: the system calls that a child may make once its driver and its runtime have started. All others
//! return `ENOSYS`, after which the C library and the drivers try another call. `clone3` is one of these others,
//! because a filter cannot see its flags.
//!
//! The list was recorded with a tracer, with the software Vulkan driver (Mesa 22.3, glibc 2.36): all functions, faults,
//! guests in other languages and builds of the test suite. It was widened by the calls in the sources of Mesa's RADV
//! and ANV, of the C library and of the runtime, and by the policies that browsers have for GPU processes with NVIDIA's
//! and AMD's drivers. A new entry needs its reason.
//!
//! Left out on purpose: a child is given its sockets and cannot make or connect one. It cannot run programs, or start,
//! trace, signal or inspect processes. It cannot change users, mounts, namespaces, filters or the dumpable flag.

use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use std::collections::BTreeMap;

/// Calls that are allowed with any arguments.
const ALLOWED: &[i64] = &[
    // Using descriptors that it has.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fadvise64,
    libc::SYS_fchmod,
    // Files, as far as Landlock allows: the driver's cache and settings.
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_utimensat,
    libc::SYS_umask,
    // Waiting, and using sockets that it was given.
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_memfd_create,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Memory. Executable mappings are allowed, because drivers compile code too.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_mincore,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_mbind,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_membarrier,
    // Threads and their signals.
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_getparam,
    libc::SYS_sched_setparam,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_getpriority,
    libc::SYS_getcpu,
    // Clocks, and information about the machine and the process.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getrandom,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
];

/// Older variants of the calls above, which only x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_open,
    libc::SYS_access,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_unlink,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_getdents,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_time,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// `PR_SET_VMA` and `PR_GET_AUXV` are newer than the constants of the C library.
const PR_SET_VMA: u64 = 0x5356_4d41;
const PR_GET_AUXV: u64 = 0x4155_5856;
/// Requests of `ioctl` that are refused, because they type into a terminal or make the kernel send signals: `TIOCSTI`,
/// `TIOCLINUX`, `TIOCSCTTY`, `FIOSETOWN`, `SIOCSPGRP`, `FIOASYNC`. Standard error is the server's own and was opened
/// before Landlock was applied, so Landlock does not restrict it.
const IOCTL_REFUSED: [u64; 6] = [0x5412, 0x541c, 0x540e, 0x8901, 0x8902, 0x5452];
/// Commands of `fcntl` that are refused, because they make the kernel send signals: `F_SETOWN`, `F_SETSIG`,
/// `F_SETOWN_EX`.
const FCNTL_REFUSED: [u64; 3] = [8, 10, 15];

fn one(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, Dword, Eq, value)?])
}

fn any(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| one(argument, *value)).collect()
}

fn none(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    let conditions = values.iter().map(|value| SeccompCondition::new(argument, Dword, Ne, *value));
    Ok(vec![SeccompRule::new(conditions.collect::<Result<_, _>>()?)?])
}

/// Returns the filter. It names this process's id, so it must be made in the process that it is for.
pub(super) fn filter() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    // `clone` may start threads but no processes: the front door could not kill a process that outlives this one.
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    let is_thread = SeccompCondition::new(0, Dword, MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    // `abort` sends a signal to its own thread.
    rules.insert(libc::SYS_tgkill, any(0, &[own])?);
    rules.insert(libc::SYS_prlimit64, any(0, &[0, own])?);
    rules.insert(libc::SYS_setpriority, any(0, &[u64::from(libc::PRIO_PROCESS)])?);
    let named = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_GET_DUMPABLE];
    let named: Vec<u64> = named.into_iter().map(|option| u64::from(option.cast_unsigned())).collect();
    rules.insert(libc::SYS_prctl, any(0, &[named.as_slice(), &[PR_SET_VMA, PR_GET_AUXV]].concat())?);
    rules.insert(libc::SYS_fcntl, none(1, &FCNTL_REFUSED)?);
    rules.insert(libc::SYS_ioctl, none(1, &IOCTL_REFUSED)?);
    let errno = u32::try_from(libc::ENOSYS).unwrap_or(38);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Errno(errno), SeccompAction::Allow, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_can_be_made_and_lists_nothing_twice() {
        assert!(filter().is_ok());
        let all: std::collections::BTreeSet<_> = ALLOWED.iter().chain(OLDER).collect();
        assert_eq!(all.len(), ALLOWED.len() + OLDER.len());
        for refused in [libc::SYS_socket, libc::SYS_connect, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_kill] {
            assert!(!all.contains(&refused));
        }
    }
}
