//! Runs one request: a fresh instance, metered, with its limits, dropped when it is done; or one that has served before, where
//! the manifest says so.
//!
//! The guest's future is polled by the connection's own task, first here until there is an answer,
//! then by the answer's body ([`crate::worker::answer`]). No other task is woken, and dropping the body is
//! all it takes to cancel.

use crate::worker::answer::AnswerBody;
use crate::worker::context::WorkerContext;
use crate::worker::cpu::Metered;
use crate::worker::egress::Calls;
use crate::worker::guest::Guest;
use crate::worker::idle::IdleInstance;
use crate::worker::load::{Entry, Loaded};
use crate::worker::log::{LogPipe, RequestLog};
use crate::worker::received::Received;
use crate::worker::usage::{Answered, RequestUsage, Running};
use crate::worker::{answer, received, service};
use gannet_base::hop::{Fault, FaultCode, LogStream, Work, header};
use gannet_base::names::RequestId;
use gannet_host_gpu::wit::LazySession;
use gannet_host_gpu::{Session, SessionLimits};
use http::{HeaderMap, HeaderName, Request, Response};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

/// Longer messages of a trap are cut.
const DETAIL_BYTES_MAX: usize = 2000;

/// What the hop's headers say.
struct Envelope {
    version: u64,
    request: RequestId,
    deadline: Duration,
}

fn take<T>(headers: &mut HeaderMap, name: &HeaderName, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    headers.remove(name)?.to_str().ok().and_then(parse)
}

fn envelope(headers: &mut HeaderMap) -> Option<Envelope> {
    Some(Envelope {
        version: take(headers, &header::VERSION, |text| text.parse().ok())?,
        request: take(headers, &header::REQUEST, RequestId::parse)?,
        deadline: take(headers, &header::DEADLINE, |text| text.parse().ok()).map(Duration::from_millis)?,
    })
}

/// Serves one request of the front door.
pub(super) async fn request(
    shared: Arc<WorkerContext>,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let arrived = Instant::now();
    let Some(envelope) = envelope(request.headers_mut()) else {
        return Ok(answer::fault(Work::default(), FaultCode::Unavailable, "the hop's headers are missing"));
    };
    let loaded = shared.versions.lock().unwrap_or_else(PoisonError::into_inner).get(&envelope.version).cloned();
    let Some(loaded) = loaded else {
        return Ok(answer::fault(Work::default(), FaultCode::Unavailable, "the version is not loaded"));
    };
    let usage =
        Arc::new(RequestUsage { arrived, start_ns: AtomicU64::new(0), cpu: Arc::default(), gpu: OnceLock::new() });
    let (sender, receiver) = oneshot::channel();
    let deadline = tokio::time::Instant::now() + envelope.deadline;
    let (request, received) = received::watch(request);
    let started = start(&shared, &loaded, &envelope, &usage, request, sender);
    let running = match started {
        Ok(running) => running,
        Err(error) => return Ok(answer::fault(usage.work(None), FaultCode::Unavailable, &format!("{error:#}"))),
    };
    let (request, limits) = (envelope.request, loaded.limits.clone());
    let context = answer::Context { shared, usage, request, limits, received, owed: true };
    Ok(answer::first(context, running, receiver, deadline).await)
}

fn start(
    shared: &Arc<WorkerContext>,
    loaded: &Arc<Loaded>,
    envelope: &Envelope,
    usage: &Arc<RequestUsage>,
    request: Request<Received>,
    answer: oneshot::Sender<Answered>,
) -> wasmtime::Result<Running> {
    let reused = (loaded.limits.instance_reuse > 1).then(|| shared.idle.take(loaded.key)).flatten();
    let (mut store, kept) = match reused {
        Some(IdleInstance { mut store, proxy, served, place }) => {
            begin_again(shared, loaded, envelope.request, usage, store.data_mut());
            (store, Some((proxy, served, place)))
        }
        None => {
            let mut store = Store::new(&shared.engine, guest(shared, loaded, envelope.request, usage));
            store.limiter(|guest| &mut guest.memory);
            (store, None)
        }
    };
    let (cpu, limit_ms) = (Arc::clone(&usage.cpu), loaded.limits.cpu_ms);
    store.epoch_deadline_callback(move |_| {
        if cpu.used_now_ns() / 1_000_000 >= limit_ms {
            return Err(CpuSpent { limit_ms }.into());
        }
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store.set_epoch_deadline(1);
    let (shared, loaded, usage) = (Arc::clone(shared), Arc::clone(loaded), Arc::clone(usage));
    let (cpu, ticker) = (Arc::clone(&usage.cpu), Arc::clone(&shared.ticker));
    let guest = async move {
        let (kept, served, place) = match kept {
            Some((proxy, served, place)) => (Some(proxy), served, Some(place)),
            None => (None, 0, shared.idle.place(&shared.instances).await),
        };
        let result = match &loaded.entry {
            Entry::Proxy(pre) => proxy(pre, kept, &mut store, request, answer, &usage).await.map(Some),
            Entry::Service(pre) => service::run(pre, &mut store, request, answer, &usage).await.map(|()| None),
        };
        // Its memory must be free before the place is.
        let drained = usage.drain().await;
        let ended = match result {
            // One that leaves work behind, gives no answer or has run out of memory does not serve again.
            Ok(Some((proxy, answered)))
                if served + 1 < loaded.limits.instance_reuse && drained && answered && !store.data().memory.refused =>
            {
                if let Some(place) = place {
                    shared.idle.put(loaded.key, IdleInstance { store, proxy, served: served + 1, place });
                }
                return Ok(());
            }
            Ok(_) => Ok(()),
            Err(error) => match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
                // Its way of saying that it is done; whether it has answered is another question.
                Some(exit) if exit.0 == 0 => Ok(()),
                _ => Err(error),
            },
        };
        let ended = ended.map_err(|error| {
            // Where it happened is for the function's author: it goes to the log.
            if let Some(log) = store.data().log() {
                log.lines(LogStream::Stderr, &format!("{error:#}"));
            }
            classify(&error, store.data(), &loaded)
        });
        drop(store);
        drop(place);
        ended
    };
    Ok(Box::pin(Metered::new(guest, cpu, ticker)))
}

/// `wasi:http/proxy` 0.2: instantiates, unless there is an instance, and calls the guest. Answers the instance, and whether it
/// has answered.
async fn proxy(
    pre: &ProxyPre<Guest>,
    kept: Option<Proxy>,
    store: &mut Store<Guest>,
    request: Request<Received>,
    answer: oneshot::Sender<Answered>,
    usage: &RequestUsage,
) -> wasmtime::Result<(Proxy, bool)> {
    let incoming = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let answered = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&answered);
    let outparam = store.data_mut().http().new_response_outparam_from_callback(move |value| {
        told.store(value.is_ok(), Ordering::Relaxed);
        // The receiver is gone when the deadline has passed.
        let _ = answer.send(value.map_err(|code| format!("{code:?}")));
    })?;
    let proxy = match kept {
        Some(proxy) => proxy,
        None => pre.instantiate_async(&mut *store).await?,
    };
    usage.started();
    proxy.wasi_http_incoming_handler().call_handle(&mut *store, incoming, outparam).await?;
    Ok((proxy, answered.load(Ordering::Relaxed)))
}

fn guest(shared: &WorkerContext, loaded: &Loaded, request: RequestId, usage: &Arc<RequestUsage>) -> Guest {
    let log = RequestLog::new(&shared.logs, loaded.key, request, loaded.limits.log_bytes, &loaded.secrets);
    let out = LogPipe { log: Arc::clone(&log), stream: LogStream::Stdout };
    let err = LogPipe { log: Arc::clone(&log), stream: LogStream::Stderr };
    let mut slot = LazySession::new(session(shared, loaded, usage));
    prefetch(shared, loaded, &mut slot);
    Guest::new(&loaded.inputs, out, err, slot, calls(shared, loaded, request, log))
}

/// Lets a guest that has served before serve another request.
fn begin_again(
    shared: &WorkerContext,
    loaded: &Loaded,
    request: RequestId,
    usage: &Arc<RequestUsage>,
    guest: &mut Guest,
) {
    if let Some(session) = guest.gpu.begin_again(session(shared, loaded, usage)) {
        tell(usage, session);
    }
    prefetch(shared, loaded, &mut guest.gpu);
    if let Some(log) = guest.log().cloned() {
        guest.begin_again(calls(shared, loaded, request, log));
    }
}

/// What makes a guest's session when it first uses the GPU.
fn session(
    shared: &WorkerContext,
    loaded: &Loaded,
    usage: &Arc<RequestUsage>,
) -> impl Fn() -> Result<Session, gannet_host_gpu::Error> + Send + use<> {
    let limits = SessionLimits {
        memory_bytes: loaded.limits.gpu_memory_bytes,
        gpu_ns: loaded.limits.gpu_time_ms.saturating_mul(1_000_000),
    };
    let (device, catalog, usage) = (shared.device.clone(), Arc::clone(&loaded.catalog), Arc::clone(usage));
    move || {
        let session = Session::new(device.clone()?, Arc::clone(&catalog), limits);
        tell(&usage, &session);
        Ok(session)
    }
}

/// Tells a request's usage what it uses of the GPU.
fn tell(usage: &RequestUsage, session: &Session) {
    let _ = usage.gpu.set((Arc::clone(session.usage()), Arc::clone(session.memory()), session.drainer()));
}

fn calls(shared: &WorkerContext, loaded: &Loaded, request: RequestId, log: Arc<RequestLog>) -> Calls {
    Calls { egress: Arc::clone(&shared.egress), version: loaded.key, request, log, cut: Arc::default() }
}

/// Smaller assets are read on the CPU, as a rule, and quickly brought to the GPU.
const PREFETCHED_BYTES_MIN: u64 = 1 << 20;

/// Sends a version's assets on their way to the GPU while its instance starts.
fn prefetch(shared: &WorkerContext, loaded: &Loaded, slot: &mut LazySession) {
    let Ok(device) = &shared.device else { return };
    let mut large = loaded.inputs.assets.values().filter(|asset| asset.size() >= PREFETCHED_BYTES_MIN).peekable();
    if large.peek().is_none() {
        return;
    }
    // A guest without a session is told why when it uses the GPU.
    let Ok(session) = slot.open() else { return };
    for asset in large {
        device.prefetch_asset(asset, Some(session.usage()));
    }
}

/// The guest used up its CPU time.
#[derive(Debug, thiserror::Error)]
#[error("the function used its {limit_ms} ms of cpu time")]
struct CpuSpent {
    limit_ms: u64,
}

fn classify(error: &wasmtime::Error, guest: &Guest, loaded: &Loaded) -> Fault {
    if error.downcast_ref::<CpuSpent>().is_some() {
        let detail = format!("the function used its cpu time: limits.cpu_ms = {}", loaded.limits.cpu_ms);
        return Fault { code: FaultCode::DeadlineExceeded, detail };
    }
    if guest.memory.refused {
        let detail =
            format!("the function reached its memory limit: limits.memory_mib = {}", guest.memory.limit() >> 20);
        return Fault { code: FaultCode::MemoryLimit, detail };
    }
    if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        let detail = format!("the function exited with status {} instead of answering", exit.0);
        return Fault { code: FaultCode::FunctionTrapped, detail };
    }
    // It may hold what the guest said, and that goes into answers and receipts.
    let mut detail = error.root_cause().to_string();
    if let Some(log) = guest.log() {
        detail = log.mask(detail);
    }
    if let Some((cut, _)) = detail.char_indices().nth(DETAIL_BYTES_MAX) {
        detail.truncate(cut);
    }
    Fault { code: FaultCode::FunctionTrapped, detail }
}
