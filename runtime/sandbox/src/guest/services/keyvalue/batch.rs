//! `wasi:keyvalue/batch`: several keys in one call. The front door changes all of them or none.

use super::super::bindings::wasi::keyvalue::batch::Host;
use super::super::bindings::wasi::keyvalue::store::Error;
use super::{Bucket, ServicesCtx, done};
use gannet_base::hop::platform::{KeyValueCall, PlatformAnswer, Value};
use wasmtime::component::Resource;

type Pairs = Vec<Option<(String, Vec<u8>)>>;

impl Host for ServicesCtx<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Pairs, Error>> {
        let asked = keys.clone();
        let pairs = |answer| match answer {
            PlatformAnswer::Values(values) if values.len() == asked.len() => {
                let pair = |(key, value): (String, Option<Value>)| value.map(|value| (key, value.0));
                Some(asked.into_iter().zip(values).map(pair).collect())
            }
            _ => None,
        };
        self.in_bucket(&bucket, KeyValueCall::Get(keys), pairs).await
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let pairs = key_values.into_iter().map(|(key, value)| (key, Value(value))).collect();
        self.in_bucket(&bucket, KeyValueCall::Set(pairs), done).await
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.in_bucket(&bucket, KeyValueCall::Delete(keys), done).await
    }
}
