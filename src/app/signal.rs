//! Owns the text forms for signals: names and numbers, rewriting (`--signal-map`), and scope (`--signal-scope`). Must not know when a
//! signal is sent.

use crate::setting::value::{is, pairs, word};
use crate::sys::signal::{RTMAX, RTMIN};

/// Which processes a forwarded signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalScope {
    /// The app alone.
    Child,
    /// The app's whole process group.
    Group,
}

/// Rewritten signals. A signal that is not listed is forwarded unchanged; `None` drops it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignalMap(pub Vec<(i32, Option<i32>)>);

impl SignalMap {
    /// What the app gets when reberth receives `signal`; `None`: the signal is dropped.
    pub fn apply(&self, signal: i32) -> Option<i32> {
        self.0.iter().find(|(from, _)| *from == signal).map_or(Some(signal), |(_, to)| *to)
    }
}

const NAMES: [(&str, i32); 34] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    // Older names of the same numbers.
    ("IOT", libc::SIGABRT),
    ("POLL", libc::SIGIO),
    ("CLD", libc::SIGCHLD),
];

const FORM: &str = "a signal is a name such as TERM, SIGTERM or RTMIN+3, or a number from 1 to 64";

/// A signal by name (with or without `SIG`, in any case, `RTMIN+n` and `RTMAX-n` included) or by number, 1 to 64.
pub fn signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        Some(*number)
    } else if let Some(offset) = name.strip_prefix("RTMIN") {
        offset_of(offset, '+').map(|offset| RTMIN + offset)
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        offset_of(offset, '-').map(|offset| RTMAX - offset)
    } else {
        digits(text).filter(|number| (1..=RTMAX).contains(number))
    };
    number.ok_or_else(|| FORM.into())
}

/// The n of `RTMIN+n`: an empty text is 0, and n stays within the real-time signals.
fn offset_of(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    digits(text.strip_prefix(sign)?).filter(|offset| *offset <= RTMAX - RTMIN)
}

fn digits(text: &str) -> Option<i32> {
    Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// `--parent-death-signal`: a signal, or `none`.
pub fn death_signal(text: &str) -> Result<Option<i32>, String> {
    if is(text, "none") { Ok(None) } else { signal(text).map(Some) }
}

/// The name without `SIG`, as users write it; the number of a signal without a name.
pub fn name(number: i32) -> String {
    let name = crate::sys::signal::name(number);
    let short = name.strip_prefix("SIG").or_else(|| name.strip_prefix("signal "));
    short.unwrap_or(&name).to_owned()
}

/// The text form of `--signal-scope`.
pub fn scope(text: &str) -> Result<SignalScope, String> {
    word(text, &[("child", SignalScope::Child), ("group", SignalScope::Group)])
}

/// `FROM=TO,...`. A FROM that is never forwarded is refused: the map would have no effect without saying so.
pub fn map(text: &str) -> Result<SignalMap, String> {
    let from = |text: &str| match signal(text)? {
        never @ (libc::SIGKILL | libc::SIGSTOP | libc::SIGCHLD) => {
            Err(format!("{} is never forwarded, so it cannot be rewritten", name(never)))
        }
        number => Ok(number),
    };
    let to = |text: &str| match text {
        "0" => Ok(None),
        none if is(none, "none") => Ok(None),
        some => signal(some).map(Some),
    };
    pairs(text, "a signal map is FROM=TO,... such as TERM=QUIT,HUP=none", from, to).map(SignalMap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("TERM", 15),
            ("sigterm", 15),
            ("SigTerm", 15),
            ("15", 15),
            ("1", 1),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmin+30", 64),
            ("RTMAX", 64),
            ("RTMAX-1", 63),
            ("RTMAX-30", 34),
            ("CLD", 17),
            ("POLL", 29),
            ("IOT", 6),
        ] {
            assert_eq!(signal(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "0",
            "65",
            "-1",
            "+15",
            "TERMX",
            "SIG",
            "SIGSIGTERM",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX+1",
            "RTMIN+",
            "15 ",
            "SIG15",
        ] {
            assert!(signal(bad).is_err(), "{bad}");
        }
        for number in 1..=64 {
            assert_eq!(signal(&name(number)), Ok(number));
            // What is logged can be typed. 32 and 33 are reserved by the C libraries and have no name.
            let logged = crate::sys::signal::name(number);
            assert!(
                signal(&logged) == Ok(number) || logged == format!("signal {number}") && [32, 33].contains(&number)
            );
        }
        assert_eq!(
            (name(15), name(6), name(37), name(33)),
            ("TERM".into(), "ABRT".into(), "RTMIN+3".into(), "33".into())
        );
    }

    #[test]
    fn maps() {
        let want = SignalMap(vec![(15, Some(3)), (1, None), (10, None), (37, Some(15))]);
        assert_eq!(map("TERM=QUIT,HUP=0, usr1 = none ,RTMIN+3=15"), Ok(want));
        assert_eq!(map("none"), Ok(SignalMap::default()));
        for (bad, reason) in [
            ("KILL=TERM", "KILL is never forwarded"),
            ("STOP=TERM", "STOP is never forwarded"),
            ("SIGCHLD=TERM", "CHLD is never forwarded"),
            ("17=15", "CHLD is never forwarded"),
            ("TERM=QUIT,15=INT", "15 comes twice"),
            ("TERM", "no '='"),
            ("TERM=", "a signal is a name"),
            ("=TERM", "a signal is a name"),
            ("TERM=QUIT,", "no '='"),
            ("0=TERM", "a signal is a name"),
        ] {
            assert!(
                map(bad).is_err_and(|got| got.contains(reason) && got.contains("FROM=TO")),
                "{bad}: {:?}",
                map(bad)
            );
        }
    }
}
