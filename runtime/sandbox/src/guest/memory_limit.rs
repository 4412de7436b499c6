//! The limit on a guest's linear memory. It counts all memories of an instance together. If a memory would grow beyond
//! the limit, `memory.grow` fails in the guest.

use wasmtime::ResourceLimiter;

/// Limit on the entries of one table.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Counts the bytes of all linear memories of an instance.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    limit: usize,
    used: usize,
    /// Whether growth was refused. Most guests then trap, and the limit is reported as the reason.
    pub(crate) growth_refused: bool,
}

impl MemoryLimit {
    pub(super) fn new(bytes: u64) -> Self {
        Self { limit: usize::try_from(bytes).unwrap_or(usize::MAX), used: 0, growth_refused: false }
    }

    /// Lowers the limit, where it is higher.
    pub(crate) fn lower_limit(&mut self, bytes: usize) {
        self.limit = self.limit.min(bytes);
    }

    /// Sets the limit again.
    pub(crate) fn set_limit(&mut self, bytes: u64) {
        self.limit = usize::try_from(bytes).unwrap_or(usize::MAX);
    }

    /// The limit, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes of all memories of the instance together.
    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.used.saturating_add(desired.saturating_sub(current));
        if total > self.limit {
            self.growth_refused = true;
            return Ok(false);
        }
        self.used = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}
