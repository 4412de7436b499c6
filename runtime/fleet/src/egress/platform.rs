//! Calls of guests to the platform. They come over the same connection as outbound HTTP, with a header that only the
//! worker can set; what they do is behind the trait [`Platform`].
//!
//! The socket determines the tenant, and the request must be in flight on this worker. So a worker that its tenant took
//! over acts for this tenant only. A tenant has at most [`TENANT_CALLS_MAX`] calls at once; others wait.

use crate::egress::WorkerEgress;
use bytes::Bytes;
use futures::future::BoxFuture;
use gannet_base::hop::header;
use gannet_base::hop::platform::{BODY_BYTES_MAX, FORMAT, PlatformAnswer, PlatformCall, PlatformError};
use gannet_base::names::{RequestId, TenantName};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Calls of one tenant at once.
const TENANT_CALLS_MAX: usize = 32;
/// Calls of all tenants at once.
const CALLS_MAX: usize = 256;
/// How long a call waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(30);
/// How long the body of a call may take. It comes from a process on this machine.
const BODY_MAX: Duration = Duration::from_secs(5);

/// Who calls.
#[derive(Debug)]
pub struct PlatformCaller {
    /// The tenant whose worker it is.
    pub tenant: TenantName,
    /// The request that the guest serves.
    pub request: RequestId,
    /// Held until the call is over, also if nobody waits for its answer any more.
    pub turn: Turn,
}

/// A call's place among those at once.
#[derive(Debug)]
pub struct Turn {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// Does what guests ask the platform for.
pub trait Platform: Send + Sync + Debug {
    /// Carries out a call.
    fn call(
        &self,
        caller: PlatformCaller,
        call: PlatformCall,
    ) -> BoxFuture<'static, Result<PlatformAnswer, PlatformError>>;
}

/// The platform, once the server has made it, and the turns of calls.
#[derive(Debug)]
pub(super) struct PlatformCalls {
    platform: OnceLock<Arc<dyn Platform>>,
    /// Set with it. Jobs of an earlier run begin while the server still starts.
    is_set: CancellationToken,
    /// By tenant. Made when first needed.
    of_tenants: Mutex<HashMap<TenantName, Arc<Semaphore>>>,
    of_all: Arc<Semaphore>,
}

impl Default for PlatformCalls {
    fn default() -> Self {
        let of_all = Arc::new(Semaphore::new(CALLS_MAX));
        Self { platform: OnceLock::new(), is_set: CancellationToken::new(), of_tenants: Mutex::default(), of_all }
    }
}

impl PlatformCalls {
    /// Sets what carries out the calls. Later calls of this do nothing.
    pub(super) fn set(&self, platform: Arc<dyn Platform>) {
        let _ = self.platform.set(platform);
        self.is_set.cancel();
    }

    /// Returns what carries out the calls; waits until the server has made it.
    async fn platform(&self) -> Option<&Arc<dyn Platform>> {
        timeout(TURN_MAX, self.is_set.cancelled()).await.ok()?;
        self.platform.get()
    }

    /// Waits for a turn of a tenant's call.
    async fn turn(&self, tenant: &TenantName) -> Option<Turn> {
        let of_tenant = {
            let mut all = self.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|name, permits| name == tenant || Arc::strong_count(permits) > 1);
            let made = all.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(TENANT_CALLS_MAX)));
            Arc::clone(made)
        };
        let of_tenant = of_tenant.acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.of_all).acquire_owned().await.ok()?;
        Some(Turn { _of_tenant: of_tenant, _of_all: of_all })
    }
}

/// Answers a call of a worker.
pub(super) async fn answer(worker: &WorkerEgress, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let answer = call(worker, request).await;
    if let Err(error) = &answer {
        tracing::debug!(tenant = %worker.tenant, %error, "a call of the platform was refused");
    }
    let text = serde_json::to_vec(&answer).unwrap_or_default();
    Response::new(Full::new(Bytes::from(text)))
}

async fn call(worker: &WorkerEgress, request: Request<Incoming>) -> Result<PlatformAnswer, PlatformError> {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if text(header::SERVICE) != Some(FORMAT) {
        return Err(PlatformError::Invalid(format!("the format of a call is {FORMAT}")));
    }
    let id = text(header::REQUEST).and_then(RequestId::parse).ok_or(PlatformError::Over)?;
    worker.counter(id).ok_or(PlatformError::Over)?;
    let calls = &worker.egress.platform;
    let failed = |why: &str| PlatformError::Failed(why.into());
    let platform = calls.platform().await.ok_or_else(|| failed("the server is starting"))?;
    let turn = timeout(TURN_MAX, calls.turn(&worker.tenant)).await.ok().flatten();
    let turn = turn.ok_or_else(|| failed("too many calls of the tenant at once"))?;
    let body = timeout(BODY_MAX, Limited::new(request.into_body(), BODY_BYTES_MAX).collect()).await;
    let body = body.map_err(|_| failed("the call did not arrive in time"))?;
    let body = body.map_err(|_| PlatformError::Invalid(format!("a call has at most {BODY_BYTES_MAX} bytes")))?;
    let call: Result<PlatformCall, _> = serde_json::from_slice(&body.to_bytes());
    let call = call.map_err(|error| PlatformError::Invalid(format!("the call is malformed: {error}")))?;
    // While it waited, its request may have ended.
    let counter = worker.counter(id).ok_or(PlatformError::Over)?;
    if call.may_change() {
        // From here on it may have an effect, so the request is not repeated.
        counter.add_call();
    }
    platform.call(PlatformCaller { tenant: worker.tenant.clone(), request: id, turn }, call).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_tenant_waits_for_its_own_calls_and_not_for_those_of_others() {
        let (calls, acme, zoo) = (PlatformCalls::default(), TenantName::new("acme"), TenantName::new("zoo"));
        let turn = |tenant: &TenantName| calls.turn(tenant).now_or_never().flatten();
        let (acme, zoo) = (acme.unwrap(), zoo.unwrap());
        let mut held: Vec<Turn> = (0..TENANT_CALLS_MAX).map(|_| turn(&acme).unwrap()).collect();
        assert!(turn(&acme).is_none(), "{TENANT_CALLS_MAX} at once");
        held.push(turn(&zoo).unwrap());
        held.remove(0);
        held.push(turn(&acme).unwrap());
        assert!(turn(&acme).is_none());
        drop(held);
        assert!(turn(&zoo).is_some());
        assert_eq!(calls.of_tenants.lock().unwrap().len(), 1, "what nobody holds is forgotten");
    }

    #[derive(Debug)]
    struct Nothing;

    impl Platform for Nothing {
        fn call(
            &self,
            _: PlatformCaller,
            _: PlatformCall,
        ) -> BoxFuture<'static, Result<PlatformAnswer, PlatformError>> {
            async { Err(PlatformError::Over) }.boxed()
        }
    }

    #[tokio::test]
    async fn a_call_that_comes_while_the_server_starts_waits() {
        let calls = PlatformCalls::default();
        let (found, ()) = tokio::join!(calls.platform(), async {
            tokio::task::yield_now().await;
            calls.set(Arc::new(Nothing));
        });
        assert!(found.is_some() && calls.platform().now_or_never().flatten().is_some());
    }
}
