//! Owns what each setting means, in the words and groups of docs/settings.md. Must not know defaults, nor how a value is read.
//! Only the test that writes that page reads it, so no byte of it is in the binary.

/// Settings that belong together: long flag, without the dashes, and meaning.
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
                "ports to claim, comma-separated: `[NAME=][ADDR:]PORT[/udp]`; `0` = any free port; IPv6 as `[::1]:80`; without ADDR all \
                 addresses, v4 and v6; the first is the primary; `-p` may be repeated; `none` beats a `PORT` of the environment",
            ),
            ("profile", "`prod` = wait 75s, no fallback; `dev` = wait 0s, fallback `next`; `test` = port 0"),
            (
                "wait",
                "how long to wait for a busy port, one budget for all ports (the default outlasts TIME_WAIT, 60.9 s); `0s` = not at all",
            ),
            (
                "fallback",
                "after the wait: give up; the next free of N (100) adjacent ports; any free port \
                 ([published ports do not follow](faq.md#what-does---fallback-do-to-published-ports))",
            ),
            ("backoff", "pauses between tries where the kernel sends no event: doubling, with jitter"),
            (
                "relaunch",
                "if the app dies before it listens and someone else now holds its port: wait and launch again, at most N times",
            ),
            (
                "port-file",
                "write the ports really used, atomically, before the app starts: a line each, `PORT` or `NAME=PORT`; only a regular \
                 file, or none yet",
            ),
        ],
    },
    Group {
        title: "Handover",
        settings: &[
            (
                "handover",
                "give the app the bound, listening socket: `on` as a descriptor (`LISTEN_FDS`), `bind` in its own bind(2), for apps that \
                 can take none; `auto` = on when an argument uses `{fd}` ([which app takes what](handover.md))",
            ),
            ("prewarm", "launch the app while the port is still busy; it waits in its bind. Implies `--handover bind`"),
            (
                "share",
                "instances of this name in one network namespace use one socket. Implies `--handover bind`, or `on` where an argument \
                 uses `{fd}`",
            ),
            ("share-secret-file", "only who knows the file's content may share; without it, only the same uid"),
        ],
    },
    Group {
        title: "Signals and end",
        settings: &[
            ("signal-scope", "whom a forwarded signal reaches"),
            ("signal-map", "rewrite signals (`TERM=QUIT`); names or numbers; TO `0` or `none` drops it"),
            ("exit-map", "rewrite the app's exit codes (`143=0`)"),
            (
                "drain",
                "on the first TERM, INT or QUIT: readiness fails now, the app gets the signal after this delay; a second signal ends the \
                 delay",
            ),
            ("grace", "from the forwarded TERM, INT or QUIT to KILL; `0s` = never kill"),
            ("parent-death-signal", "signal to get when the parent dies"),
            ("exec", "replace reberth by the app once the port is claimed: no supervision"),
        ],
    },
    Group {
        title: "Health",
        settings: &[
            (
                "health",
                "what readiness asks: `/path` (on the primary port), `http://…`, or another of the [targets](probes.md#targets); where it \
                 is not set, `run` calls an app ready as soon as it listens",
            ),
            ("liveness", "what liveness asks"),
            (
                "start-timeout",
                "the app must become ready within this time, or it is stopped with a diagnosis and code 124",
            ),
            (
                "exit-on-unhealthy",
                "once ready, ask liveness this often, and stop an unhealthy app (grace, KILL) with code 1, so that a restart policy works \
                 on it",
            ),
            ("unhealthy-failures", "this many failures in a row make it unhealthy"),
            (
                "state-dir",
                "where the state file goes; where none works `run` says so and goes on: as PID 1 it holds the state in memory, for the \
                 same user and root",
            ),
        ],
    },
    Group {
        title: "Before the app",
        settings: &[
            (
                "after",
                "claim and launch only after these are healthy, all asked at once: any of the [targets](probes.md#targets) that names a \
                 host, a socket, a file or a name. May be repeated; separated by commas, in the variable by white space too; a comma \
                 inside is `%2C`",
            ),
            (
                "after-wait",
                "the budget for all of them; over: code 124, and each that failed with its last reason; `0s` = one try",
            ),
        ],
    },
    Group {
        title: "Registry",
        settings: &[
            (
                "register",
                "announce the port really taken in a registry while the app is ready: `etcd://HOST[:2379][,HOST…]/PREFIX`, \
                 `etcd+tls://…`; may be repeated, in the variable separated by white space ([discovery](discovery.md))",
            ),
            (
                "advertise",
                "what is announced; a port's own address is announced by itself where its spec names one that others reach",
            ),
            ("register-metadata", "goes into the entry's Metadata"),
            ("register-ttl", "how long an entry outlives an instance that vanished; whole seconds, `5s` to `1h`"),
        ],
    },
    Group {
        title: "Log",
        settings: &[
            ("log", "`off`, `error`, `warn`, `info`, `debug`, `trace`; to stderr, never stdout"),
            ("log-file", "append the log there too"),
            ("log-format", "colour only on a terminal, never with `NO_COLOR`"),
        ],
    },
];

/// The settings of `healthcheck`.
pub static HEALTHCHECK: [Group; 1] = [Group {
    title: "Options of `healthcheck`",
    settings: &[
        ("probe", "which question is asked"),
        (
            "timeout",
            "one clock over connect, request and headers: just below the kubelet's default of 1 s, so that the reason is printed before \
             the kill",
        ),
        ("wait", "ask until healthy or this time is over"),
        ("interval", "between two tries of `--wait`"),
        ("status", "healthy status codes"),
        ("header", "may be repeated; in the variable a line each"),
        ("method", "the request's method"),
        ("body-contains", "the first 64 KiB of the body must contain it; otherwise nobody looks at a body"),
        ("ca", "PEM bundle for https and grpcs"),
        ("insecure", "do not verify the certificate"),
        ("cert", "client certificate for https and grpcs, PEM with its chain; with `--key`"),
        ("key", "its private key, PEM without a passphrase"),
        ("user-agent", "the User-Agent that is sent"),
        ("quiet", "print nothing when healthy"),
    ],
}];
