//! Refuses HTTP/1 heads and trailers in which a line ends with a line feed alone. The parser accepts that, as RFC 9112
//! (2.2) allows, but a proxy in front of the server may not, and then the two see different requests.
//!
//! [`LineEnds`] follows the framing of a connection's requests, and replaces such a line feed by a zero byte, which no
//! head may contain. The parser looks only at whole heads, so [`END_OF_HEAD`] must follow. Then it refuses the head with
//! 400 and closes the connection. The framing is that of
//! the parser: a request with `transfer-encoding` is chunked, or the parser refuses it. Within chunks the parser accepts
//! no line feed alone. Pure.

/// What must follow the bytes in which a line feed was replaced.
pub(super) const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Bytes of a line that are kept, to recognize the headers that frame the body.
const KEPT_BYTES: usize = 64;

/// What comes next on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// A line of a head. `begun`: the request line was seen.
    Head { begun: bool },
    /// Bytes of a body or of a chunk.
    Bytes { left: u64, then: AfterBytes },
    /// A chunk's length.
    ChunkSize,
    /// A line of the trailers.
    Trailers,
    /// Another protocol.
    Anything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterBytes {
    NextRequest,
    ChunkSize,
}

/// Follows the bytes of a connection.
#[derive(Debug)]
pub(super) struct LineEnds {
    expected: Expected,
    /// The beginning of the current line, how many bytes of it are kept, and its last byte.
    line: [u8; KEPT_BYTES],
    kept: usize,
    last: u8,
    /// How the body of the current head is framed.
    length: u64,
    is_chunked: bool,
}

impl Default for LineEnds {
    fn default() -> Self {
        let expected = Expected::Head { begun: false };
        Self { expected, line: [0; KEPT_BYTES], kept: 0, last: 0, length: 0, is_chunked: false }
    }
}

impl LineEnds {
    /// Follows the next bytes of the connection. Replaces the first line feed that ends a line by itself, and returns
    /// whether there was one. What follows it does not matter.
    pub(super) fn pass(&mut self, mut bytes: &mut [u8]) -> bool {
        while !bytes.is_empty() {
            match self.expected {
                Expected::Anything => return false,
                Expected::Bytes { left, then } => {
                    let passed = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = bytes.get_mut(passed..).unwrap_or_default();
                    self.expected = match (left - passed as u64, then) {
                        (0, AfterBytes::NextRequest) => Expected::Head { begun: false },
                        (0, AfterBytes::ChunkSize) => Expected::ChunkSize,
                        (left, then) => Expected::Bytes { left, then },
                    };
                }
                Expected::Head { .. } | Expected::ChunkSize | Expected::Trailers => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (line, rest) = bytes.split_at_mut(end.map_or(bytes.len(), |end| end + 1));
                    if self.pass_line(line, end.is_some()) {
                        return true;
                    }
                    bytes = rest;
                }
            }
        }
        false
    }

    /// Follows a part of a line. `ends`: its last byte is the line feed. Returns whether that was replaced.
    fn pass_line(&mut self, part: &mut [u8], ends: bool) -> bool {
        let text = part.len() - usize::from(ends);
        let kept = part.get(..text).unwrap_or_default();
        for (place, byte) in self.line.iter_mut().skip(self.kept).zip(kept) {
            *place = *byte;
        }
        self.kept = (self.kept + kept.len()).min(KEPT_BYTES);
        self.last = kept.last().copied().unwrap_or(self.last);
        if !ends {
            return false;
        }
        let is_alone = self.last != b'\r';
        if is_alone && self.expected == Expected::ChunkSize {
            // The parser itself refuses it, but accepts a zero byte in an extension.
            self.expected = Expected::Anything;
            return false;
        }
        if (is_alone || self.hides_a_length())
            && let Some(line_feed) = part.last_mut()
        {
            *line_feed = 0;
            // The parser refuses the head, and nothing of the connection is read after that.
            self.expected = Expected::Anything;
            return true;
        }
        let (line, kept) = (self.line, std::mem::take(&mut self.kept));
        self.last = 0;
        let line = line.get(..kept).unwrap_or_default();
        self.end_line(line.strip_suffix(b"\r").unwrap_or(line));
        false
    }

    /// Whether the current line may contain a length that was not kept whole, as one with many zeros before it.
    fn hides_a_length(&self) -> bool {
        self.kept >= KEPT_BYTES
            && match self.expected {
                Expected::ChunkSize => !self.line.contains(&b';'),
                Expected::Head { begun: true } => is_named(&self.line, b"content-length"),
                _ => false,
            }
    }

    /// Decides what follows a line.
    fn end_line(&mut self, line: &[u8]) {
        self.expected = match (self.expected, line) {
            // Empty lines may precede a request.
            (Expected::Head { begun: false }, b"") => self.expected,
            (Expected::Head { begun: false }, b"PRI * HTTP/2.0") => Expected::Anything,
            (Expected::Head { begun: false }, _) => {
                (self.length, self.is_chunked) = (0, false);
                Expected::Head { begun: true }
            }
            (Expected::Head { begun: true }, b"") => match (self.is_chunked, self.length) {
                (true, _) => Expected::ChunkSize,
                (false, 0) => Expected::Head { begun: false },
                (false, left) => Expected::Bytes { left, then: AfterBytes::NextRequest },
            },
            (Expected::Head { begun: true }, header) => {
                self.read_header(header);
                self.expected
            }
            (Expected::ChunkSize, size) => match chunk_size(size) {
                Some(0) => Expected::Trailers,
                // The line break after the chunk belongs to it.
                Some(size) => Expected::Bytes { left: size.saturating_add(2), then: AfterBytes::ChunkSize },
                // The parser refuses it.
                None => Expected::Anything,
            },
            (Expected::Trailers, b"") => Expected::Head { begun: false },
            (other, _) => other,
        };
    }

    fn read_header(&mut self, header: &[u8]) {
        if is_named(header, b"transfer-encoding") {
            self.is_chunked = true;
        } else if is_named(header, b"content-length") {
            let value = header.splitn(2, |byte| *byte == b':').nth(1).unwrap_or_default();
            self.length = std::str::from_utf8(value).unwrap_or_default().trim().parse().unwrap_or(0);
        }
    }
}

/// Whether a header has this name.
fn is_named(header: &[u8], name: &[u8]) -> bool {
    let given = header.split(|byte| *byte == b':').next().unwrap_or_default();
    given.len() < header.len() && given.eq_ignore_ascii_case(name)
}

/// Reads the length at the beginning of a chunk, without its extensions.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next()?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns what passes, with the text cut into pieces.
    fn passed(text: &str, piece: usize) -> String {
        let (mut ends, mut bytes) = (LineEnds::default(), text.as_bytes().to_vec());
        let replaced = bytes.chunks_mut(piece).filter_map(|part| ends.pass(part).then_some(())).count();
        assert_eq!(replaced, usize::from(bytes != text.as_bytes()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    const GOOD: &str = "\r\nPOST /a HTTP/1.1\r\nhost: x\r\nContent-Length: 4\r\n\r\na\nb\nGET / HTTP/1.1\r\nhost: x\r\n\r\n\
        POST / HTTP/1.1\r\nTransfer-Encoding:chunked\r\n\r\n5;a=b\r\n\n\n\n\n\n\r\n0\r\nx: y\r\n\r\nGET /b HTTP/1.1\r\n\r\n";

    #[test]
    fn each_line_feed_that_ends_a_line_alone_is_changed() {
        for (bad, at) in [
            ("GET / HTTP/1.1\nhost: x\r\n\r\n", 14),
            ("GET / HTTP/1.1\r\nhost: x\n\r\n", 23),
            ("GET / HTTP/1.1\r\nhost: x\r\n\n", 25),
            ("\nGET / HTTP/1.1\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\n\r\n", 54),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n\nGET / HTTP/1.1\n", 53),
        ] {
            for piece in [1, 2, 3, 7, 1000] {
                let mut expected = bad.as_bytes().to_vec();
                if let Some(line_feed) = expected.get_mut(at) {
                    assert_eq!(*line_feed, b'\n', "{bad:?}");
                    *line_feed = 0;
                }
                assert_eq!(passed(bad, piece).into_bytes(), expected, "{bad:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_length_behind_many_zeros_is_refused_and_a_chunk_keeps_what_the_parser_refuses() {
        let zeros = "0".repeat(70);
        for bad in [
            format!("POST / HTTP/1.1\r\ncontent-length: {zeros}5\r\n\r\na\nb\nc"),
            format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{zeros}5\r\na\nb\nc\r\n0\r\n\r\n"),
        ] {
            let mut expected = bad.clone().into_bytes();
            let at = bad.find("5\r\n").map_or(0, |at| at + 2);
            if let Some(line_feed) = expected.get_mut(at) {
                *line_feed = 0;
            }
            assert_eq!(passed(&bad, 7).into_bytes(), expected, "{bad:?}");
        }
        let extension = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2;\nxx\r\n2d\r\n0\r\n\r\n";
        assert_eq!(passed(extension, 5), extension);
    }

    #[test]
    fn another_protocol_is_left_alone() {
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n";
        assert_eq!(passed(preface, 5), preface);
    }

    proptest! {
        #[test]
        fn what_is_right_passes_in_any_pieces(piece in 1_usize..80) {
            prop_assert_eq!(passed(GOOD, piece), GOOD);
        }

        #[test]
        fn any_bytes_pass_without_a_panic_and_only_line_feeds_change(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b':')], 0..300),
            piece in 1_usize..50,
        ) {
            let (mut ends, mut after) = (LineEnds::default(), bytes.clone());
            for part in after.chunks_mut(piece) {
                ends.pass(part);
            }
            for (before, after) in bytes.iter().zip(&after) {
                prop_assert!(before == after || (*before, *after) == (b'\n', 0));
            }
        }
    }
}
