//! Carries out the calls of guests to the platform: key-value storage, and the job that a request is an attempt of.
//!
//! The caller's tenant and request are certain; everything in a call is checked here, because the worker may be hostile.

use crate::jobs::{ServerJobs, has_room};
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::hop::platform::{
    BATCH_BYTES_MAX, KeyValueCall, PlatformAnswer, PlatformCall, PlatformError, Value, check_bucket,
};
use gannet_base::names::TenantName;
use gannet_fleet::egress::{Platform, PlatformCaller, Turn};
use gannet_jobs::service::ProgressError;
use gannet_state::config::LiveConfig;
use gannet_state::keyvalue::{Edit, KeyValueError, KeyValueLimits, KeyValues, Write};
use gannet_state::registry::Registry;
use std::sync::Arc;

type Answer = Result<PlatformAnswer, PlatformError>;

/// The platform as guests see it; see the module.
#[derive(Debug, Clone)]
pub(crate) struct GuestPlatform {
    pub(crate) registry: Arc<Registry>,
    pub(crate) live: LiveConfig,
    pub(crate) key_values: Arc<KeyValues>,
    pub(crate) jobs: ServerJobs,
}

impl Platform for GuestPlatform {
    fn call(&self, caller: PlatformCaller, call: PlatformCall) -> BoxFuture<'static, Answer> {
        let platform = self.clone();
        async move {
            match call {
                PlatformCall::CurrentJob => platform.current_job(&caller),
                PlatformCall::Progress(data) => platform.progress(&caller, data),
                PlatformCall::KeyValue { bucket, call } => {
                    call.check()?;
                    platform.key_value(caller, check_bucket(&bucket)?, call).await
                }
            }
        }
        .boxed()
    }
}

fn error_of(error: KeyValueError) -> PlatformError {
    let told = error.to_string();
    match error {
        KeyValueError::NoTenant => PlatformError::Over,
        KeyValueError::Limit(_) | KeyValueError::Full => PlatformError::Refused(told),
        KeyValueError::NoNumber | KeyValueError::Overflow | KeyValueError::TooLarge { .. } => {
            PlatformError::Invalid(told)
        }
        KeyValueError::Unavailable(_) => PlatformError::Failed(told),
        KeyValueError::Unknown(_) => PlatformError::Unknown(told),
    }
}

impl GuestPlatform {
    fn current_job(&self, caller: &PlatformCaller) -> Answer {
        let (id, attempt) = self.jobs.of_attempt(&caller.tenant, caller.request).ok_or(PlatformError::NotAJob)?;
        Ok(PlatformAnswer::Job { id: id.to_string(), attempt })
    }

    fn progress(&self, caller: &PlatformCaller, data: String) -> Answer {
        let told = self.jobs.progress(&caller.tenant, caller.request, data);
        told.map(|()| PlatformAnswer::Done).map_err(|error| match error {
            ProgressError::NotAJob => PlatformError::NotAJob,
            ProgressError::Invalid { .. } => PlatformError::Invalid(error.to_string()),
        })
    }

    async fn key_value(&self, caller: PlatformCaller, bucket: &str, call: KeyValueCall) -> Answer {
        let PlatformCaller { tenant, turn, .. } = caller;
        let values = &self.key_values;
        match call {
            KeyValueCall::Get(keys) => {
                let found = values.get(&tenant, bucket, &keys, BATCH_BYTES_MAX).await.map_err(error_of)?;
                Ok(PlatformAnswer::Values(found.into_iter().map(|value| value.map(Value)).collect()))
            }
            KeyValueCall::Exists(key) => {
                values.exists(&tenant, bucket, &key).await.map(PlatformAnswer::Exists).map_err(error_of)
            }
            KeyValueCall::List(cursor) => {
                let page = values.keys(&tenant, bucket, cursor).await.map_err(error_of)?;
                Ok(PlatformAnswer::Keys { keys: page.keys, cursor: page.cursor })
            }
            KeyValueCall::Set(pairs) => {
                let edits = pairs.into_iter().map(|(key, value)| (key, Edit::Set(value.0))).collect();
                self.write(tenant, bucket, edits, turn).await.map(|_| PlatformAnswer::Done)
            }
            KeyValueCall::Delete(keys) => {
                let edits = keys.into_iter().map(|key| (key, Edit::Delete)).collect();
                self.write(tenant, bucket, edits, turn).await.map(|_| PlatformAnswer::Done)
            }
            KeyValueCall::Increment { key, by } => {
                let number = self.write(tenant, bucket, vec![(key, Edit::Add(by))], turn).await?;
                number.map(PlatformAnswer::Number).ok_or_else(|| PlatformError::Failed("there is no number".into()))
            }
        }
    }

    async fn write(
        &self,
        tenant: TenantName,
        bucket: &str,
        edits: Vec<(String, Edit)>,
        turn: Turn,
    ) -> Result<Option<u64>, PlatformError> {
        let limits = {
            let snapshot = self.registry.snapshot();
            let limits = &snapshot.tenants.get(&tenant).ok_or(PlatformError::Over)?.limits;
            KeyValueLimits { keys: limits.keyvalue_keys, bytes: limits.keyvalue_mib << 20 }
        };
        let bytes = edits.iter().map(|(key, edit)| match edit {
            Edit::Set(value) => key.len() + value.len(),
            Edit::Add(_) => key.len(),
            Edit::Delete => 0,
        });
        let bytes: usize = bytes.sum();
        // Deleting gives space back.
        if bytes > 0 && !has_room(&self.registry, &self.live, bytes as u64) {
            return Err(error_of(KeyValueError::Full));
        }
        let write = Write { tenant, limits, bucket: bucket.to_owned(), edits, held: Box::new(turn) };
        self.key_values.write(write).await.map_err(error_of)
    }
}
