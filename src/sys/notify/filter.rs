//! Owns the seccomp filter: which calls it notifies about, and installing it in the child. Must not know how a call is
//! answered.
#![allow(unsafe_code)]

use std::os::fd::RawFd;

use libc::sock_filter;

use super::super::process::last_errno;
use super::{MAX_BYTES, can_copy, supports_put};

/// Which calls the filter notifies about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Calls {
    /// bind(2) with an address as long as [`LENGTHS`], listen(2), and getsockopt(2) of SO_ACCEPTCONN.
    Binds,
    /// Also setsockopt(2) of IPV6_V6ONLY, for when the option cannot be read from the socket. This costs wake-ups:
    /// Java, .NET and Go set the option on every IPv6 socket, outgoing connections included.
    BindsAndV6Only,
}

/// The system call numbering that the filter expects, `AUDIT_ARCH_*` of `linux/audit.h`; 0: an unsupported
/// architecture.
pub(super) const ARCH: u32 = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
    0xc000_003e
} else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
    0xc000_00b7
} else {
    0
};

/// The address lengths that `bind(2)` accepts for IPv4 or IPv6: `inet_bind` requires 16 bytes, and no call takes more
/// than a `struct sockaddr_storage`. C libraries pass 16 or 28, RFC 2133 had 24, and C programs often pass all 128. The
/// filter sees registers, not the address: a unix socket's path triggers a notification and is continued, netlink's 12
/// bytes do not.
pub(super) const LENGTHS: std::ops::RangeInclusive<u32> = 16..=128;

/// Offsets of the fields of `struct seccomp_data` (`linux/seccomp.h`). Of an argument, the lower half, because the
/// calls below ignore the upper one.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// Opcodes of classic BPF (`linux/bpf_common.h`): load a word, jump, compare and jump, return.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const MORE: u16 = 0x25;
const RETURN: u16 = 0x06;

const fn step(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Compares, then skips `jt` or `jf` steps.
const fn test(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

const STEPS: usize = 20;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of system calls and options")]
const fn program(calls: Calls) -> [sock_filter; STEPS] {
    const SETSOCKOPT: u32 = libc::SYS_setsockopt as u32;
    [
        step(LOAD, ARCHITECTURE),
        // Another ABI of this machine (i386) has other numbers: allow all its calls without a notification.
        test(EQUAL, ARCH, 0, 16),
        step(LOAD, NUMBER),
        // The numbers of x32 have bit 30 set, so none equals one of these.
        test(EQUAL, libc::SYS_bind as u32, 11, 0),
        test(EQUAL, libc::SYS_listen as u32, 14, 0),
        test(EQUAL, libc::SYS_getsockopt as u32, 5, 0),
        match calls {
            Calls::Binds => step(JUMP, 11),
            Calls::BindsAndV6Only => test(EQUAL, SETSOCKOPT, 0, 11),
        },
        step(LOAD, argument(1)),
        test(EQUAL, libc::IPPROTO_IPV6 as u32, 0, 9),
        step(LOAD, argument(2)),
        test(EQUAL, libc::IPV6_V6ONLY as u32, 8, 7),
        step(LOAD, argument(1)),
        test(EQUAL, libc::SOL_SOCKET as u32, 0, 5),
        step(LOAD, argument(2)),
        test(EQUAL, libc::SO_ACCEPTCONN as u32, 4, 3),
        step(LOAD, argument(2)),
        test(AT_LEAST, *LENGTHS.start(), 0, 1),
        test(MORE, *LENGTHS.end(), 0, 1),
        step(RETURN, libc::SECCOMP_RET_ALLOW),
        step(RETURN, libc::SECCOMP_RET_USER_NOTIF),
    ]
}

static BINDS: [sock_filter; STEPS] = program(Calls::Binds);
static BINDS_AND_V6_ONLY: [sock_filter; STEPS] = program(Calls::BindsAndV6Only);

pub(super) fn steps(calls: Calls) -> &'static [sock_filter; STEPS] {
    match calls {
        Calls::Binds => &BINDS,
        Calls::BindsAndV6Only => &BINDS_AND_V6_ONLY,
    }
}

/// The result of [`install`] in the child.
#[derive(Debug, Clone, Copy)]
pub(in crate::sys) struct Installed {
    /// The listener's number in the descriptor table that parent and child share.
    pub listener: RawFd,
    /// `no_new_privs` had to be set.
    pub no_new_privs: bool,
}

/// Installs the filter in the calling process, which has one thread. Async-signal-safe: for the child, before its exec.
///
/// Without CAP_SYS_ADMIN the kernel requires `no_new_privs` (`seccomp(2)`). The flag is permanent and disables setuid
/// programs, so it is only set when the kernel requires it.
///
/// # Errors
/// The errno: EBUSY (there is a listener already), EINVAL or ENOSYS (Linux before 5.9, gVisor, another architecture),
/// EPERM or EACCES (a seccomp profile), EMFILE. The process may have the filter nevertheless, so it must not exec the
/// app.
pub(in crate::sys) fn install() -> Result<Installed, i32> {
    if ARCH == 0 {
        return Err(libc::ENOSYS);
    }
    // Checked in the child, not the parent: a profile may kill a process on a call it does not know, and then only the
    // child dies.
    fits()?;
    let calls = if can_copy() { Calls::Binds } else { Calls::BindsAndV6Only };
    // SAFETY: it reads nothing. It is made for the sake of such profiles, because `read_memory` will make it.
    unsafe { libc::process_vm_readv(0, std::ptr::null(), 0, std::ptr::null(), 0, 0) };
    let steps = steps(calls);
    let program = libc::sock_fprog { len: STEPS as libc::c_ushort, filter: steps.as_ptr().cast_mut() };
    // SPEC_ALLOW: before Linux 5.16 a filter makes the kernel disable speculation for the app, which costs more than
    // the filter. No WAIT_KILLABLE_RECV: an app that is blocked in its bind must receive its TERM.
    let mut flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let mut no_new_privs = false;
    let listener = loop {
        // SAFETY: the program outlives the call, which reads and copies it.
        let fd = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
        };
        if fd >= 0 {
            break RawFd::try_from(fd).map_err(|_| libc::EBADF)?;
        }
        match last_errno() {
            libc::EACCES if !no_new_privs => {
                // SAFETY: integers only.
                if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
                    return Err(last_errno());
                }
                no_new_privs = true;
            }
            // A kernel with notifications but without this flag is unlikely; any other returns EINVAL again.
            libc::EINVAL if flags & libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW != 0 => {
                flags &= !libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
            }
            errno => return Err(errno),
        }
    };
    if supports_put(listener) {
        Ok(Installed { listener, no_new_privs })
    } else {
        // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
        unsafe { libc::close(listener) };
        Err(libc::ENOSYS)
    }
}

/// Whether this kernel's notifications fit the buffer of [`super::Listener`] (`SECCOMP_GET_NOTIF_SIZES`, `seccomp(2)`).
fn fits() -> Result<(), i32> {
    let mut sizes = libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
    // SAFETY: `sizes` is writable, has the kernel's layout and outlives the call.
    let asked =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0, std::ptr::from_mut(&mut sizes)) };
    if asked < 0 {
        return Err(last_errno());
    }
    let largest = usize::from(sizes.seccomp_notif.max(sizes.seccomp_notif_resp));
    if largest <= MAX_BYTES { Ok(()) } else { Err(libc::ENOSYS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets classic BPF on a `struct seccomp_data`, for the opcodes above.
    fn run(program: &[sock_filter], number: u32, arch: u32, arguments: [u64; 3]) -> u32 {
        let mut data = [0_u8; 64];
        data[0..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        for (at, argument) in arguments.iter().enumerate() {
            data[16 + 8 * at..24 + 8 * at].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut word) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { jt } else { jf });
            match code {
                LOAD => word = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
                JUMP => at += k as usize,
                EQUAL => at += jump(word == k),
                AT_LEAST => at += jump(word >= k),
                MORE => at += jump(word > k),
                RETURN => return k,
                _ => panic!("opcode {code:#x}"),
            }
        }
    }

    #[test]
    fn binds_and_listens_trigger_notifications_and_nothing_else() {
        let heard =
            |calls, number: i64, arguments| match run(steps(calls), u32::try_from(number).unwrap(), ARCH, arguments) {
                libc::SECCOMP_RET_USER_NOTIF => true,
                libc::SECCOMP_RET_ALLOW => false,
                other => panic!("{other:#x}"),
            };
        for calls in [Calls::Binds, Calls::BindsAndV6Only] {
            for (length, expected) in [
                (0, false),
                (2, false),
                // netlink
                (12, false),
                (15, false),
                (16, true),
                (24, true),
                (28, true),
                (110, true),
                (128, true),
                (129, false),
                (u64::from(u32::MAX), false),
                // The call takes an int: the upper half is ignored.
                (1 << 32, false),
                (1 << 32 | 16, true),
            ] {
                assert_eq!(heard(calls, libc::SYS_bind, [3, 0x7fff, length]), expected, "{length}");
            }
            assert!(heard(calls, libc::SYS_listen, [3, 0, 0]));
            let named = [libc::SYS_bind, libc::SYS_listen, libc::SYS_setsockopt, libc::SYS_getsockopt];
            for number in (0..600).filter(|n| !named.contains(n)) {
                for arguments in [[41, 41, 26], [30, 1, 30]] {
                    assert!(!heard(calls, number, arguments), "{number}");
                }
            }
            for (level, name, expected) in [(1, 30, true), (1, 4, false), (41, 26, false), (6, 30, false)] {
                assert_eq!(heard(calls, libc::SYS_getsockopt, [3, level, name]), expected, "{level} {name}");
            }
            let v6_only = calls == Calls::BindsAndV6Only;
            for (level, name, expected) in [(41, 26, v6_only), (41, 27, false), (0, 26, false), (6, 1, false)] {
                assert_eq!(heard(calls, libc::SYS_setsockopt, [3, level, name]), expected, "{level} {name}");
            }
        }
    }

    #[test]
    fn other_abis_are_left_alone() {
        const I386: u32 = 0x4000_0003;
        const X32: u32 = 0x4000_0000;
        for calls in [Calls::Binds, Calls::BindsAndV6Only] {
            for number in
                [libc::SYS_bind, libc::SYS_listen, libc::SYS_setsockopt, libc::SYS_getsockopt, 361, 363, 365, 366]
            {
                let number = u32::try_from(number).unwrap();
                for (number, arch) in [(number, I386), (number, !ARCH), (number, 0), (number | X32, ARCH)] {
                    for arguments in [[3, 41, 26], [3, 1, 30]] {
                        let said = run(steps(calls), number, arch, arguments);
                        assert_eq!(said, libc::SECCOMP_RET_ALLOW, "{number:#x} of {arch:#x}");
                    }
                }
            }
        }
    }
}
