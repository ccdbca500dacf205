//! Owns the names and defaults of all settings. Help, the list of known `REBERTH_*` names and the test that writes docs/settings.md use
//! this table. Must not know types, or how a value is parsed.

/// One setting: its long flag, its variable, and its default as shown to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Without the dashes.
    pub flag: &'static str,
    pub variable: &'static str,
    pub default: &'static str,
}

const fn setting(flag: &'static str, variable: &'static str, default: &'static str) -> Setting {
    Setting { flag, variable, default }
}

/// The settings of `run`, in the order of its help.
pub static RUN: [Setting; 33] = [
    setting("port", "REBERTH_PORT", "PORT, else none"),
    setting("profile", "REBERTH_PROFILE", "prod"),
    setting("wait", "REBERTH_WAIT", "75s"),
    setting("fallback", "REBERTH_FALLBACK", "none"),
    setting("backoff", "REBERTH_BACKOFF", "10ms..1s"),
    setting("handover", "REBERTH_HANDOVER", "auto"),
    setting("prewarm", "REBERTH_PREWARM", "off"),
    setting("share", "REBERTH_SHARE", "none"),
    setting("share-secret-file", "REBERTH_SHARE_SECRET_FILE", "none"),
    setting("relaunch", "REBERTH_RELAUNCH", "3"),
    setting("port-file", "REBERTH_PORT_FILE", "none"),
    setting("log-file", "REBERTH_LOG_FILE", "none"),
    setting("log", "REBERTH_LOG", "info"),
    setting("log-format", "REBERTH_LOG_FORMAT", "text"),
    setting("exec", "REBERTH_EXEC", "off"),
    setting("signal-scope", "REBERTH_SIGNAL_SCOPE", "child"),
    setting("signal-map", "REBERTH_SIGNAL_MAP", "none"),
    setting("exit-map", "REBERTH_EXIT_MAP", "none"),
    setting("drain", "REBERTH_DRAIN", "0s"),
    setting("grace", "REBERTH_GRACE", "8s"),
    setting("parent-death-signal", "REBERTH_PARENT_DEATH_SIGNAL", "none"),
    setting("health", "REBERTH_HEALTH", "/"),
    setting("liveness", "REBERTH_LIVENESS", "as --health"),
    setting("start-timeout", "REBERTH_START_TIMEOUT", "off"),
    setting("after", "REBERTH_AFTER", "none"),
    setting("after-wait", "REBERTH_AFTER_WAIT", "60s"),
    setting("exit-on-unhealthy", "REBERTH_EXIT_ON_UNHEALTHY", "off"),
    setting("unhealthy-failures", "REBERTH_UNHEALTHY_FAILURES", "3"),
    setting("register", "REBERTH_REGISTER", "none"),
    setting("advertise", "REBERTH_ADVERTISE", "the address that leads to the registry, the primary port"),
    setting("register-metadata", "REBERTH_REGISTER_METADATA", "none"),
    setting("register-ttl", "REBERTH_REGISTER_TTL", "15s"),
    setting("state-dir", "REBERTH_STATE_DIR", "first that works: /run, /dev/shm, /tmp"),
];

/// The settings of `healthcheck`, in the order of its help. It also takes `--state-dir`, with `run`'s variable.
pub static HEALTHCHECK: [Setting; 14] = [
    setting("probe", "REBERTH_HEALTH_PROBE", "readiness"),
    setting("timeout", "REBERTH_HEALTH_TIMEOUT", "900ms"),
    setting("wait", "REBERTH_HEALTH_WAIT", "0s"),
    setting("interval", "REBERTH_HEALTH_INTERVAL", "250ms"),
    setting("status", "REBERTH_HEALTH_STATUS", "200-399"),
    setting("header", "REBERTH_HEALTH_HEADER", "none"),
    setting("method", "REBERTH_HEALTH_METHOD", "GET"),
    setting("body-contains", "REBERTH_HEALTH_BODY_CONTAINS", "none"),
    setting("ca", "REBERTH_HEALTH_CA", "the system's store"),
    setting("insecure", "REBERTH_HEALTH_INSECURE", "off"),
    setting("cert", "REBERTH_HEALTH_CERT", "none"),
    setting("key", "REBERTH_HEALTH_KEY", "none"),
    setting("user-agent", "REBERTH_HEALTH_USER_AGENT", concat!("reberth/", env!("CARGO_PKG_VERSION"))),
    setting("quiet", "REBERTH_HEALTH_QUIET", "off"),
];

/// Every variable of every command.
pub fn variables() -> impl Iterator<Item = &'static str> {
    RUN.iter().chain(&HEALTHCHECK).map(|setting| setting.variable)
}

/// The setting of a flag of `run`, or of `healthcheck` (true). `who` shares `run`'s.
pub fn of_flag(flag: &str, healthcheck: bool) -> Option<&'static Setting> {
    let own: &'static [Setting] = if healthcheck { &HEALTHCHECK } else { &RUN };
    let shared = || RUN.iter().filter(|setting| setting.flag == "state-dir");
    own.iter().chain(shared()).find(|setting| setting.flag == flag)
}
