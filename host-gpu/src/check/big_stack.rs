//! Threads with a stack that is large enough for naga, which recurses over nested expressions.

use crate::error::Error;

/// naga's own nesting limits fit this stack with room to spare.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Runs `work` on such a thread and waits for it. A panic there refuses the source.
pub(crate) fn on_big_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("wgsl".into()).stack_size(STACK_BYTES).spawn_scoped(scope, work);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::KernelRejected("the compiler failed on this source".into())),
            Err(error) => Err(Error::Unsupported(format!("no thread to read the kernel on: {error}"))),
        }
    })
}
