//! A whole healthcheck against a server that answers with libFuzzer's bytes: one byte of options, then one answer per connection, separated
//! by two NULs. The last answer is repeated if redirects need more.
#![no_main]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use reberth::config::{Mode, decide};
use reberth::health::probe;
use reberth::health::probe::answer::Status;
use reberth::health::resolved::ResolvedTarget;
use reberth::health::terms::Terms;
use reberth::health::verdict::Verdict;

static ANSWERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Serves the answers in `ANSWERS` for as long as the fuzzer runs.
fn server() -> &'static PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("reberth-fuzz-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let answer = {
                    let mut answers = ANSWERS.lock().unwrap();
                    if answers.len() > 1 { answers.remove(0) } else { answers.first().cloned().unwrap_or_default() }
                };
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(&answer);
            }
        });
        path
    })
}

fn terms(options: u8) -> Terms {
    let mut words = vec!["reberth", "healthcheck", "--timeout", "10s"];
    words.extend(
        ["GET", "HEAD", "POST", "GET"]
            .get(usize::from(options & 3))
            .map(|method| ["--method", method])
            .into_iter()
            .flatten(),
    );
    if options & 4 != 0 {
        words.extend(["--body-contains", "ok"]);
    }
    if options & 8 != 0 {
        words.extend(["--status", "200,301-302"]);
    }
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    match decide(&words, &[]).mode {
        Ok(Mode::Healthcheck(settings)) => settings.terms,
        other => panic!("{other:?}"),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((options, rest)) = data.split_first() else { return };
    let mut answers: Vec<Vec<u8>> = Vec::new();
    let mut rest = rest;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\0\0") {
        answers.push(rest[..at].to_vec());
        rest = &rest[at + 2..];
    }
    answers.push(rest.to_vec());
    *ANSWERS.lock().unwrap() = answers;
    let terms = terms(*options);
    let begun = Instant::now();
    let target = ResolvedTarget::HttpOverUnix(server().clone(), "/a/b?c".into());
    let answer = probe::run(&target, &terms, None, terms.timeout);
    let (healthy, reason) = match answer.outcome {
        Ok(reason) => (true, reason),
        Err(reason) => (false, reason),
    };
    answer.closing.close();
    // The server answers immediately, so any delay comes from the probe.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}: {reason}", begun.elapsed());
    assert!(!healthy || matches!(answer.status, Some(Status::Http(200..400))), "{:?} {reason}", answer.status);
    let verdict = Verdict { healthy, about: answer.shown, status: answer.status, reason, needs_settings: false };
    let line = verdict.line(Duration::ZERO);
    let text = line.strip_suffix('\n').expect("a line ends");
    assert!(!text.contains(char::is_control) && line.len() <= 4096, "{line:?}");
});
