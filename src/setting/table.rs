//! Owns the table of all settings: flag, variable, default, group and meaning, a row for each. Help, `run --check`, the known `REBERTH_*`
//! names and the test that writes docs/settings.md read it. Must not know types, or how a value is parsed.

/// One setting: its long flag, its variable and its default as the user reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Without the dashes.
    pub flag: &'static str,
    pub variable: &'static str,
    pub default: &'static str,
    pub group: Group,
}

/// What a setting is about: a heading in `--help`, on the man pages and in docs/settings.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Ports,
    Handover,
    Signals,
    Health,
    BeforeTheApp,
    Registry,
    Log,
    Healthcheck,
}

impl Group {
    /// The groups of `run`, in the order of the pages.
    pub const OF_RUN: [Self; 7] =
        [Self::Ports, Self::Handover, Self::Signals, Self::Health, Self::BeforeTheApp, Self::Registry, Self::Log];

    pub fn heading(self) -> &'static str {
        match self {
            Self::Ports => "Ports",
            Self::Handover => "Handover",
            Self::Signals => "Signals and exit",
            Self::Health => "Health",
            Self::BeforeTheApp => "Before the app",
            Self::Registry => "Registry",
            Self::Log => "Log",
            Self::Healthcheck => "Options of `healthcheck`",
        }
    }
}

/// Makes two tables of the same rows. What a setting means, in Markdown for docs/settings.md, stands apart: nothing in the binary reads it,
/// so the linker drops it.
macro_rules! settings {
    ($(#[$doc:meta])* $table:ident, $meanings:ident;
     $($flag:literal, $variable:literal, $default:expr, $group:ident: $meaning:literal;)*) => {
        $(#[$doc])*
        pub static $table: &[Setting] =
            &[$(Setting { flag: $flag, variable: $variable, default: $default, group: Group::$group }),*];

        /// What each of them means, in the same order.
        pub static $meanings: &[&str] = &[$($meaning),*];
    };
}

settings! {
    /// The settings of `run`, in the order of its fields.
    RUN, MEANINGS_OF_RUN;
    "port", "REBERTH_PORT", "PORT, else none", Ports:
        "ports to claim, comma-separated: `[NAME=][ADDR:]PORT[/udp]`; `0` = any free port; IPv6 as `[::1]:80`; without ADDR, all \
         addresses, v4 and v6; the first is the primary; `-p` may be repeated; `none` overrides `PORT` in the environment";
    "profile", "REBERTH_PROFILE", "prod", Ports:
        "`prod` = wait 75s, no fallback; `dev` = wait 0s, fallback `next`; `test` = port 0";
    "wait", "REBERTH_WAIT", "75s", Ports:
        "how long to wait for a busy port, in total for all ports (the default outlasts TIME_WAIT, 60.9 s); `0s` = do not wait";
    "fallback", "REBERTH_FALLBACK", "none", Ports:
        "after the wait: `none` = give up; `next` = take the next free one of N (100) adjacent ports; `any` = take any free port \
         ([published ports do not follow](faq.md#what-does---fallback-do-to-published-ports))";
    "backoff", "REBERTH_BACKOFF", "10ms..1s", Ports:
        "delay between retries where the kernel sends no event: doubling, with jitter";
    "handover", "REBERTH_HANDOVER", "auto", Handover:
        "give the app the bound, listening socket: `on` = as a file descriptor (`LISTEN_FDS`); `bind` = in its own bind(2), for \
         apps that cannot take a descriptor; `auto` = `on` if an argument uses `{fd}` ([by framework](handover.md#by-framework))";
    "prewarm", "REBERTH_PREWARM", "off", Handover:
        "launch the app while the port is still busy; it waits in its bind. Implies `--handover bind`";
    "share", "REBERTH_SHARE", "none", Handover:
        "instances with this name in one network namespace use one socket. Implies `--handover bind`, or `on` if an argument \
         uses `{fd}`";
    "share-secret-file", "REBERTH_SHARE_SECRET_FILE", "none", Handover:
        "only instances that know the file's content may share; without it, only the same uid";
    "relaunch", "REBERTH_RELAUNCH", "3", Ports:
        "if the app exits before it listens and another process now holds its port: wait and launch it again, at most N times";
    "port-file", "REBERTH_PORT_FILE", "none", Ports:
        "write the ports actually used to this file, atomically, before the app starts: one per line, `PORT` or `NAME=PORT`; the \
         path must be a regular file or not exist yet";
    "log-file", "REBERTH_LOG_FILE", "none", Log:
        "also append the log to this file";
    "log", "REBERTH_LOG", "info", Log:
        "`off`, `error`, `warn`, `info`, `debug`, `trace`; to stderr, never stdout";
    "log-format", "REBERTH_LOG_FORMAT", "text", Log:
        "form of the log lines; colour only on a terminal, never with `NO_COLOR`";
    "exec", "REBERTH_EXEC", "off", Signals:
        "replace reberth with the app once the port is claimed: no supervision";
    "signal-scope", "REBERTH_SIGNAL_SCOPE", "child", Signals:
        "forward signals to the app alone, or to its process group";
    "signal-map", "REBERTH_SIGNAL_MAP", "none", Signals:
        "rewrite signals (`TERM=QUIT`); names or numbers; TO `0` or `none` drops the signal";
    "exit-map", "REBERTH_EXIT_MAP", "none", Signals:
        "rewrite the app's exit codes (`143=0`)";
    "drain", "REBERTH_DRAIN", "0s", Signals:
        "at the first TERM, INT or QUIT: readiness fails at once, and the app gets the signal after this delay; a second signal \
         ends the delay";
    "grace", "REBERTH_GRACE", "8s", Signals:
        "time from the forwarded TERM, INT or QUIT to KILL; `0s` = never kill";
    "parent-death-signal", "REBERTH_PARENT_DEATH_SIGNAL", "none", Signals:
        "signal that reberth receives when its parent dies";
    "health", "REBERTH_HEALTH", "/", Health:
        "what readiness checks: `/path` (on the primary port), `http://…`, or another of the [targets](probes.md#targets); if not \
         set, `run` considers an app ready as soon as it listens";
    "liveness", "REBERTH_LIVENESS", "as --health", Health:
        "what liveness checks";
    "start-timeout", "REBERTH_START_TIMEOUT", "off", Health:
        "the app must become ready within this time, or it is stopped with a diagnosis and code 124";
    "after", "REBERTH_AFTER", "none", BeforeTheApp:
        "claim and launch only after these are healthy, checked in parallel: any of the [targets](probes.md#targets) that names a \
         host, a socket, a file or a name. May be repeated; comma-separated, in the variable also separated by white space; write \
         a comma inside a target as `%2C`";
    "after-wait", "REBERTH_AFTER_WAIT", "60s", BeforeTheApp:
        "how long to wait for all `--after` targets; then exit with code 124 and list each failed target with its last reason; `0s` = one \
         try";
    "exit-on-unhealthy", "REBERTH_EXIT_ON_UNHEALTHY", "off", Health:
        "once the app is ready, check its liveness this often, and stop an unhealthy app (grace, KILL) with code 1, so that a \
         restart policy applies";
    "unhealthy-failures", "REBERTH_UNHEALTHY_FAILURES", "3", Health:
        "number of failures in a row that make the app unhealthy";
    "register", "REBERTH_REGISTER", "none", Registry:
        "announce the port actually taken in a registry while the app is ready: `etcd://HOST[:2379][,HOST…]/PREFIX`, \
         `etcd+tls://…`; may be repeated, in the variable separated by white space ([discovery](discovery.md))";
    "advertise", "REBERTH_ADVERTISE", "the address that routes to the registry, and the primary port", Registry:
        "address and port to announce; not needed if the port's spec names an address that other hosts can reach";
    "register-metadata", "REBERTH_REGISTER_METADATA", "none", Registry:
        "pairs for the entry's Metadata";
    "register-ttl", "REBERTH_REGISTER_TTL", "15s", Registry:
        "how long an entry outlives an instance that has disappeared; whole seconds, `5s` to `1h`";
    "state-dir", "REBERTH_STATE_DIR", "the first writable of /run, /dev/shm, /tmp", Health:
        "directory for the state file; if none works, `run` warns and continues: as PID 1 it keeps the state in memory, for the \
         same user and root";
}

settings! {
    /// The settings of `healthcheck`, in the order of its help. It takes `--state-dir` too, with `run`'s variable.
    HEALTHCHECK, MEANINGS_OF_HEALTHCHECK;
    "probe", "REBERTH_HEALTH_PROBE", "readiness", Healthcheck:
        "which probe to answer: readiness, liveness or startup";
    "timeout", "REBERTH_HEALTH_TIMEOUT", "900ms", Healthcheck:
        "deadline for connect, request and headers together: just below the kubelet's default of 1 s, so that the reason is printed \
         before the kill";
    "wait", "REBERTH_HEALTH_WAIT", "0s", Healthcheck:
        "retry until healthy, at most this long";
    "interval", "REBERTH_HEALTH_INTERVAL", "250ms", Healthcheck:
        "delay between retries with `--wait`";
    "status", "REBERTH_HEALTH_STATUS", "200-399", Healthcheck:
        "healthy status codes";
    "header", "REBERTH_HEALTH_HEADER", "none", Healthcheck:
        "header to send; may be repeated; in the variable, one per line";
    "method", "REBERTH_HEALTH_METHOD", "GET", Healthcheck:
        "request method";
    "body-contains", "REBERTH_HEALTH_BODY_CONTAINS", "none", Healthcheck:
        "the first 64 KiB of the body must contain this text; without this option the body is not checked";
    "ca", "REBERTH_HEALTH_CA", "the system's store", Healthcheck:
        "PEM bundle of trusted certificates for https and grpcs";
    "insecure", "REBERTH_HEALTH_INSECURE", "off", Healthcheck:
        "do not verify the certificate";
    "cert", "REBERTH_HEALTH_CERT", "none", Healthcheck:
        "client certificate for https and grpcs, PEM with its chain; needs `--key`";
    "key", "REBERTH_HEALTH_KEY", "none", Healthcheck:
        "private key of `--cert`, PEM without a passphrase";
    "user-agent", "REBERTH_HEALTH_USER_AGENT", concat!("reberth/", env!("CARGO_PKG_VERSION")), Healthcheck:
        "User-Agent to send";
    "quiet", "REBERTH_HEALTH_QUIET", "off", Healthcheck:
        "print nothing when healthy";
}

/// Every variable of every command.
pub fn variables() -> impl Iterator<Item = &'static str> {
    RUN.iter().chain(HEALTHCHECK).map(|setting| setting.variable)
}

/// The setting of a flag of `run`, or of `healthcheck` (true). `who` shares `run`'s.
pub fn of_flag(flag: &str, healthcheck: bool) -> Option<&'static Setting> {
    let own = if healthcheck { HEALTHCHECK } else { RUN };
    let shared = || RUN.iter().filter(|setting| setting.flag == "state-dir");
    own.iter().chain(shared()).find(|setting| setting.flag == flag)
}
