//! System calls that a program has no use for, by seccomp.
//!
//! A list of what is refused, not of what is allowed: drivers of GPUs are too various for that. What is on it reaches
//! other processes, the network, the kernel's own machinery, or files by a way that Landlock does not govern. The filter is
//! written out as the kernel's instructions: a page of them, and no library at hand refuses a whole range of numbers,
//! without which the second set of system calls of x86-64 would go round the list.

use libc::{c_long, sock_filter};

/// This machine's kind, as the kernel tells it to a filter. None: no filter is known.
pub(super) const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xC000_003E)
} else if cfg!(target_arch = "aarch64") {
    Some(0xC000_00B7)
} else {
    None
};
/// On x86-64, numbers from here on are the same calls under other names.
const SECOND_SET: u32 = 0x4000_0000;

/// Offsets in what the kernel shows to a filter.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(n: u32) -> u32 {
    // The lower half, on these little-endian machines; the kernel itself takes no more of these arguments.
    16 + 8 * n
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const fn errno(error: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | error.cast_unsigned()
}

/// Refused to every program.
const REFUSED: &[c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Leaving the group that is ended as a whole.
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // Memory, messages and semaphores by a number or a name that is everybody's, outlives the program, and lies in no folder.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // The kernel's own machinery.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_fanotify_init,
    // Another view of the file system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // Marks on files, which Landlock does not govern.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    // By number, since the library does not know them everywhere: fchmodat2, setxattrat, removexattrat, open_tree_attr.
    452,
    463,
    466,
    467,
    // Talking to others.
    libc::SYS_connect,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Refused besides to a program that does not listen.
const REFUSED_TO_COMMANDS: &[c_long] = &[
    libc::SYS_socket,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
];

/// Every flag of `clone` that makes a namespace.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();
/// All processes of a user, for the system calls on priorities of the processor and of the disk. The library has no type for the
/// one that is the same everywhere, and does not know the other.
const PRIO_USER: u32 = 2;
const IOPRIO_WHO_USER: u32 = 3;
/// The kind of a socket, without the flags that go with it.
const KIND: u32 = 0xF;

/// The filter of a program that listens, or of one that does not.
pub(super) fn filter(listens: bool) -> Vec<sock_filter> {
    let Some(architecture) = ARCHITECTURE else {
        return Vec::new();
    };
    let mut filter = vec![
        load(ARCH),
        // Calls in the manner of another kind of machine have other numbers.
        jump(libc::BPF_JEQ, architecture, 1, 0),
        answer(KILL),
        load(NUMBER),
    ];
    if cfg!(target_arch = "x86_64") {
        filter.extend([
            jump(libc::BPF_JGE, SECOND_SET, 0, 1),
            answer(errno(libc::ENOSYS)),
        ]);
    }
    let refused = errno(libc::EPERM);
    let mut on = |call: c_long, then: &[sock_filter]| {
        let length = u8::try_from(then.len()).unwrap_or(u8::MAX);
        let number = u32::try_from(call).unwrap_or(u32::MAX);
        filter.push(jump(libc::BPF_JEQ, number, 0, length));
        filter.extend_from_slice(then);
    };
    for call in REFUSED {
        on(*call, &[answer(refused)]);
    }
    if listens {
        on(libc::SYS_socket, &tcp_socket());
    } else {
        for call in REFUSED_TO_COMMANDS {
            on(*call, &[answer(refused)]);
        }
    }
    // Two ends of one stream, both its own, as runtimes use them to wake themselves. Not datagrams, which can be sent to
    // anybody from such an end.
    on(libc::SYS_socketpair, &local_pair());
    // A first segment may carry data and so connect without `connect`.
    for (call, flags) in [
        (libc::SYS_sendto, 3),
        (libc::SYS_sendmsg, 2),
        (libc::SYS_sendmmsg, 3),
    ] {
        on(
            call,
            &unless_bits(flags, libc::MSG_FASTOPEN.cast_unsigned()),
        );
    }
    on(libc::SYS_utimensat, &only_descriptor());
    on(libc::SYS_clone, &unless_bits(0, NAMESPACES));
    // Its flags lie where a filter cannot look; libraries then use `clone`.
    on(libc::SYS_clone3, &[answer(errno(libc::ENOSYS))]);
    // The signal at the worker's death stays.
    on(
        libc::SYS_prctl,
        &unless_equal(0, libc::PR_SET_PDEATHSIG.cast_unsigned()),
    );
    // Limits of others.
    on(libc::SYS_prlimit64, &only_equal(0, 0));
    // What others get of the processor and the disk. Which processors they run on stays open: runtimes name their own threads.
    for call in [
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
    ] {
        on(call, &only_equal(0, 0));
    }
    on(libc::SYS_setpriority, &only_own(PRIO_USER));
    on(libc::SYS_ioprio_set, &only_own(IOPRIO_WHO_USER));
    filter.push(answer(ALLOW));
    filter
}

/// IPv4 or IPv6, a stream, plain TCP: which port, Landlock says.
fn tcp_socket() -> [sock_filter; 12] {
    let refused = answer(errno(libc::EPERM));
    [
        load(argument(0)),
        jump(libc::BPF_JEQ, libc::AF_INET.cast_unsigned(), 2, 0),
        jump(libc::BPF_JEQ, libc::AF_INET6.cast_unsigned(), 1, 0),
        answer(errno(libc::EAFNOSUPPORT)),
        load(argument(1)),
        and(KIND),
        jump(libc::BPF_JEQ, libc::SOCK_STREAM.cast_unsigned(), 0, 3),
        load(argument(2)),
        jump(libc::BPF_JEQ, 0, 2, 0),
        jump(libc::BPF_JEQ, libc::IPPROTO_TCP.cast_unsigned(), 1, 0),
        refused,
        answer(ALLOW),
    ]
}

fn local_pair() -> [sock_filter; 7] {
    [
        load(argument(0)),
        jump(libc::BPF_JEQ, libc::AF_UNIX.cast_unsigned(), 0, 3),
        load(argument(1)),
        and(KIND),
        jump(libc::BPF_JEQ, libc::SOCK_STREAM.cast_unsigned(), 1, 0),
        answer(errno(libc::EPERM)),
        answer(ALLOW),
    ]
}

/// Times of an open file, not of one by its path: the second argument is null, in both halves.
fn only_descriptor() -> [sock_filter; 6] {
    [
        load(argument(1)),
        jump(libc::BPF_JEQ, 0, 0, 2),
        load(argument(1) + 4),
        jump(libc::BPF_JEQ, 0, 1, 0),
        answer(errno(libc::EPERM)),
        answer(ALLOW),
    ]
}

/// Refused where one of these bits of the n-th argument is set.
fn unless_bits(n: u32, bits: u32) -> [sock_filter; 4] {
    [
        load(argument(n)),
        jump(libc::BPF_JSET, bits, 0, 1),
        answer(errno(libc::EPERM)),
        answer(ALLOW),
    ]
}

/// Refused where the n-th argument is this.
fn unless_equal(n: u32, value: u32) -> [sock_filter; 4] {
    [
        load(argument(n)),
        jump(libc::BPF_JEQ, value, 0, 1),
        answer(errno(libc::EPERM)),
        answer(ALLOW),
    ]
}

/// Refused where the n-th argument is anything else.
fn only_equal(n: u32, value: u32) -> [sock_filter; 4] {
    [
        load(argument(n)),
        jump(libc::BPF_JEQ, value, 1, 0),
        answer(errno(libc::EPERM)),
        answer(ALLOW),
    ]
}

/// Itself or its group, which the second argument names by 0; the first is not `user`, where 0 is everybody of that user.
fn only_own(user: u32) -> [sock_filter; 6] {
    [
        load(argument(0)),
        jump(libc::BPF_JEQ, user, 2, 0),
        load(argument(1)),
        jump(libc::BPF_JEQ, 0, 1, 0),
        answer(errno(libc::EPERM)),
        answer(ALLOW),
    ]
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn and(mask: u32) -> sock_filter {
    statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask)
}

fn answer(what: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, what)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: short(code),
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: short(libc::BPF_JMP | libc::BPF_K | test),
        jt,
        jf,
        k,
    }
}

fn short(code: u32) -> u16 {
    // Every code is below 256.
    u16::try_from(code).unwrap_or(u16::MAX)
}
