//! `wasi:keyvalue/atomics`: counters.

use super::super::bindings::wasi::keyvalue::atomics::Host;
use super::super::bindings::wasi::keyvalue::store::Error;
use super::{Bucket, ServicesCtx};
use gannet_base::hop::platform::{KeyValueCall, PlatformAnswer};
use wasmtime::component::Resource;

impl Host for ServicesCtx<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let number = |answer| match answer {
            PlatformAnswer::Number(number) => Some(number),
            _ => None,
        };
        self.in_bucket(&bucket, KeyValueCall::Increment { key, by: delta }, number).await
    }
}
