//! Owns the same checks without a fuzzer: over every seed, and over mutations of it that are the same in each run. Must not
//! know what a check promises.

use std::path::Path;

use super::CHECKS;

/// Mutations of each seed.
const ROUNDS: usize = 100;

/// Tokens of the grammars, which random bytes would rarely hit.
const WORDS: [&[u8]; 24] = [
    b"\0",
    b"\0\0",
    b"=",
    b",",
    b":",
    b"/udp",
    b"[::1]:",
    b"0",
    b"65535",
    b"99999999999999999999",
    b"1h",
    b"{port}",
    b"{fd.admin}",
    b"{",
    b"}",
    b"\n",
    b"\r\n\r\n",
    b"://",
    b"..",
    b"\xff",
    b"\x7f",
    b"TERM=",
    b"--",
    b"%",
];

/// Marsaglia's xorshift64: the numbers must be the same everywhere, not unpredictable.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let to = at + random.below(bytes.len() - at + 1).min(random.below(16));
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..to, [])),
            2 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            3 => drop(
                bytes.splice(at..at, seed[at.min(seed.len())..to.min(seed.len()).max(at.min(seed.len()))].to_vec()),
            ),
            _ if at < bytes.len() => bytes[at] = random.below(256) as u8,
            _ => bytes.push(random.below(256) as u8),
        }
    }
    bytes
}

#[test]
fn every_check_holds_for_its_seeds_and_their_mutations() {
    for (name, check) in CHECKS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} is empty", folder.display());
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for path in paths {
            let seed = std::fs::read(&path).unwrap();
            let play = |input: &[u8]| {
                let outcome = std::panic::catch_unwind(|| check(input));
                assert!(outcome.is_ok(), "{name}, from {}: {:?}", path.display(), input.escape_ascii().to_string());
            };
            play(&seed);
            for _ in 0..ROUNDS {
                play(&mutated(&seed, &mut random));
            }
        }
    }
}

#[test]
fn a_broken_promise_fails_the_check() {
    // The negative control: a check fails if its promise is broken.
    assert!(std::panic::catch_unwind(|| assert!(super::is_one_line("two\nlines"))).is_err());
    assert!(!super::is_one_line("") && super::is_one_line("one line"));
}
