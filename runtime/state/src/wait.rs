//! Work that blocks, for futures; and futures, for threads that may block: the ledger's, and those that read for people.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

thread_local! {
    /// Whether this thread is in [`wait`].
    static IS_WAITING: Cell<bool> = const { Cell::new(false) };
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Returns what a future returns. The thread waits meanwhile, so a task of a runtime should call this only for what a read
/// of the disk would take.
pub fn wait<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    // A task has a budget of steps between two yields, and does not yield while it is here. When the budget is used up,
    // tokio's futures would say "not yet" for ever.
    let future = tokio::task::unconstrained(future);
    let (mut future, mut context) = (pin!(future), Context::from_waker(&waker));
    loop {
        let outer = IS_WAITING.replace(true);
        let polled = future.as_mut().poll(&mut context);
        IS_WAITING.set(outer);
        match polled {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Runs what waits for the disk on a thread for that. Without a runtime, or in [`wait`], this thread may wait.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) if !IS_WAITING.get() => runtime.spawn_blocking(work).await.map_err(io::Error::other)?,
        _ => work(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_another_thread_answers_is_returned() {
        let (answer, result) = tokio::sync::oneshot::channel();
        let other = std::thread::spawn(move || answer.send(7));
        assert_eq!(wait(result).unwrap(), 7);
        other.join().unwrap().unwrap();
    }

    #[test]
    fn a_task_may_wait_more_often_than_its_budget_has_steps() {
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
            let elsewhere = || wait(tokio::task::spawn_blocking(|| 1)).unwrap();
            let task = async move { (0..1_000).map(|_| elsewhere()).sum::<u32>() };
            done.send(runtime.block_on(runtime.spawn(task)).unwrap())
        });
        assert_eq!(ended.recv_timeout(std::time::Duration::from_secs(60)), Ok(1_000), "it waits for ever");
    }
}
