//! Owns the options of every command as raw text: one field per option, with its help text. Must not know defaults, nor what a value means.

use std::ffi::OsString;

use clap::Parser;

use super::help::{self, Page, Paged};

/// Options of `run`, and the app's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Parser)]
#[command(name = "reberth run", override_help = "", version, args_override_self = true)]
pub struct Run {
    /// Ports to claim: [NAME=][ADDR:]PORT[/udp],...; 0 = any free port; may be repeated
    #[arg(short, long, value_name = "SPECS", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub port: Vec<OsString>,
    /// prod = wait 75s, no fallback; dev = no wait, next free port; test = any free port
    #[arg(long, value_name = "prod|dev|test")]
    pub profile: Option<OsString>,
    /// How long to wait for a busy port; 0s = not at all
    #[arg(long, value_name = "DURATION|forever", allow_hyphen_values = true)]
    pub wait: Option<OsString>,
    /// After the wait: give up, try N (100) adjacent ports, or take any free port
    #[arg(long, value_name = "none|next[:N]|any", allow_hyphen_values = true)]
    pub fallback: Option<OsString>,
    /// Delay between retries where the kernel sends no event
    #[arg(long, value_name = "MIN..MAX", allow_hyphen_values = true)]
    pub backoff: Option<OsString>,
    /// Give the app the listening socket: on = as a file descriptor (LISTEN_FDS), bind = in its own bind(2);
    /// auto = on if an argument uses {fd}
    #[arg(long, value_name = "auto|on|off|bind")]
    pub handover: Option<OsString>,
    /// Launch the app while the port is still busy; it waits in its bind. Implies --handover bind
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub prewarm: Option<OsString>,
    /// Share one socket among all instances with this name in one network namespace
    #[arg(long, value_name = "NAME")]
    pub share: Option<OsString>,
    /// Only instances that know the content of this file may share
    #[arg(long, value_name = "PATH")]
    pub share_secret_file: Option<OsString>,
    /// Relaunch the app at most N times if it loses its port before listening
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub relaunch: Option<OsString>,
    /// Write the ports actually used to this file
    #[arg(long, value_name = "PATH")]
    pub port_file: Option<OsString>,
    /// Also append the log to this file
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<OsString>,
    /// off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<OsString>,
    /// Format of the log lines on stderr
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<OsString>,
    /// Replace reberth with the app once the port is claimed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub exec: Option<OsString>,
    /// Forward signals to the app alone, or to its process group
    #[arg(long, value_name = "child|group")]
    pub signal_scope: Option<OsString>,
    /// Rewrite signals, such as TERM=QUIT; TO 0 or none drops the signal
    #[arg(long, value_name = "FROM=TO,...", allow_hyphen_values = true)]
    pub signal_map: Option<OsString>,
    /// Rewrite the app's exit codes, such as 143=0
    #[arg(long, value_name = "FROM=TO,...", allow_hyphen_values = true)]
    pub exit_map: Option<OsString>,
    /// At the first TERM, readiness fails immediately and the app gets the signal after this delay
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub drain: Option<OsString>,
    /// Time from the forwarded TERM, INT or QUIT to KILL; 0s = never kill
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub grace: Option<OsString>,
    /// Signal that reberth receives when its parent dies
    #[arg(long, value_name = "SIG", allow_hyphen_values = true)]
    pub parent_death_signal: Option<OsString>,
    /// What readiness checks: /path, http://..., https://..., tcp, tcp://host:port, grpc[:SERVICE],
    /// grpc://host:port[/SERVICE], unix:/sock[:/path]
    #[arg(long, value_name = "TARGET")]
    pub health: Option<OsString>,
    /// What liveness checks
    #[arg(long, value_name = "TARGET")]
    pub liveness: Option<OsString>,
    /// Stop the app with code 124 if it is not ready within this time
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub start_timeout: Option<OsString>,
    /// Claim and launch only after these targets are healthy; comma-separated, may be repeated
    #[arg(long, value_name = "TARGET,...", action = clap::ArgAction::Append)]
    pub after: Vec<OsString>,
    /// How long to wait for all --after targets; 0s = one attempt
    #[arg(long, value_name = "DURATION|forever", allow_hyphen_values = true)]
    pub after_wait: Option<OsString>,
    /// Once the app is ready, check liveness this often; stop the app with code 1 if it is unhealthy
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub exit_on_unhealthy: Option<OsString>,
    /// How many failures in a row make the app unhealthy
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub unhealthy_failures: Option<OsString>,
    /// Announce the app in this registry while it is ready: etcd://HOST[:2379][,HOST...]/PREFIX,
    /// etcd+tls://...; may be repeated
    #[arg(long, value_name = "URL", action = clap::ArgAction::Append)]
    pub register: Vec<OsString>,
    /// What to announce, if not the address that routes to the registry and the primary port
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub advertise: Option<OsString>,
    /// Pairs for the entry's Metadata
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub register_metadata: Option<OsString>,
    /// How long an entry outlives an instance that has disappeared
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub register_ttl: Option<OsString>,
    /// Folder for the state file
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<OsString>,
    /// Print what would be claimed, checked and launched, with the source of each setting, and do nothing
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub check: Option<OsString>,
    /// With --check, print JSON
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub json: Option<OsString>,
    /// The app and its arguments; everything after COMMAND is the app's own
    #[arg(value_name = "COMMAND", num_args = 0.., trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// Options of `keep`: those of `run` that are about ports and the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Parser)]
#[command(name = "reberth keep", override_help = "", version, args_override_self = true)]
pub struct Keep {
    /// Ports to hold: [NAME=][ADDR:]PORT[/udp],...
    #[arg(short, long, value_name = "SPECS", allow_hyphen_values = true, action = clap::ArgAction::Append)]
    pub port: Vec<OsString>,
    /// How long to wait for a busy port
    #[arg(long, value_name = "DURATION|forever", allow_hyphen_values = true)]
    pub wait: Option<OsString>,
    /// Only none: clients rely on this port, so it must not move
    #[arg(long, value_name = "none", allow_hyphen_values = true)]
    pub fallback: Option<OsString>,
    /// Delay between retries where the kernel sends no event
    #[arg(long, value_name = "MIN..MAX", allow_hyphen_values = true)]
    pub backoff: Option<OsString>,
    /// The name under which the ports are shared
    #[arg(long, value_name = "NAME")]
    pub share: Option<OsString>,
    /// Only instances that know the content of this file may share
    #[arg(long, value_name = "PATH")]
    pub share_secret_file: Option<OsString>,
    /// Write the ports actually used to this file
    #[arg(long, value_name = "PATH")]
    pub port_file: Option<OsString>,
    /// Also append the log to this file
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<OsString>,
    /// off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<OsString>,
    /// Format of the log lines on stderr
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<OsString>,
    /// Folder for the state file
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<OsString>,
}

impl From<Keep> for Run {
    fn from(keep: Keep) -> Self {
        Self {
            port: keep.port,
            wait: keep.wait,
            fallback: keep.fallback,
            backoff: keep.backoff,
            share: keep.share,
            share_secret_file: keep.share_secret_file,
            port_file: keep.port_file,
            log_file: keep.log_file,
            log: keep.log,
            log_format: keep.log_format,
            state_dir: keep.state_dir,
            ..Self::default()
        }
    }
}

/// Options of `healthcheck`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Parser)]
#[command(name = "reberth healthcheck", override_help = "", version, args_override_self = true)]
pub struct Healthcheck {
    /// Which probe to run
    #[arg(long, value_name = "readiness|liveness|startup")]
    pub probe: Option<OsString>,
    /// One deadline for connect, request and headers together
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub timeout: Option<OsString>,
    /// Retry until healthy, at most this long
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub wait: Option<OsString>,
    /// Delay between retries with --wait
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub interval: Option<OsString>,
    /// Status codes that count as healthy, such as 200-399,418
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub status: Option<OsString>,
    /// A header to send; may be repeated (in the variable: one per line)
    #[arg(long, value_name = "'K: V'", action = clap::ArgAction::Append)]
    pub header: Vec<OsString>,
    /// The request method
    #[arg(long, value_name = "METHOD")]
    pub method: Option<OsString>,
    /// Healthy only if the first 64 KiB of the body contain this
    #[arg(long, value_name = "TEXT")]
    pub body_contains: Option<OsString>,
    /// PEM bundle to trust for https and grpcs
    #[arg(long, value_name = "FILE")]
    pub ca: Option<OsString>,
    /// Do not verify the server's certificate
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub insecure: Option<OsString>,
    /// Client certificate to present, PEM, with --key
    #[arg(long, value_name = "FILE")]
    pub cert: Option<OsString>,
    /// The private key of --cert, PEM
    #[arg(long, value_name = "FILE")]
    pub key: Option<OsString>,
    /// The User-Agent to send
    #[arg(long, value_name = "UA")]
    pub user_agent: Option<OsString>,
    /// Print nothing when healthy
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub quiet: Option<OsString>,
    /// Folder of run's state file
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<OsString>,
    /// /path, :port/path, http://..., https://..., tcp, tcp://host:port, grpc[:SERVICE], grpc://host:port[/SERVICE],
    /// grpcs://..., fcgi://host:port/path, redis://host, postgres://host, mysql://host, unix:/sock[:/path], file:/path
    /// or dns:name
    #[arg(value_name = "TARGET")]
    pub target: Option<OsString>,
}

/// Options of `who`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Parser)]
#[command(name = "reberth who", override_help = "", version, args_override_self = true)]
pub struct Who {
    /// Keep running and print a line at each change, until a signal or until the output is closed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub watch: Option<OsString>,
    /// Print JSON
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub json: Option<OsString>,
    /// Folder of run's state file
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<OsString>,
    /// Ports as in 'run --port'; none = list all listeners
    #[arg(value_name = "PORT")]
    pub ports: Vec<OsString>,
}

/// Arguments of `install`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Parser)]
#[command(name = "reberth install", override_help = "", version)]
pub struct Install {
    /// A file, or an existing folder
    #[arg(value_name = "DEST")]
    pub dest: Option<OsString>,
}

macro_rules! paged {
    ($($command:ident: $page:ident),*) => {
        $(impl Paged for $command {
            const PAGE: &'static Page = &help::$page;
        })*
    };
}

paged!(Run: RUN, Keep: KEEP, Healthcheck: HEALTHCHECK, Who: WHO, Install: INSTALL);
