//! `wasi:keyvalue/store`: opening buckets; reading, writing and listing keys.

use super::super::bindings::wasi::keyvalue::store::{Error, Host, HostBucket, KeyResponse};
use super::{Bucket, ServicesCtx, done, error_of};
use gannet_base::hop::platform::{KeyValueCall, PlatformAnswer, Value, check_bucket};
use wasmtime::component::Resource;

impl Host for ServicesCtx<'_> {
    fn open(&mut self, identifier: String) -> wasmtime::Result<Result<Resource<Bucket>, Error>> {
        if let Err(error) = self.client() {
            return Ok(Err(error_of(error)));
        }
        Ok(match check_bucket(&identifier) {
            Ok(name) => Ok(self.table.push(Bucket { name: name.to_owned() })?),
            Err(error) => Err(error_of(error)),
        })
    }
}

impl HostBucket for ServicesCtx<'_> {
    async fn get(&mut self, this: Resource<Bucket>, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        let value = |answer| match answer {
            PlatformAnswer::Values(values) => values.into_iter().next().map(|value| value.map(|value| value.0)),
            _ => None,
        };
        self.in_bucket(&this, KeyValueCall::Get(vec![key]), value).await
    }

    async fn set(
        &mut self,
        this: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.in_bucket(&this, KeyValueCall::Set(vec![(key, Value(value))]), done).await
    }

    async fn delete(&mut self, this: Resource<Bucket>, key: String) -> wasmtime::Result<Result<(), Error>> {
        self.in_bucket(&this, KeyValueCall::Delete(vec![key]), done).await
    }

    async fn exists(&mut self, this: Resource<Bucket>, key: String) -> wasmtime::Result<Result<bool, Error>> {
        let exists = |answer| match answer {
            PlatformAnswer::Exists(exists) => Some(exists),
            _ => None,
        };
        self.in_bucket(&this, KeyValueCall::Exists(key), exists).await
    }

    async fn list_keys(
        &mut self,
        this: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> wasmtime::Result<Result<KeyResponse, Error>> {
        let page = |answer| match answer {
            PlatformAnswer::Keys { keys, cursor } => Some(KeyResponse { keys, cursor }),
            _ => None,
        };
        self.in_bucket(&this, KeyValueCall::List(cursor), page).await
    }

    fn drop(&mut self, this: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
