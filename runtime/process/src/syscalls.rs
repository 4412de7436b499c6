//! The system calls that a child may make once its driver and its runtime are up. Everything else does not exist for it
//! (`ENOSYS`, for which the C library and the drivers have other ways; `clone3`, whose flags no filter sees, is one of them).
//!
//! The list was recorded: all functions, faults, guests in other languages and builds of the test suite under a tracer, with the
//! software Vulkan driver (Mesa 22.3, glibc 2.36); what is beside it is wider by what the sources of Mesa's RADV and ANV, of
//! the C library and of the runtime show, and by the policies that browsers have for the GPU processes of NVIDIA's and AMD's
//! drivers. A new entry needs its reason.
//!
//! What is not here: sockets are received, never made or connected; programs are not run, processes not started, traced,
//! signalled or looked into; users, mounts, namespaces, filters and the dumpable flag are not changed.

use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use std::collections::BTreeMap;

/// Allowed whatever their arguments are.
const ALLOWED: &[i64] = &[
    // Descriptors that it has.
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
    // Files, as far as Landlock lets it: the driver's cache and settings.
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
    // Waiting, and talking over sockets that were received.
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
    // Memory. Mappings that are code are the runtime's business: drivers compile too.
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
    // Clocks, and what the machine is.
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

/// Older forms of the same, which one architecture still has.
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

/// `PR_SET_VMA` and `PR_GET_AUXV` are newer than the C library's names for them.
const PR_SET_VMA: u64 = 0x5356_4d41;
const PR_GET_AUXV: u64 = 0x4155_5856;
/// What may be asked of a descriptor, but for what makes the kernel send signals or type into a terminal: standard error is
/// the server's own, opened before Landlock was there.
const IOCTL_REFUSED: [u64; 6] = [0x5412, 0x541c, 0x540e, 0x8901, 0x8902, 0x5452];
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

/// The filter.
pub(super) fn filter() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    // Threads, but no processes: one that outlives its parent's pidfd would be out of reach.
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    let is_thread = SeccompCondition::new(0, Dword, MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    // abort() signals its own thread.
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
