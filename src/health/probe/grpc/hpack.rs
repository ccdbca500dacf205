//! Owns HTTP/2 header blocks as bytes (HPACK, RFC 7541): writing literals, reading blocks. Neither side uses a dynamic table: our
//! SETTINGS forbid it to the server, and this code never adds to one. Must not know frames or gRPC.

use super::huffman;

/// The static table's `:status` values (RFC 7541, appendix A). The other entries' values are not needed.
const STATUSES: [&[u8]; 7] = [b"200", b"204", b"206", b"304", b"400", b"404", b"500"];
const FIRST_STATUS: usize = 8;

/// The last index of the static table.
const LAST_STATIC: usize = 61;

/// A header name: an index of the static table, or text.
pub enum Name<'a> {
    Static(usize),
    Text(&'a str),
}

/// Appends a header as a literal without indexing (RFC 7541, 6.2.2).
pub fn literal(block: &mut Vec<u8>, name: &Name<'_>, value: &[u8]) {
    match name {
        Name::Static(index) => integer(block, 4, *index),
        Name::Text(name) => {
            block.push(0);
            string(block, name.as_bytes());
        }
    }
    string(block, value);
}

fn string(block: &mut Vec<u8>, text: &[u8]) {
    integer(block, 7, text.len());
    block.extend_from_slice(text);
}

/// Appends an integer (RFC 7541, 5.1). The bits above the prefix are zero.
fn integer(block: &mut Vec<u8>, prefix: u32, number: usize) {
    let full = (1 << prefix) - 1;
    let low = |number: usize| u8::try_from(number & 0x7f).unwrap_or_default();
    if number < full {
        return block.push(low(number));
    }
    block.push(low(full));
    let mut rest = number - full;
    while rest > 0x7f {
        block.push(low(rest) | 0x80);
        rest >>= 7;
    }
    block.push(low(rest));
}

/// Calls `found` with name and value of each header in a complete block. A name from the static table other than `:status` is empty.
///
/// `None`: the block is malformed, or refers to a dynamic table.
pub fn read(block: &[u8], mut found: impl FnMut(&[u8], &[u8])) -> Option<()> {
    let mut rest = Reader(block);
    while let Some(first) = rest.0.first().copied() {
        // Representations of RFC 7541, 6. With incremental indexing reads like without, because the table has no room.
        let prefix = match first {
            0x80.. => {
                let index = rest.integer(7)?;
                let status = index.checked_sub(FIRST_STATUS).and_then(|at| STATUSES.get(at)).copied();
                found(name(index)?, status.unwrap_or_default());
                continue;
            }
            0x40..0x80 => 6,
            0x20..0x40 => {
                rest.integer(5)?;
                continue;
            }
            _ => 4,
        };
        let owned;
        let name = match rest.integer(prefix)? {
            0 => {
                owned = rest.string()?;
                &*owned
            }
            index => name(index)?,
        };
        found(name, &rest.string()?);
    }
    Some(())
}

fn name(index: usize) -> Option<&'static [u8]> {
    let status = (FIRST_STATUS..FIRST_STATUS + STATUSES.len()).contains(&index);
    (1..=LAST_STATIC).contains(&index).then_some(if status { b":status" } else { b"" })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let full = (1 << prefix) - 1;
        let mut number = usize::from(self.byte()?) & full;
        if number < full {
            return Some(number);
        }
        // Three more bytes reach two million, longer than any block.
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            number += (usize::from(byte) & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        let huffman = self.0.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        if huffman { huffman::decode(text) } else { Some(text.to_vec()) }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Decodes hexadecimal digits; spaces are ignored.
    pub fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    fn headers(block: &[u8]) -> Option<Vec<String>> {
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        read(block, |name, value| found.push(text(name) + "=" + &text(value)))?;
        Some(found)
    }

    #[test]
    fn blocks() {
        let date = "=Mon, 21 Oct 2013 20:13:21 GMT";
        for (block, want) in [
            // RFC 7541: C.2.1 to C.2.4, C.4.1, C.5.1, C.6.1.
            ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &["custom-key=custom-header"][..]),
            ("040c 2f73 616d 706c 652f 7061 7468", &["=/sample/path"]),
            ("1008 7061 7373 776f 7264 0673 6563 7265 74", &["password=secret"]),
            ("82", &["="]),
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &["=", "=", "=", "=www.example.com"]),
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e \
                 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                &[":status=302", "=private", date, "=https://www.example.com"],
            ),
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae \
                 82ae 43d3",
                &[":status=302", "=private", date, "=https://www.example.com"],
            ),
            ("20 88 89 8e", &[":status=200", ":status=204", ":status=500"]),
            ("3fe11f 8f", &["="]),
            ("", &[]),
        ] {
            assert_eq!(headers(&bytes(block)), Some(want.iter().map(|s| s.to_string()).collect()), "{block}");
        }
    }

    #[test]
    fn malformed_blocks() {
        for bad in [
            // C.4.2 refers to the dynamic entry that C.4.1 would have added.
            "8286 84be 5886 a8eb 1064 9cbf",
            "80",
            "7e00",
            "ff",
            "ffffffff00",
            "3fffffffff",
            "00",
            "0003 61",
            "0001 61 05 62",
            "0081 ff 00",
            "00ff ffff 7f",
        ] {
            assert_eq!(headers(&bytes(bad)), None, "{bad}");
        }
    }

    #[test]
    fn written_headers_read_back() {
        let long = "x".repeat(5000);
        for value in ["", "x", &long[..126], &long[..127], &long[..128], &long] {
            for name in ["te", &long] {
                let mut block = Vec::new();
                literal(&mut block, &Name::Static(8), b"204");
                literal(&mut block, &Name::Static(58), value.as_bytes());
                literal(&mut block, &Name::Text(name), value.as_bytes());
                let want = [":status=204".to_owned(), format!("={value}"), format!("{name}={value}")];
                assert_eq!(headers(&block).as_deref(), Some(&want[..]));
                assert!((1..block.len()).filter(|cut| headers(&block[..*cut]).is_some()).count() <= 2);
            }
        }
        // C.1.2 and C.1.3, with a prefix of 5 bits.
        let mut block = Vec::new();
        integer(&mut block, 5, 1337);
        integer(&mut block, 5, 10);
        assert_eq!(block, bytes("1f9a0a 0a"));
    }
}
