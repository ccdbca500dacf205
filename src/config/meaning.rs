//! Owns what each setting means, in the words and groups of docs/settings.md. Must not know defaults, nor how a value is parsed.
//! Only the test that writes that page uses it, so none of it is in the binary.

/// A group of settings: long flag, without the dashes, and meaning.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    pub title: &'static str,
    pub settings: &'static [(&'static str, &'static str)],
}

/// The settings of `run`.
pub static RUN: [Group; 7] = [
    Group {
        title: "Ports",
        settings: &[
            (
                "port",
                "ports to claim, comma-separated: `[NAME=][ADDR:]PORT[/udp]`; `0` = any free port; IPv6 as `[::1]:80`; without ADDR, all \
                 addresses, v4 and v6; the first is the primary; `-p` may be repeated; `none` overrides `PORT` in the environment",
            ),
            ("profile", "`prod` = wait 75s, no fallback; `dev` = wait 0s, fallback `next`; `test` = port 0"),
            (
                "wait",
                "how long to wait for a busy port, in total for all ports (the default outlasts TIME_WAIT, 60.9 s); `0s` = do not wait",
            ),
            (
                "fallback",
                "after the wait: `none` = give up; `next` = take the next free one of N (100) adjacent ports; `any` = take any free port \
                 ([published ports do not follow](faq.md#what-does---fallback-do-to-published-ports))",
            ),
            ("backoff", "delay between retries where the kernel sends no event: doubling, with jitter"),
            (
                "relaunch",
                "if the app exits before it listens and another process now holds its port: wait and launch it again, at most N times",
            ),
            (
                "port-file",
                "write the ports actually used to this file, atomically, before the app starts: one per line, `PORT` or `NAME=PORT`; the \
                 path must be a regular file or not exist yet",
            ),
        ],
    },
    Group {
        title: "Handover",
        settings: &[
            (
                "handover",
                "give the app the bound, listening socket: `on` = as a file descriptor (`LISTEN_FDS`); `bind` = in its own bind(2), for \
                 apps that cannot take a descriptor; `auto` = `on` if an argument uses `{fd}` ([by framework](handover.md#by-framework))",
            ),
            ("prewarm", "launch the app while the port is still busy; it waits in its bind. Implies `--handover bind`"),
            (
                "share",
                "instances with this name in one network namespace use one socket. Implies `--handover bind`, or `on` if an argument \
                 uses `{fd}`",
            ),
            (
                "share-secret-file",
                "only instances that know the file's content may share; without it, only the same uid",
            ),
        ],
    },
    Group {
        title: "Signals and end",
        settings: &[
            ("signal-scope", "forward signals to the app alone, or to its process group"),
            ("signal-map", "rewrite signals (`TERM=QUIT`); names or numbers; TO `0` or `none` drops the signal"),
            ("exit-map", "rewrite the app's exit codes (`143=0`)"),
            (
                "drain",
                "at the first TERM, INT or QUIT: readiness fails at once, and the app gets the signal after this delay; a second signal \
                 ends the delay",
            ),
            ("grace", "time from the forwarded TERM, INT or QUIT to KILL; `0s` = never kill"),
            ("parent-death-signal", "signal that reberth receives when its parent dies"),
            ("exec", "replace reberth with the app once the port is claimed: no supervision"),
        ],
    },
    Group {
        title: "Health",
        settings: &[
            (
                "health",
                "what readiness checks: `/path` (on the primary port), `http://…`, or another of the [targets](probes.md#targets); if not \
                 set, `run` considers an app ready as soon as it listens",
            ),
            ("liveness", "what liveness checks"),
            (
                "start-timeout",
                "the app must become ready within this time, or it is stopped with a diagnosis and code 124",
            ),
            (
                "exit-on-unhealthy",
                "once the app is ready, check its liveness this often, and stop an unhealthy app (grace, KILL) with code 1, so that a \
                 restart policy applies",
            ),
            ("unhealthy-failures", "number of failures in a row that make the app unhealthy"),
            (
                "state-dir",
                "directory for the state file; if none works, `run` warns and continues: as PID 1 it keeps the state in memory, for the \
                 same user and root",
            ),
        ],
    },
    Group {
        title: "Before the app",
        settings: &[
            (
                "after",
                "claim and launch only after these are healthy, checked in parallel: any of the [targets](probes.md#targets) that names a \
                 host, a socket, a file or a name. May be repeated; comma-separated, in the variable also separated by white space; write \
                 a comma inside a target as `%2C`",
            ),
            (
                "after-wait",
                "how long to wait for all of them; then exit with code 124 and list each failed target with its last reason; `0s` = one \
                 try",
            ),
        ],
    },
    Group {
        title: "Registry",
        settings: &[
            (
                "register",
                "announce the port actually taken in a registry while the app is ready: `etcd://HOST[:2379][,HOST…]/PREFIX`, \
                 `etcd+tls://…`; may be repeated, in the variable separated by white space ([discovery](discovery.md))",
            ),
            (
                "advertise",
                "address and port to announce; not needed if the port's spec names an address that other hosts can reach",
            ),
            ("register-metadata", "pairs for the entry's Metadata"),
            (
                "register-ttl",
                "how long an entry outlives an instance that has disappeared; whole seconds, `5s` to `1h`",
            ),
        ],
    },
    Group {
        title: "Log",
        settings: &[
            ("log", "`off`, `error`, `warn`, `info`, `debug`, `trace`; to stderr, never stdout"),
            ("log-file", "also append the log to this file"),
            ("log-format", "form of the log lines; colour only on a terminal, never with `NO_COLOR`"),
        ],
    },
];

/// The settings of `healthcheck`.
pub static HEALTHCHECK: [Group; 1] = [Group {
    title: "Options of `healthcheck`",
    settings: &[
        ("probe", "which probe this is"),
        (
            "timeout",
            "deadline for connect, request and headers together: just below the kubelet's default of 1 s, so that the reason is printed \
             before the kill",
        ),
        ("wait", "retry until healthy, at most this long"),
        ("interval", "delay between retries with `--wait`"),
        ("status", "healthy status codes"),
        ("header", "header to send; may be repeated; in the variable, one per line"),
        ("method", "request method"),
        (
            "body-contains",
            "the first 64 KiB of the body must contain this text; without this option the body is not checked",
        ),
        ("ca", "PEM bundle of trusted certificates for https and grpcs"),
        ("insecure", "do not verify the certificate"),
        ("cert", "client certificate for https and grpcs, PEM with its chain; needs `--key`"),
        ("key", "private key of `--cert`, PEM without a passphrase"),
        ("user-agent", "User-Agent to send"),
        ("quiet", "print nothing when healthy"),
    ],
}];
