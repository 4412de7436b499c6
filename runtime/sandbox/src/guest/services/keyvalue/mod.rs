//! `wasi:keyvalue`: the buckets of the guest's tenant.

mod atomics;
mod batch;
mod store;

use super::bindings::wasi::keyvalue::store::Error;
use super::{ServicesCtx, confused};
use gannet_base::hop::platform::{KeyValueCall, PlatformAnswer, PlatformCall, PlatformError};
use wasmtime::component::Resource;

/// A guest's handle of a bucket.
#[derive(Debug)]
pub struct Bucket {
    /// The name, as the front door knows it.
    name: String,
}

fn error_of(error: PlatformError) -> Error {
    match error {
        PlatformError::NoSuchBucket(_) => Error::NoSuchStore,
        PlatformError::Over => Error::AccessDenied,
        other => Error::Other(other.to_string()),
    }
}

impl ServicesCtx<'_> {
    /// Makes a call in a bucket. `read` takes the answer; None if it is one to another call. Fails if the guest has no such
    /// bucket.
    async fn in_bucket<T>(
        &mut self,
        bucket: &Resource<Bucket>,
        call: KeyValueCall,
        read: impl FnOnce(PlatformAnswer) -> Option<T>,
    ) -> wasmtime::Result<Result<T, Error>> {
        let bucket = self.table.get(bucket)?.name.clone();
        if let Err(wrong) = call.check() {
            return Ok(Err(error_of(wrong)));
        }
        let answer = self.ask(PlatformCall::KeyValue { bucket, call }).await;
        Ok(answer.and_then(|answer| read(answer).ok_or_else(confused)).map_err(error_of))
    }
}

/// Takes the answer to a call that has none.
fn done(answer: PlatformAnswer) -> Option<()> {
    (answer == PlatformAnswer::Done).then_some(())
}
