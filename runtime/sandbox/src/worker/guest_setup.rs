//! What a request gives its guest: a log, a session on the GPU, and a client for outbound HTTP.
//!
//! A guest keeps its log's streams over several requests, and its session, whose counters start again.

use crate::guest::GuestState;
use crate::guest::early_use::EarlyUse;
use crate::guest::log::RequestLog;
use crate::guest::outbound::OutboundClient;
use crate::worker::context::{RequestContext, WorkerContext};
use crate::worker::version::LoadedVersion;
use gannet_host_gpu::wit::LazySession;
use gannet_host_gpu::{Session, SessionLimits};
use std::sync::Arc;

/// Smaller assets are not prefetched: they are mostly read on the CPU, and uploading them to the GPU
/// takes little time.
const PREFETCHED_BYTES_MIN: u64 = 1 << 20;

/// Makes a guest that has no request yet.
pub(super) fn new_guest(worker: &WorkerContext, version: &LoadedVersion) -> GuestState {
    let early_use = EarlyUse::default();
    let log =
        RequestLog::new(&worker.log_sink, version.key, version.limits.log_bytes, &version.secrets, early_use.clone());
    GuestState::new(&version.inputs, log, early_use)
}

/// Gives a guest its next request. It may be new, or have served before.
pub(super) fn begin_request(context: &RequestContext, guest: &mut GuestState) {
    if let Some(session) = guest.gpu.begin_again(session_maker(context), session_limits(context)) {
        context.usage.set_session(session);
    }
    guest.memory.set_limit(context.version.inputs.memory_bytes);
    if let Some(log) = guest.log().cloned() {
        guest.begin_request(outbound_client(context, log));
    }
    prefetch_assets(context, &mut guest.gpu);
}

fn session_limits(context: &RequestContext) -> SessionLimits {
    let limits = &context.version.limits;
    SessionLimits {
        memory_bytes: limits.gpu_memory_bytes,
        gpu_ns: context.limits.gpu_time_ms.saturating_mul(1_000_000),
        loop_work: u32::try_from(limits.loop_mi_ops << 20).unwrap_or(u32::MAX),
    }
}

/// Returns the function that makes the guest's session. It is called when the guest first uses the GPU.
fn session_maker(context: &RequestContext) -> impl Fn() -> Result<Session, gannet_host_gpu::Error> + Send + use<> {
    let limits = session_limits(context);
    let (device, kernels) = (context.worker.device.clone(), Arc::clone(&context.version.kernels));
    let usage = Arc::clone(&context.usage);
    move || {
        let session = Session::new(device.clone()?, Arc::clone(&kernels), limits);
        usage.set_session(&session);
        Ok(session)
    }
}

fn outbound_client(context: &RequestContext, log: Arc<RequestLog>) -> OutboundClient {
    OutboundClient {
        connection: Arc::clone(&context.worker.outbound),
        version: context.version.key,
        request: context.request,
        log,
        guest_dropped: Arc::default(),
    }
}

/// Starts to upload the version's large assets to the GPU, while its instance starts.
fn prefetch_assets(context: &RequestContext, session: &mut LazySession) {
    let Ok(device) = &context.worker.device else { return };
    let assets = context.version.inputs.assets.values();
    let mut large = assets.filter(|asset| asset.size() >= PREFETCHED_BYTES_MIN).peekable();
    if large.peek().is_none() {
        return;
    }
    // If there is no session, the guest learns the reason when it uses the GPU.
    let Ok(session) = session.open() else { return };
    for asset in large {
        device.prefetch_asset(asset, Some(session.usage()));
    }
}
