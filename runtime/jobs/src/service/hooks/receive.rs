//! What is posted to a hook: it is verified, and makes a job, once for each delivery.

use super::calls::sealed_name;
use crate::hook::event::Event;
use crate::hook::record::Hook;
use crate::hook::signed::{Unverified, check};
use crate::job::{JobId, Policy, State};
use crate::keys;
use crate::runner::{JobLimits, Runner};
use crate::service::shared::Jobs;
use crate::service::submit::{Once, Origin, Submission, SubmitError};
use gannet_base::names::{FunctionName, HookName, TenantName};
use std::io;

/// A hook whose URL the sender knows.
#[derive(Debug)]
pub struct OpenHook(Hook);

/// The job of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its id.
    pub id: JobId,
    /// Its state. None: the delivery is known, and its job's result is not kept any more.
    pub state: Option<State>,
}

/// Why a delivery was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It is not signed as it must be.
    #[error(transparent)]
    Unverified(#[from] Unverified),
    /// It cannot be a job.
    #[error("{0}")]
    Invalid(String),
    /// Its job was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

impl From<io::Error> for ReceiveError {
    fn from(error: io::Error) -> Self {
        Self::Submit(error.into())
    }
}

impl<R: Runner> Jobs<R> {
    /// Returns the hook with this name, if the token is its.
    pub async fn open_hook(
        &self,
        (tenant, function): (&TenantName, &FunctionName),
        name: &HookName,
        token: &str,
    ) -> io::Result<Option<OpenHook>> {
        let found = self.shared.hook(tenant, function, name).await?;
        let now = self.shared.clock.now();
        Ok(found.map(|(hook, _)| hook).filter(|hook| hook.opens(token, now)).map(OpenHook))
    }

    /// Makes the job of a delivery. It is durable when this returns. The same delivery gives the same job.
    pub async fn receive(&self, hook: &OpenHook, event: &Event, limits: JobLimits) -> Result<Received, ReceiveError> {
        let (shared, OpenHook(hook)) = (&self.shared, hook);
        let name = sealed_name(&hook.name, &hook.function);
        let open = |sealed: &str| shared.webhooks.vault.unseal(&hook.tenant, &name, sealed).map_err(io::Error::other);
        let secrets = hook.secrets(shared.clock.now()).map(open).collect::<io::Result<Vec<String>>>()?;
        // The sender's clock is the wall's.
        let now_s = jiff::Timestamp::now().as_second();
        check(hook.verify, hook.header.as_deref(), &secrets, (&event.headers, &event.body), now_s)?;
        let delivery = event.delivery(hook).map_err(ReceiveError::Invalid)?;
        let once = delivery.map(|delivery| Once {
            key: keys::idempotency(&hook.tenant, &hook.function, &delivery.key),
            body: delivery.body,
            keep_ms: delivery.keep_ms,
            is_exact: true,
        });
        let submission = Submission {
            tenant: hook.tenant.clone(),
            function: hook.function.clone(),
            input: event.input(hook).map_err(io::Error::other)?,
            policy: Policy::default(),
            sync: false,
            webhook: hook.webhook.clone(),
            idempotency_key: None,
            limits,
        };
        let path = Some(hook.path.clone()).filter(|path| path != "/");
        let (id, state) = self.submit_from(submission, Origin { once, path }).await?;
        Ok(Received { id, state })
    }
}
