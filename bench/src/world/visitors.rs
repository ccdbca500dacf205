//! Owns clients: a single visit, and a rush of them. Must not know what happens to the server meanwhile.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{Ipv4Addr, TcpStream};

use crate::clock::{MILLISECOND, SECOND, now, pause};
use crate::fail::{Context, Outcome, fail};
use crate::isolate::Companion;

/// How many clients a rush has, one per millisecond.
pub const RUSH: usize = 600;

/// What a client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Refused,
    CutOff,
    /// After this many nanoseconds.
    After(i64),
}

/// One client of a rush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    pub came: i64,
    pub answer: Answer,
}

impl Visit {
    const SIZE: usize = 16;

    /// For a pipe.
    fn to_bytes(self) -> [u8; Self::SIZE] {
        let answer = match self.answer {
            Answer::Refused => -1,
            Answer::CutOff => -2,
            Answer::After(time) => time,
        };
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.came.to_ne_bytes());
        bytes[8..].copy_from_slice(&answer.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let number = |at: usize| i64::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let answer = match number(8) {
            -1 => Answer::Refused,
            -2 => Answer::CutOff,
            time => Answer::After(time),
        };
        Self { came: number(0), answer }
    }
}

/// Connects, sends a request, and reads once.
pub fn visit(port: u16) -> Answer {
    let came = now();
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return Answer::Refused };
    // The shortest text that can be an answer: `HTTP/1.1 200`.
    match stream.write_all(b"GET / HTTP/1.1\r\n\r\n").and_then(|()| stream.read(&mut [0; 256])) {
        Ok(12..) => Answer::After(now() - came),
        _ => Answer::CutOff,
    }
}

/// # Errors
/// There is no answer within five seconds.
pub fn until_answered(port: u16) -> Outcome<()> {
    let deadline = now() + 5 * SECOND;
    while !matches!(visit(port), Answer::After(_)) {
        if now() > deadline {
            return fail(format_args!("nobody answers on port {port}"));
        }
        pause(MILLISECOND);
    }
    Ok(())
}

/// A crowd of clients that come one per millisecond, each in its own process: none waits for another.
pub struct Rush {
    began: i64,
    visitors: Vec<Companion>,
    visits: PipeReader,
    booth: PipeWriter,
}

impl Rush {
    /// # Errors
    /// No descriptor is left.
    pub fn begin() -> Outcome<Self> {
        // 600 visits of 16 bytes fit into a pipe: no client waits for its reader.
        let (visits, booth) = pipe().context("pipe")?;
        Ok(Self { began: now(), visitors: Vec::with_capacity(RUSH), visits, booth })
    }

    /// Waits for the time of the next client; its number.
    pub fn next(&self) -> Option<usize> {
        let number = self.visitors.len();
        if number == RUSH {
            return None;
        }
        pause(self.began + number as i64 * MILLISECOND - now());
        Some(number)
    }

    /// Starts that client.
    ///
    /// # Errors
    /// No process could be created.
    pub fn send(&mut self, port: u16) -> Outcome<()> {
        let booth = &mut self.booth;
        self.visitors.push(Companion::start(|| {
            let came = now();
            booth.write_all(&Visit { came, answer: visit(port) }.to_bytes()).context("a visit")
        })?);
        Ok(())
    }

    /// Waits for all of them.
    ///
    /// # Errors
    /// One never reported.
    pub fn end(self) -> Outcome<Visits> {
        let Self { visitors, mut visits, booth, .. } = self;
        drop(booth);
        let mut found = Vec::with_capacity(RUSH);
        for visitor in visitors {
            visitor.wait();
            let mut bytes = [0; Visit::SIZE];
            visits.read_exact(&mut bytes).context("a visit")?;
            found.push(Visit::from_bytes(bytes));
        }
        Ok(Visits(found))
    }
}

/// What a rush got.
pub struct Visits(Vec<Visit>);

impl Visits {
    fn count(&self, which: impl Fn(&Visit) -> bool) -> i64 {
        self.0.iter().filter(|visit| which(visit)).count() as i64
    }

    pub fn refused(&self) -> i64 {
        self.count(|visit| visit.answer == Answer::Refused)
    }

    /// Of the refused ones, those that came after this moment.
    pub fn refused_after(&self, moment: i64) -> i64 {
        self.count(|visit| visit.answer == Answer::Refused && visit.came > moment)
    }

    pub fn cut_off(&self) -> i64 {
        self.count(|visit| visit.answer == Answer::CutOff)
    }

    /// The longest time to an answer.
    pub fn longest(&self) -> i64 {
        let times =
            self.0.iter().filter_map(|visit| if let Answer::After(time) = visit.answer { Some(time) } else { None });
        times.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_goes_through_a_pipe() {
        for answer in [Answer::Refused, Answer::CutOff, Answer::After(0), Answer::After(7)] {
            let visit = Visit { came: 5, answer };
            assert_eq!(Visit::from_bytes(visit.to_bytes()), visit);
        }
    }

    #[test]
    fn what_a_rush_got_is_counted() {
        let visit = |came, answer| Visit { came, answer };
        let visits = Visits(vec![
            visit(1, Answer::Refused),
            visit(2, Answer::After(300)),
            visit(3, Answer::Refused),
            visit(4, Answer::CutOff),
            visit(5, Answer::After(20)),
        ]);
        let found = (visits.refused(), visits.refused_after(2), visits.cut_off(), visits.longest());
        assert_eq!(found, (2, 1, 1, 300));
    }

    #[test]
    fn nobody_is_refused_not_answered() {
        assert_eq!(visit(9), Answer::Refused);
    }
}
