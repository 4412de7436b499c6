//! The body of a function's answer as it arrives, and the parts of a streamed one: the lines of
//! `application/x-ndjson`, or the events of `text/event-stream`.
//!
//! In: pieces of a body, cut anywhere. Out: each part as JSON; text that is no JSON becomes a JSON string. The whole is
//! bounded.

use serde_json::value::RawValue;

/// The largest output of a job, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 20 << 20;

/// Bytes that each part of a stream counts for beside its own.
const PART_BYTES: usize = 64;

/// An answer is larger than [`OUTPUT_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the output is larger than {OUTPUT_BYTES_MAX} bytes")]
pub struct OutputTooLarge;

/// How an answer is divided into parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Form {
    /// It is not a stream.
    #[default]
    Whole,
    /// Each line is a part.
    Lines,
    /// Each event is a part.
    Events,
}

/// An answer that arrives.
#[derive(Debug, Default)]
pub struct ArrivingAnswer {
    form: Form,
    /// The body of an answer that is no stream; of a stream, what is not a whole part yet.
    bytes: Vec<u8>,
    /// The data of an event that is not complete.
    event: Vec<u8>,
    parts: Vec<Vec<u8>>,
    total: usize,
}

/// Returns a part as JSON.
fn as_json(part: &[u8]) -> Option<Vec<u8>> {
    if part.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    match serde_json::from_slice::<&RawValue>(part) {
        Ok(json) => Some(json.get().as_bytes().to_vec()),
        Err(_) => serde_json::to_vec(&String::from_utf8_lossy(part)).ok(),
    }
}

impl ArrivingAnswer {
    /// Begins an answer with this media type.
    pub fn begin(&mut self, media_type: &str) {
        let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        self.form = match essence.as_str() {
            "application/x-ndjson" | "application/jsonl" => Form::Lines,
            "text/event-stream" => Form::Events,
            _ => Form::Whole,
        };
    }

    /// Whether it is a stream.
    pub fn is_stream(&self) -> bool {
        self.form != Form::Whole
    }

    /// Adds a piece of the body. Returns whether there is a new part.
    pub fn push(&mut self, piece: &[u8]) -> Result<bool, OutputTooLarge> {
        self.total = self.total.saturating_add(piece.len());
        if self.total > OUTPUT_BYTES_MAX {
            return Err(OutputTooLarge);
        }
        self.bytes.extend_from_slice(piece);
        let before = self.parts.len();

        if self.is_stream() {
            let mut from = 0;
            while let Some(length) = self.bytes.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
            {
                let line = self.bytes.get(from..from + length).unwrap_or_default();
                let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
                from += length + 1;
                self.line(&line);
            }
            self.bytes.drain(..from);
        }
        let new = self.parts.len().saturating_sub(before);
        self.total = self.total.saturating_add(new * PART_BYTES);
        Ok(new > 0)
    }

    /// Takes a line of a stream.
    fn line(&mut self, line: &[u8]) {
        if self.form == Form::Lines {
            self.parts.extend(as_json(line));
            return;
        }
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // The mark at the end of OpenAI's streams.
            if event != b"[DONE]" {
                self.parts.extend(as_json(&event));
            }
        } else if let Some(data) = line.strip_prefix(b"data:") {
            if !self.event.is_empty() {
                self.event.push(b'\n');
            }
            self.event.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
        }
    }

    /// Ends the answer. Returns the body of one that is no stream, or the JSON list of a stream's parts.
    pub fn finish(&mut self) -> Vec<u8> {
        if !self.is_stream() {
            return std::mem::take(&mut self.bytes);
        }
        let rest = std::mem::take(&mut self.bytes);
        self.line(&rest);
        self.line(b"");
        let mut list = b"[".to_vec();
        for (at, part) in self.parts.iter().enumerate() {
            if at > 0 {
                list.push(b',');
            }
            list.extend_from_slice(part);
        }
        list.push(b']');
        list
    }

    /// Returns the parts from number `from` on.
    pub fn parts_from(&self, from: usize) -> &[Vec<u8>] {
        self.parts.get(from..).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(media_type: &str, pieces: &[&[u8]]) -> String {
        let mut answer = ArrivingAnswer::default();
        answer.begin(media_type);
        for piece in pieces {
            answer.push(piece).unwrap();
        }
        String::from_utf8(answer.finish()).unwrap()
    }

    #[test]
    fn lines_and_events_are_parts() {
        assert_eq!(
            read("application/x-ndjson; charset=utf-8", &[b"{\"n\":1}\n{\"n\"", b":2}\r\n\nplain"]),
            "[{\"n\":1},{\"n\":2},\"plain\"]"
        );
        let events = b": comment\nevent: x\ndata: {\"a\":\ndata: 1}\n\ndata: b\n\ndata: [DONE]\n\n";
        assert_eq!(read("text/event-stream", &[events]), "[{\"a\":\n1},\"b\"]");
        assert_eq!(read("application/json", &[b"{\"n\":", b"1}\n"]), "{\"n\":1}\n");
    }

    #[test]
    fn an_answer_that_is_too_large_is_refused_at_its_limit() {
        let mut answer = ArrivingAnswer::default();
        assert_eq!(answer.push(&vec![b'x'; OUTPUT_BYTES_MAX]), Ok(false));
        assert_eq!(answer.push(b"x"), Err(OutputTooLarge));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_body_is_cut(body: Vec<u8>, cuts: Vec<usize>, events: bool) {
            let media_type = if events { "text/event-stream" } else { "application/x-ndjson" };
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
            let whole = read(media_type, &[&body]);
            prop_assert_eq!(&read(media_type, &pieces), &whole);
            prop_assert!(serde_json::from_str::<Vec<Box<RawValue>>>(&whole).is_ok());
        }
    }
}
