//! Owns the decoding of HPACK's Huffman code. Must not know what a text means.

/// The symbols in the order of their codes (RFC 7541, appendix B). The code is canonical, so this order and the number of codes of each
/// length define it. EOS, the last one, never occurs in a text.
const SYMBOLS: &[u8; 256] = b"012aceiost %-./3456789=A_bdfghlmnpru:BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz&*,;XZ!\"()?'+|#>\0$@[]~^}<`{\\\
\xc3\xd0\x80\x82\x83\xa2\xb8\xc2\xe0\xe2\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\
\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\
\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed\xc7\xcf\xea\xeb\xc0\xc1\
\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe\
\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9\n\r\x16";

/// The number of codes with 1, 2, 3… bits.
const COUNTS: [u8; 30] =
    [0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];

/// Decodes a text, at most 8/5 as long as its code. `None`: it contains EOS or wrong padding (RFC 7541, 5.2).
pub fn decode(code: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut walk = Walk::default();
    for byte in code {
        for bit in (0..8).rev() {
            if let Some(at) = walk.step(byte >> bit & 1) {
                text.push(*SYMBOLS.get(at)?);
                walk = Walk::default();
            }
        }
    }
    // The rest is padding: the first bits of EOS, all ones, fewer than eight.
    (walk.length < 8 && walk.code + 1 == 1 << walk.length).then_some(text)
}

/// A partly read code.
#[derive(Default)]
struct Walk {
    length: usize,
    code: usize,
    /// The first code of this length, and its place in the order.
    first: usize,
    index: usize,
}

impl Walk {
    /// Adds a bit. Returns the place in the order once the code is complete.
    fn step(&mut self, bit: u8) -> Option<usize> {
        let count = usize::from(COUNTS.get(self.length).copied().unwrap_or_default());
        self.length += 1;
        self.code = self.code << 1 | usize::from(bit);
        // Never negative: a smaller code would have been complete one bit earlier.
        let after = self.code - self.first;
        if after < count {
            return Some(self.index + after);
        }
        self.index += count;
        self.first = (self.first + count) << 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::probe::grpc::hpack::tests::bytes;

    #[test]
    fn texts() {
        for (code, want) in [
            // RFC 7541, C.4 and C.6.
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            ("640eff", "307"),
            ("aec3771a4b", "private"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
            ("9bd9ab", "gzip"),
            (
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
            ("", ""),
        ] {
            assert_eq!(decode(&bytes(code)).as_deref(), Some(want.as_bytes()), "{want}");
        }
        // A whole byte of padding, padding that is not all ones, EOS.
        for bad in ["ff", "6402ff", "00", "06", "ffffffff", "fffffffcff"] {
            assert_eq!(decode(&bytes(bad)), None, "{bad}");
        }
    }

    #[test]
    fn every_symbol_as_encoded_by_another_library() {
        // Python's hpack 4.2: `HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(bytes(range(256)))`.
        let code = include_str!("every-symbol.hex");
        let want: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&bytes(code.trim())), Some(want));
    }
}
