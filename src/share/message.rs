//! Owns the messages of the exchange, all of one fixed size, and the proofs in them. Pure. Must not know sockets.
//!
//! `hello` (requester) → `challenge` (provider) → `prove` (requester) → `grant` (provider), with the descriptors. Each
//! side proves that it knows the secret with an HMAC over both nonces, so that a recorded exchange cannot be replayed.
//! The secret itself is never sent.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::port::spec::{Protocol, Spec};

/// Bytes of every message.
pub const SIZE: usize = 128;
/// The start of every message, and the protocol version.
const MAGIC: [u8; 8] = *b"reberth\0";
const VERSION: u16 = 1;

/// The content of the file that `--share-secret-file` names.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A random number for one exchange.
pub type Nonce = [u8; 32];
pub type Proof = [u8; 32];
/// The first 12 digits of a container's id; zeros if there is none. For log lines only.
pub type Container = [u8; 12];

/// As text for a log line.
pub fn container_words(container: &Container) -> String {
    let id: String = container.iter().filter(|byte| byte.is_ascii_hexdigit()).map(|byte| char::from(*byte)).collect();
    if id.is_empty() { String::new() } else { format!(", container {id}") }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Uid,
    /// The provider has a secret, and the requester has none, or a wrong one.
    Secret,
    /// The requester has a secret, and the provider has none.
    NoSecret,
    Version,
    /// The provider has nothing to give at the moment.
    Empty,
    Busy,
}

impl Refusal {
    const ALL: [Self; 6] = [Self::Uid, Self::Secret, Self::NoSecret, Self::Version, Self::Empty, Self::Busy];

    fn code(self) -> u8 {
        Self::ALL.iter().position(|other| *other == self).and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(u8::MAX)
    }

    fn of(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// For the requester's log.
    pub fn words(self) -> &'static str {
        match self {
            Self::Uid => "it runs as another user; give all instances one --user, or one --share-secret-file",
            Self::Secret => "it has another secret; give all instances the same --share-secret-file",
            Self::NoSecret => {
                "it has no secret, and this instance has one; give all instances the same --share-secret-file"
            }
            Self::Version => "it speaks another version of the exchange; use one version of reberth",
            Self::Empty => "it has no socket to give at the moment",
            Self::Busy => "too many instances contact it at the same time",
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The requester's nonce, the port, whether it has a secret, and its container.
    Hello {
        nonce: Nonce,
        port: u16,
        udp: bool,
        secret: bool,
        container: Container,
    },
    Challenge {
        nonce: Nonce,
    },
    Refused(Refusal),
    Prove {
        proof: Proof,
    },
    /// Sent with two descriptors: the port's socket, then the meeting point's.
    Grant {
        proof: Proof,
        /// When the provider claimed the port, in seconds since 1970.
        since: u64,
        container: Container,
    },
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Another protocol version.
    Version,
    /// Malformed.
    Form,
}

impl Message {
    /// The encoded message.
    pub fn bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut write = Writer { bytes: &mut bytes, at: 0 };
        write.put(&MAGIC);
        write.put(&VERSION.to_be_bytes());
        match self {
            Self::Hello { nonce, port, udp, secret, container } => {
                write.put(&[1, u8::from(*udp), u8::from(*secret)]);
                write.put(&port.to_be_bytes());
                write.put(nonce);
                write.put(container);
            }
            Self::Challenge { nonce } => {
                write.put(&[2]);
                write.put(nonce);
            }
            Self::Refused(why) => write.put(&[3, why.code()]),
            Self::Prove { proof } => {
                write.put(&[4]);
                write.put(proof);
            }
            Self::Grant { proof, since, container } => {
                write.put(&[5]);
                write.put(proof);
                write.put(&since.to_be_bytes());
                write.put(container);
            }
        }
        bytes
    }

    /// Parses a complete message.
    ///
    /// # Errors
    /// [`Bad`]. The bytes after the last field must be zero, so that a later version can use them.
    pub fn parse(bytes: &[u8]) -> Result<Self, Bad> {
        let mut read = Reader(bytes);
        if read.take::<8>() != Some(MAGIC) {
            return Err(Bad::Form);
        }
        if read.take::<2>().map(u16::from_be_bytes) != Some(VERSION) {
            return Err(Bad::Version);
        }
        if bytes.len() != SIZE {
            return Err(Bad::Form);
        }
        let message = read.message().ok_or(Bad::Form)?;
        if read.0.iter().all(|byte| *byte == 0) { Ok(message) } else { Err(Bad::Form) }
    }
}

struct Writer<'a> {
    bytes: &'a mut [u8; SIZE],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, part: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + part.len()) {
            place.copy_from_slice(part);
            self.at += part.len();
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take::<1>()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn message(&mut self) -> Option<Message> {
        Some(match self.take::<1>()? {
            [1] => {
                let (udp, secret) = (self.flag()?, self.flag()?);
                let port = u16::from_be_bytes(self.take()?);
                Message::Hello { nonce: self.take()?, port, udp, secret, container: self.take()? }
            }
            [2] => Message::Challenge { nonce: self.take()? },
            [3] => Message::Refused(Refusal::of(self.take::<1>()?[0])?),
            [4] => Message::Prove { proof: self.take()? },
            [5] => {
                Message::Grant { proof: self.take()?, since: u64::from_be_bytes(self.take()?), container: self.take()? }
            }
            _ => return None,
        })
    }
}

/// Which side made a proof: one side's proof is invalid as the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Requester,
    Provider,
}

/// What an exchange is about; both proofs cover all of it.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub name: &'a str,
    pub spec: &'a Spec,
    pub requester: &'a Nonce,
    pub provider: &'a Nonce,
}

impl About<'_> {
    fn mac(&self, secret: Option<&Secret>, side: Side) -> Option<Hmac<Sha256>> {
        let key = secret.map_or(&b""[..], |secret| &secret.0);
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).ok()?;
        // Protocol version 1 has these labels.
        let side = match side {
            Side::Requester => b"asker",
            Side::Provider => b"giver",
        };
        mac.update(&MAGIC);
        mac.update(&VERSION.to_be_bytes());
        mac.update(side);
        mac.update(self.requester);
        mac.update(self.provider);
        mac.update(&self.spec.port.to_be_bytes());
        mac.update(&[u8::from(self.spec.protocol == Protocol::Udp)]);
        mac.update(self.name.as_bytes());
        Some(mac)
    }

    /// The proof of one side. Without a secret it only proves that both mean the same exchange.
    pub fn proof(&self, secret: Option<&Secret>, side: Side) -> Proof {
        self.mac(secret, side).map_or([0; 32], |mac| mac.finalize().into_bytes().into())
    }

    /// Whether `proof` is that side's, in constant time.
    pub fn proves(&self, proof: &Proof, secret: Option<&Secret>, side: Side) -> bool {
        self.mac(secret, side).is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Message> {
        let mut all = vec![
            Message::Hello { nonce: [7; 32], port: 8080, udp: false, secret: true, container: [0; 12] },
            Message::Challenge { nonce: [9; 32] },
            Message::Prove { proof: [3; 32] },
            Message::Grant { proof: [1; 32], since: 1_795_339_625, container: *b"0123456789ab" },
        ];
        all.extend(Refusal::ALL.map(Message::Refused));
        all
    }

    #[test]
    fn messages_round_trip() {
        for message in all() {
            assert_eq!(Message::parse(&message.bytes()), Ok(message));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for message in all() {
            let good = message.bytes();
            for (at, wrong) in [(0, 0), (10, 0), (10, 6), (SIZE - 1, 1)] {
                let mut bytes = good;
                bytes[at] = wrong;
                assert_eq!(Message::parse(&bytes), Err(Bad::Form), "{message:?} {at}");
            }
            let mut newer = good;
            newer[9] = 2;
            assert_eq!(Message::parse(&newer), Err(Bad::Version));
            assert_eq!(Message::parse(&newer[..40]), Err(Bad::Version), "of whatever size");
            for size in 10..SIZE {
                assert_eq!(Message::parse(&good[..size]), Err(Bad::Form));
            }
        }
        assert_eq!(Message::parse(b""), Err(Bad::Form));
    }

    #[test]
    fn a_proof_is_valid_for_one_exchange_and_one_side() {
        let spec: Spec = "8080".parse().unwrap();
        let other: Spec = "8081".parse().unwrap();
        let (one, two) = ([1; 32], [2; 32]);
        let about = About { name: "api", spec: &spec, requester: &one, provider: &two };
        let secret = Secret(b"tea".to_vec());
        let proof = about.proof(Some(&secret), Side::Requester);
        assert!(about.proves(&proof, Some(&secret), Side::Requester));
        assert!(!about.proves(&proof, Some(&secret), Side::Provider), "the other side's");
        assert!(!about.proves(&proof, Some(&Secret(b"coffee".to_vec())), Side::Requester), "another secret");
        assert!(!about.proves(&proof, None, Side::Requester), "none");
        for other in [
            About { name: "web", ..about },
            About { spec: &other, ..about },
            About { requester: &two, ..about },
            About { provider: &one, ..about },
        ] {
            assert!(!other.proves(&proof, Some(&secret), Side::Requester), "{other:?}");
        }
    }
}
