//! A file of receipts that memory has no more room for: written once, read by id, gone when dropped.
//!
//! The file has no name, so nothing is left behind however the process ends. It holds the receipts as
//! JSON in the order of their ids, then an index of fixed width: id (16 bytes), offset (8 bytes), little
//! end first. Memory holds only the range of ids.

use super::Receipt;
use crate::names::RequestId;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of one entry of the index.
const ENTRY: u64 = 24;

/// A written segment.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    first: RequestId,
    last: RequestId,
    count: u64,
    index_at: u64,
}

impl Segment {
    /// Writes receipts to an unnamed file in `folder`. None for an empty list.
    pub(super) fn write<'a>(
        folder: &Path,
        receipts: impl IntoIterator<Item = &'a Receipt>,
    ) -> io::Result<Option<Self>> {
        let mut receipts: Vec<_> = receipts.into_iter().collect();
        receipts.sort_unstable_by_key(|receipt| receipt.request);
        let (Some(first), Some(last)) = (receipts.first(), receipts.last()) else { return Ok(None) };
        let (first, last) = (first.request, last.request);
        let mut out = BufWriter::with_capacity(1 << 18, tempfile::tempfile_in(folder)?);
        let mut index = Vec::with_capacity(receipts.len() * 24);
        let mut text = Vec::new();
        let mut offset = 0_u64;
        for receipt in &receipts {
            index.extend_from_slice(&receipt.request.to_bytes());
            index.extend_from_slice(&offset.to_le_bytes());
            text.clear();
            serde_json::to_writer(&mut text, receipt)?;
            out.write_all(&text)?;
            offset += text.len() as u64;
        }
        let index_at = out.stream_position()?;
        out.write_all(&index)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Some(Self { file, first, last, count: receipts.len() as u64, index_at }))
    }

    /// How many receipts it holds.
    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// The receipt of a request, if it is here.
    pub(super) fn get(&self, id: RequestId) -> io::Result<Option<Receipt>> {
        if id < self.first || id > self.last {
            return Ok(None);
        }
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let (found, start) = self.entry(middle)?;
            match found.cmp(&id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let end = if middle + 1 < self.count { self.entry(middle + 1)?.1 } else { self.index_at };
                    let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
                    let mut text = vec![0; length];
                    self.file.read_exact_at(&mut text, start)?;
                    return Ok(Some(serde_json::from_slice(&text)?));
                }
            }
        }
        Ok(None)
    }

    fn entry(&self, at: u64) -> io::Result<(RequestId, u64)> {
        let mut entry = [0; ENTRY as usize];
        self.file.read_exact_at(&mut entry, self.index_at + at * ENTRY)?;
        let (id, offset) = entry.split_at(16);
        let id = id.try_into().map_err(io::Error::other)?;
        let offset = offset.try_into().map_err(io::Error::other)?;
        Ok((RequestId::from_bytes(id), u64::from_le_bytes(offset)))
    }
}
