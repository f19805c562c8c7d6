# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may make which system calls. This module has the lists; kernel/seccomp.py loads
them.

A filter gives one of three answers. A call that our code never makes ends the process:
whoever makes it is not our code. A call that a library may try, and can do without, is
an error. All other calls on the list are allowed, some only with certain arguments.

The broker's list has the calls that it was seen to make in all tests (strace), and each
call's near relatives: another libc or Python may use pread instead of read, or openat
instead of open. Name services bring code of other people, which needs sockets, files
and clocks; it can start no program, and load no more code.
"""

from __future__ import annotations

import errno

from ...kernel.seccomp import ALLOW, KILL_PROCESS, Case, Condition, Rule, error

_DENIED = error(errno.EPERM)
_UNKNOWN = error(errno.ENOSYS)

# Allowed with any arguments: files, descriptors, memory, time, one's own signals.
_FREE = (
    # descriptors
    *("read", "readv", "pread64", "preadv", "preadv2", "write", "writev"),
    *("pwrite64", "pwritev", "pwritev2", "close", "close_range", "lseek", "_llseek"),
    *("dup", "dup2", "dup3", "fcntl", "fcntl64", "flock", "pipe", "pipe2"),
    *("fsync", "fdatasync", "sync_file_range", "fadvise64", "fadvise64_64"),
    *("ftruncate", "ftruncate64", "truncate", "truncate64", "fallocate"),
    # files: names, status, contents of directories
    *("stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "newfstatat"),
    *("fstatat64", "statx", "statfs", "statfs64", "fstatfs", "fstatfs64"),
    *("access", "faccessat", "faccessat2", "readlink", "readlinkat", "getcwd"),
    *("getdents", "getdents64", "rename", "renameat", "renameat2", "unlink"),
    *("unlinkat", "rmdir", "getxattr", "lgetxattr", "fgetxattr", "listxattr"),
    *("llistxattr", "flistxattr", "umask", "utimensat", "futimesat"),
    *("inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch"),
    # to wait
    *("poll", "ppoll", "ppoll_time64", "select", "_newselect", "pselect6"),
    *("pselect6_time64", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait"),
    *("epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "pidfd_open"),
    *("timerfd_create", "timerfd_settime", "timerfd_gettime", "waitid", "wait4"),
    # sockets that exist; to make one is restricted below
    *("bind", "connect", "listen", "accept", "accept4", "getsockname", "getpeername"),
    *("setsockopt", "getsockopt", "shutdown", "sendto", "sendmsg", "sendmmsg"),
    *("recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64", "send", "recv"),
    # memory; mmap and mprotect are restricted below
    *("brk", "munmap", "mremap", "madvise", "mincore", "mlock", "mlock2", "munlock"),
    *("membarrier", "msync"),
    # threads and what they wait for
    *("futex", "futex_time64", "futex_waitv", "futex_wait", "futex_wake", "rseq"),
    *("futex_requeue", "set_robust_list", "get_robust_list", "set_tid_address"),
    *("sched_yield", "sched_getaffinity", "sched_getparam", "sched_getscheduler"),
    *("gettid", "getpid", "getppid", "getpgid", "getpgrp", "getsid", "getcpu"),
    *("exit", "exit_group", "arch_prctl", "restart_syscall"),
    # handling signals
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "sigreturn"),
    *("rt_sigpending", "rt_sigtimedwait", "sigaltstack", "signalfd", "signalfd4"),
    *("pause", "alarm", "setitimer", "getitimer"),
    # time
    *("clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64"),
    *("clock_nanosleep", "clock_nanosleep_time64", "nanosleep", "gettimeofday"),
    *("time", "times", "getrusage"),
    # who we are, and where
    *("getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid"),
    *("getgroups", "getuid32", "geteuid32", "getgid32", "getegid32", "getgroups32"),
    *("capget", "getpriority", "uname", "sysinfo", "getrandom", "getrlimit"),
    *("ugetrlimit",),
)

# An error: a library may try these on the way to something else.
_REFUSED = (
    *("memfd_create", "memfd_secret", "personality", "prlimit64", "setrlimit"),
    *("sched_setaffinity", "sched_setscheduler", "sched_setparam", "setpriority"),
    *("set_mempolicy", "mbind", "chown", "fchown", "lchown", "fchownat", "link"),
    *("linkat", "symlink", "symlinkat", "setxattr", "lsetxattr", "fsetxattr"),
    *("removexattr", "lremovexattr", "fremovexattr", "chdir", "fchdir", "splice"),
    *("sendfile", "sendfile64", "copy_file_range", "tee", "vmsplice", "shmget"),
    *("shmat", "shmctl", "shmdt", "semget", "semop", "semctl", "msgget", "setsid"),
    *("setpgid", "readahead", "sync", "syncfs", "fanotify_init", "ioprio_set"),
    *("timer_create", "timer_settime", "timer_delete"),
)

# Not even for the programs that the broker starts.
_KERNEL = (
    # other processes' memory and descriptors
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"),
    *("process_madvise", "perf_event_open", "lookup_dcookie"),
    # namespaces and mounts
    *("setns", "unshare", "mount", "umount", "umount2", "pivot_root", "chroot"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "move_mount"),
    *("mount_setattr", "open_by_handle_at"),
    # the kernel itself
    *("init_module", "finit_module", "delete_module", "kexec_load", "bpf"),
    *("kexec_file_load", "reboot", "userfaultfd", "iopl", "ioperm", "acct"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "syslog"),
    *("add_key", "request_key", "keyctl", "quotactl", "quotactl_fd", "swapon"),
    *("swapoff", "nfsservctl", "vhangup", "settimeofday", "clock_settime"),
    *("clock_settime64", "adjtimex", "clock_adjtime", "clock_adjtime64", "stime"),
    *("sethostname", "setdomainname", "modify_ldt", "vm86", "vm86old", "uselib"),
)

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_FAMILIES = _AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK

# clone(2). libc tries clone3 first. Its flags are in memory, which a filter can't read;
# so clone3 does not exist for us (ENOSYS), and libc falls back to clone.
_CLONE_VM, _CLONE_SIGHAND, _CLONE_THREAD = 0x100, 0x800, 0x10000
_CLONE_NEW = 0x7E020000  # namespaces: cgroup, uts, ipc, user, pid, net and mount
_THREAD = _CLONE_VM | _CLONE_SIGHAND | _CLONE_THREAD

_PROT_EXEC = 0x4
_SETUID, _SETID = 0o4000, 0o6000
_O_CREAT, _O_TMPFILE = 0o100, 0o20000000
_S_IFMT = 0o170000
_S_IFREG, _S_IFIFO = 0o100000, 0o010000

_IOCTLS = (
    *(0x400454CA, 0x400454CB, 0x800454CF, 0x800454D2),  # TUNSETIFF, SETPERSIST, GET…
    *(0x5401, 0x802C542A),  # TCGETS, TCGETS2: isatty
    *(0x5421, 0x541B, 0x5450, 0x5451),  # FIONBIO, FIONREAD, FIO(N)CLEX
    *(0x8910, 0x8921, 0x8933, 0x8913, 0x8915),  # SIOCGIF: name, MTU, index, flags…
)
# PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_GET_DUMPABLE, PR_CAPBSET_READ
_PRCTLS = (15, 16, 0x53564D41, 3, 23)


def _when(argument: int, mask: int, *values: int) -> tuple[Case, ...]:
    """Allow a call if one of its arguments has one of these values.

    :param argument: its number, from 0.
    :param mask: the bits of it that count.
    :param values: what these bits may be.
    """
    return tuple(Case(ALLOW, (Condition(argument, mask, v),)) for v in values)


_WHOLE = 0xFFFFFFFF


def _modes() -> list[Rule]:
    """No file is made, or changes its mode, so that it is setuid, setgid or a device:
    whoever ran or opened it later would have our rights."""
    nodes = 0, _S_IFREG, _S_IFIFO
    rules = [
        Rule(("chmod", "fchmod", "mkdir", "creat"), _DENIED, _when(1, _SETID, 0)),
        Rule(("fchmodat", "fchmodat2", "mkdirat"), _DENIED, _when(2, _SETID, 0)),
        Rule(("mknod",), _DENIED, _when(1, _S_IFMT | _SETID, *nodes)),
        Rule(("mknodat",), _DENIED, _when(2, _S_IFMT | _SETID, *nodes)),
    ]
    for name, flags in (("open", 1), ("openat", 2)):
        existing = _when(flags, _O_CREAT | _O_TMPFILE, 0)
        rules.append(Rule((name,), _DENIED, (*existing, *_when(flags + 1, _SETID, 0))))
    return rules


def broker(pid: int, ends_pasta: bool = False) -> list[Rule]:
    """The broker's list. A call that is not on it has to end the process.

    :param pid: the broker's own, which it may signal.
    :param ends_pasta: whether it may also signal other processes by descriptor: a
        rootless broker whose supervisor has died has to end pasta.
    """
    no_family = error(errno.EAFNOSUPPORT)
    return [
        Rule(_FREE, ALLOW),
        Rule(_REFUSED, _DENIED),
        *_modes(),
        Rule(("socket",), no_family, _when(0, _WHOLE, *_FAMILIES)),
        Rule(("socketpair",), no_family, _when(0, _WHOLE, _AF_UNIX)),
        Rule(("ioctl",), _DENIED, _when(1, _WHOLE, *_IOCTLS)),
        Rule(("prctl",), _DENIED, _when(0, _WHOLE, *_PRCTLS)),
        # To make a thread: all of its flags, and none for a namespace.
        Rule(("clone",), KILL_PROCESS, _when(0, _THREAD | _CLONE_NEW, _THREAD)),
        Rule(("clone3", "openat2"), _UNKNOWN),
        Rule(("mmap", "mmap2", "mprotect"), _DENIED, _when(2, _PROT_EXEC, 0)),
        Rule(("kill", "tgkill"), _DENIED, _when(0, _WHOLE, pid)),
        Rule(("pidfd_send_signal",), ALLOW if ends_pasta else _DENIED),
    ]


def programs() -> list[Rule]:
    """What the programs that the broker starts may not do. All other calls have to be
    allowed: we do not know what those programs need."""
    second, third = (
        (Case(_DENIED, (Condition(argument, _SETUID, _SETUID),)),)
        for argument in (1, 2)
    )
    return [
        Rule(_KERNEL, _DENIED),
        # Files that would give whoever runs them our rights
        Rule(("chmod", "fchmod", "creat", "mknod"), ALLOW, second),
        Rule(("fchmodat", "fchmodat2", "mknodat"), ALLOW, third),
    ]
