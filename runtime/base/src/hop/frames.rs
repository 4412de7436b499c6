//! The frames in which requests and responses cross the hop, without I/O. The content of a head is defined in
//! [`heads`](super::heads).
//!
//! ```text
//!  message = HEAD frame, then DATA frames, then perhaps a TRAILERS frame; the last frame has the flag LAST
//!  frame   = kind u8 | flags u8 | 0 u16 | head length u32 | data length u32 | head | data
//! ```
//!
//! Numbers are little-endian. The first data travel in the frame of the head, so a small message is one frame and one
//! system call on each side. Lengths are checked against limits, because a worker may be hostile.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length of a frame before its head, in bytes.
pub(super) const PREFIX_BYTES: usize = 12;
const HEAD: u8 = 1;
const DATA: u8 = 2;
const TRAILERS: u8 = 3;
const LAST: u8 = 1;
/// Limit on a head, in bytes.
const HEAD_BYTES_MAX: usize = 1 << 20;
/// Limit on the data of one frame, in bytes. Longer data are sent as several frames.
pub const DATA_BYTES_MAX: usize = 1 << 20;

/// Why what arrived is no frame of the hop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length is over its limit.
    #[error("{what} is {length}, limit is {limit}")]
    TooLong {
        /// The part that is too long.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A frame of another kind is due.
    #[error("unexpected frame of kind {0}")]
    Unexpected(u8),
    /// A head ends too early.
    #[error("a head ends within its {0}")]
    Truncated(&'static str),
    /// A part of a head is invalid.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// Completes an encoded head whose frame carries `data_bytes` bytes of data. `last` says that no data follow.
pub fn finish(frame: &mut BytesMut, data_bytes: usize, last: bool) {
    let head_bytes = frame.len().saturating_sub(PREFIX_BYTES);
    if let Some(place) = frame.get_mut(..PREFIX_BYTES) {
        place.copy_from_slice(&prefix(HEAD, last, head_bytes, data_bytes));
    }
}

/// Returns what precedes a frame of data.
pub fn data_prefix(data_bytes: usize, last: bool) -> [u8; PREFIX_BYTES] {
    prefix(DATA, last, 0, data_bytes)
}

/// Completes encoded trailers. They end their message.
pub(super) fn finish_trailers(frame: &mut BytesMut) {
    let head_bytes = frame.len().saturating_sub(PREFIX_BYTES);
    if let Some(place) = frame.get_mut(..PREFIX_BYTES) {
        place.copy_from_slice(&prefix(TRAILERS, true, head_bytes, 0));
    }
}

fn prefix(kind: u8, last: bool, head_bytes: usize, data_bytes: usize) -> [u8; PREFIX_BYTES] {
    let mut out = [0; PREFIX_BYTES];
    let mut rest = &mut out[..];
    rest.put_u8(kind);
    rest.put_u8(if last { LAST } else { 0 });
    rest.put_u16_le(0);
    rest.put_u32_le(u32::try_from(head_bytes).unwrap_or(u32::MAX));
    rest.put_u32_le(u32::try_from(data_bytes).unwrap_or(u32::MAX));
    out
}

/// Returns the beginning of a frame whose head is about to be written.
pub(super) fn begin() -> BytesMut {
    let mut out = BytesMut::with_capacity(1024);
    out.put_bytes(0, PREFIX_BYTES);
    out
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The head, still encoded.
    Head(Bytes),
    /// Some of the data. Never empty.
    Data(Bytes),
    /// The trailers, still encoded. The end follows.
    Trailers(Bytes),
    /// The end of the message.
    End,
}

/// Decodes a stream of messages, whatever pieces it arrives in.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes of data of the current frame that have not arrived yet.
    data_left: usize,
    /// Whether the current frame is the last of its message.
    last: bool,
    /// Whether a message has begun and not ended.
    within: bool,
}

impl Decoder {
    /// Whether the last message has ended and no other has begun.
    pub fn is_between_messages(&self) -> bool {
        !self.within
    }

    /// Returns how many bytes of data are still to come, if the last frame of the message has begun.
    pub fn data_left(&self) -> Option<usize> {
        (self.within && self.last).then_some(self.data_left)
    }

    /// Takes the end of the message, if all of its data were taken. Returns whether the decoder is between messages
    /// then.
    pub fn take_end(&mut self) -> bool {
        if self.data_left() == Some(0) {
            self.within = false;
        }
        !self.within
    }

    /// Takes the next part from the bytes that have arrived. Returns `None` if it needs more of them.
    pub fn next(&mut self, arrived: &mut BytesMut) -> Result<Option<Part>, FrameError> {
        loop {
            if self.data_left > 0 {
                if arrived.is_empty() {
                    return Ok(None);
                }
                let part = arrived.split_to(self.data_left.min(arrived.len()));
                self.data_left -= part.len();
                return Ok(Some(Part::Data(part.freeze())));
            }
            if self.within && self.last {
                self.within = false;
                return Ok(Some(Part::End));
            }
            let Some((kind, head_bytes)) = self.begin_frame(arrived)? else { return Ok(None) };
            match kind {
                HEAD => return Ok(Some(Part::Head(arrived.split_to(head_bytes).freeze()))),
                TRAILERS => return Ok(Some(Part::Trailers(arrived.split_to(head_bytes).freeze()))),
                _ => {}
            }
        }
    }

    /// Takes the prefix of the next frame, once its head has arrived too. Returns the kind, and the length of the head.
    fn begin_frame(&mut self, arrived: &mut BytesMut) -> Result<Option<(u8, usize)>, FrameError> {
        let Some(mut prefix) = arrived.get(..PREFIX_BYTES) else { return Ok(None) };
        let (kind, flags, _) = (prefix.get_u8(), prefix.get_u8(), prefix.get_u16_le());
        let (head_bytes, data_bytes) = (prefix.get_u32_le() as usize, prefix.get_u32_le() as usize);
        let last = flags & LAST != 0;
        let is_due = match kind {
            HEAD => !self.within,
            DATA => self.within,
            TRAILERS => self.within && last && data_bytes == 0,
            _ => false,
        };
        if !is_due {
            return Err(FrameError::Unexpected(kind));
        }
        let head_bytes_max = if kind == DATA { 0 } else { HEAD_BYTES_MAX };
        if head_bytes > head_bytes_max {
            return Err(FrameError::TooLong { what: "length of a head", length: head_bytes, limit: head_bytes_max });
        }
        if data_bytes > DATA_BYTES_MAX {
            return Err(FrameError::TooLong { what: "length of data", length: data_bytes, limit: DATA_BYTES_MAX });
        }
        if arrived.len() < PREFIX_BYTES + head_bytes {
            arrived.reserve(PREFIX_BYTES + head_bytes - arrived.len());
            return Ok(None);
        }
        arrived.advance(PREFIX_BYTES);
        (self.data_left, self.last) = (data_bytes, last);
        self.within = true;
        Ok(Some((kind, head_bytes)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lengths_over_their_limits_are_refused_before_the_bytes_arrive() {
        let refused = |kind, head_bytes: u32, data_bytes: u32| {
            let mut arrived = BytesMut::from(&prefix(kind, false, head_bytes as usize, data_bytes as usize)[..]);
            Decoder::default().next(&mut arrived)
        };
        assert_eq!(refused(DATA, 0, 0), Err(FrameError::Unexpected(DATA)));
        assert_eq!(refused(TRAILERS, 0, 0), Err(FrameError::Unexpected(TRAILERS)));
        assert_eq!(
            refused(HEAD, u32::MAX, 0).unwrap_err().to_string(),
            "length of a head is 4294967295, limit is 1048576"
        );
        assert_eq!(
            refused(HEAD, 0, u32::MAX).unwrap_err().to_string(),
            "length of data is 4294967295, limit is 1048576"
        );
        let within = |kind, last, head_bytes, data_bytes| {
            let mut decoder = Decoder { within: true, ..Decoder::default() };
            decoder.next(&mut BytesMut::from(&prefix(kind, last, head_bytes, data_bytes)[..]))
        };
        assert_eq!(within(TRAILERS, false, 0, 0), Err(FrameError::Unexpected(TRAILERS)), "they end the message");
        assert_eq!(within(TRAILERS, true, 0, 1), Err(FrameError::Unexpected(TRAILERS)));
        assert!(within(TRAILERS, true, u32::MAX as usize, 0).unwrap_err().to_string().contains("limit is 1048576"));
        assert_eq!(within(TRAILERS, true, 0, 0), Ok(Some(Part::Trailers(Bytes::new()))));
    }
}
