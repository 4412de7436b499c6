//! Runs naga on threads with a large stack, because naga recurses over nested expressions.

use crate::error::Error;

/// naga's own limits on nesting need much less stack than this.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Runs `work` on such a thread and waits for its result. A panic in `work` becomes [`Error::KernelRejected`].
pub(crate) fn on_big_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("wgsl".into()).stack_size(STACK_BYTES).spawn_scoped(scope, work);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::KernelRejected("the compiler failed on this source".into())),
            Err(error) => Err(Error::Unsupported(format!("the parser's thread could not be started: {error}"))),
        }
    })
}
