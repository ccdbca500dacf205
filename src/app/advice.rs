//! Owns the messages about the launch of an app and about its exit. Must not know when they are logged.

use std::io;
use std::time::Duration;

use crate::error::words;

/// For an app whose binds are intercepted and whose file is setuid or has capabilities.
pub const NO_NEW_PRIVS: &str = "the app's file is setuid or has capabilities, which it does not get: to intercept its bind (--handover bind), the kernel requires no_new_privs; give reberth CAP_SYS_ADMIN, or do not set --handover bind";

/// How to run common daemons in the foreground.
const FOREGROUND: &str =
    "run it in the foreground (nginx -g 'daemon off;', httpd -DFOREGROUND, redis-server --daemonize no, php-fpm -F)";

/// Why the app's binds cannot be intercepted, and how to fix it.
pub fn cannot_intercept(why: &io::Error) -> String {
    let (reason, cure) = match why.raw_os_error() {
        Some(libc::EBUSY) => (
            "another program already intercepts this container's system calls (a seccomp notify profile)",
            "use another profile, or none",
        ),
        Some(libc::EPERM | libc::EACCES) => (
            "the seccomp profile or sandbox refuses seccomp(2)",
            "allow it, as Docker's and containerd's default profiles do",
        ),
        Some(libc::ENOSYS | libc::EINVAL) => {
            ("this kernel does not support it (Linux before 5.9, gVisor, an emulator)", "use a newer kernel")
        }
        _ => ("the kernel refuses it", "see seccomp(2)"),
    };
    format!(
        "--handover bind (REBERTH_HANDOVER) is not available here: {reason}: {}; continuing as with --handover off; to fix it: {cure}",
        words(why)
    )
}

/// The app has handed its work to a background process, given by pid and command line, and exited.
pub fn went_into_background(app: i32, (pid, command): &(i32, String), port: u16) -> String {
    format!(
        "the app (pid {app}) put itself into the background and exited: its process {pid} ({command}) was serving port {port} and is stopped now, as everything is when the app exits; {FOREGROUND}, and upgrade it with a new container"
    )
}

pub fn left_serving((pid, command): &(i32, String), port: u16) -> String {
    format!("process {pid} ({command}), left behind by the app, was still serving port {port}: it is stopped now")
}

pub fn exited_before_listening(app: i32, port: u16) -> String {
    format!(
        "the app (pid {app}) exited before it listened on port {port}, and left processes behind that are stopped now; if it puts itself into the background, {FOREGROUND}"
    )
}

pub fn not_in_time(app: i32, limit: Duration) -> String {
    format!("the app (pid {app}) is not ready {limit:?} after its launch (--start-timeout): stopping it")
}

pub fn failing(failed: u32, limit: u32, reason: &str) -> String {
    format!("the app fails its liveness check ({failed} of {limit} in a row, --exit-on-unhealthy): {reason}")
}

pub fn unhealthy(app: i32, limit: u32, reason: &str) -> String {
    format!("the app (pid {app}) is unhealthy, {limit} failures in a row (--exit-on-unhealthy): stopping it: {reason}")
}
