//! The host's side of a guest: the data of its store (WASI, HTTP, GPU and limits, a field each), and the linker.
//!
//! A guest reaches nothing but these fields: no network, no files, no other guest. The builder checks imports against
//! the same linker that the worker uses, and runs `init` with it.

pub(crate) mod early_use;
pub(crate) mod memory_limit;
pub(crate) mod log;
pub(crate) mod stdio;
pub(crate) mod outbound;
mod services;

use early_use::EarlyUse;
use gannet_base::hop::LogStream;
use gannet_host_gpu::AssetCatalog;
use gannet_host_gpu::wit::{GpuCtxView, GpuView, LazySession};
use log::RequestLog;
use memory_limit::MemoryLimit;
use outbound::{DropSignal, OutboundClient};
use services::job::ProgressSender;
use services::{ServicesCtx, ServicesView};
use std::sync::Arc;
use stdio::LogPipe;
use wasmtime::Engine;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::cli::StdoutStream;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// Handles a guest may hold at once: buffers, kernels, streams.
const HANDLES_MAX: usize = 10_000;
/// Limit on the random bytes of one call.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// What every guest of a version gets.
pub(crate) struct GuestInputs {
    /// Environment and secrets.
    pub(crate) env: Vec<(String, String)>,
    /// The same values for `wasi:config`.
    pub(crate) config: Arc<WasiConfigVariables>,
    /// The version's assets.
    pub(crate) assets: Arc<AssetCatalog>,
    /// The limit on its linear memory.
    pub(crate) memory_bytes: u64,
}

/// The data of a guest's store.
pub(crate) struct GuestState {
    /// The first field, because it must be dropped before the bodies that the guest is sending.
    _drop_signal: DropSignal,
    config: Arc<WasiConfigVariables>,
    assets: Arc<AssetCatalog>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: HttpHooks,
    /// The progress of the job that its request is an attempt of.
    progress: ProgressSender,
    table: ResourceTable,
    pub(crate) gpu: LazySession,
    pub(crate) memory: MemoryLimit,
    /// None in a builder.
    log: Option<Arc<RequestLog>>,
}

impl GuestState {
    /// Makes the data of a guest in a worker. It has no request yet: [`GuestState::begin_request`] gives it one.
    pub(crate) fn new(inputs: &GuestInputs, log: Arc<RequestLog>, early_use: EarlyUse) -> Self {
        let early_session = early_use.clone();
        let no_session = move || {
            early_session.record();
            Err(gannet_host_gpu::Error::Unsupported("there is no request yet".into()))
        };
        let out = LogPipe { log: Arc::clone(&log), stream: LogStream::Stdout };
        let err = LogPipe { log: Arc::clone(&log), stream: LogStream::Stderr };
        Self {
            _drop_signal: DropSignal(Arc::default()),
            config: Arc::clone(&inputs.config),
            assets: Arc::clone(&inputs.assets),
            wasi: wasi(&inputs.env, out, err),
            http: WasiHttpCtx::new(),
            hooks: HttpHooks { outbound: None, early_use },
            progress: ProgressSender::default(),
            table: table(),
            gpu: LazySession::new(no_session),
            memory: MemoryLimit::new(inputs.memory_bytes),
            log: Some(log),
        }
    }

    /// Makes the data of a guest that runs `init` in a builder. It has its environment and its assets, but no GPU and
    /// no outbound HTTP.
    pub(crate) fn for_init(
        env: &[(String, String)],
        assets: AssetCatalog,
        memory_bytes: u64,
        out: impl StdoutStream + Clone + 'static,
    ) -> Self {
        let no_gpu = || Err(gannet_host_gpu::Error::Unsupported("there is no gpu while init runs, at deploy".into()));
        Self {
            _drop_signal: DropSignal(Arc::default()),
            config: Arc::new(env.iter().cloned().collect()),
            assets: Arc::new(assets),
            wasi: wasi(env, out.clone(), out),
            http: WasiHttpCtx::new(),
            hooks: HttpHooks { outbound: None, early_use: EarlyUse::default() },
            progress: ProgressSender::default(),
            table: table(),
            gpu: LazySession::new(no_gpu),
            memory: MemoryLimit::new(memory_bytes),
            log: None,
        }
    }

    /// Gives the guest its next request: its log, its outbound HTTP and its calls of the platform. What an earlier request left in it stays.
    pub(crate) fn begin_request(&mut self, outbound: OutboundClient) {
        self._drop_signal = DropSignal(Arc::clone(&outbound.guest_dropped));
        outbound.log.begin_request(outbound.request);
        self.hooks.outbound = Some(outbound);
        self.progress = ProgressSender::default();
    }

    /// The log of its requests. None in a builder.
    pub(crate) fn log(&self) -> Option<&Arc<RequestLog>> {
        self.log.as_ref()
    }

    /// Whether it has used what belongs to a request before it had one.
    pub(crate) fn needed_a_request(&self) -> bool {
        self.hooks.early_use.happened()
    }

    /// Whether it holds handles of any kind.
    pub(crate) fn has_handles(&self) -> bool {
        !self.table.is_empty()
    }
}

fn table() -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES_MAX);
    table
}

fn wasi(env: &[(String, String)], out: impl StdoutStream + 'static, err: impl StdoutStream + 'static) -> WasiCtx {
    WasiCtxBuilder::new()
        .stdout(out)
        .stderr(err)
        .envs(env)
        .max_random_size(RANDOM_BYTES_MAX)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

impl GpuView for GuestState {
    fn gpu(&mut self) -> GpuCtxView<'_> {
        GpuCtxView { session: &mut self.gpu, assets: &self.assets, table: &mut self.table }
    }
}

impl ServicesView for GuestState {
    fn services(&mut self) -> ServicesCtx<'_> {
        ServicesCtx {
            client: self.hooks.outbound.as_ref(),
            early_use: &self.hooks.early_use,
            progress: &self.progress,
            table: &mut self.table,
        }
    }
}

/// A linker with everything a component may import.
pub(crate) fn linker(engine: &Engine, wasi_http_0_3: bool) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if wasi_http_0_3 {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    wasmtime_wasi_config::add_to_linker(&mut linker, |guest: &mut GuestState| WasiConfig::from(&*guest.config))?;
    gannet_host_gpu::wit::add_to_linker(&mut linker)?;
    services::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Sends the guest's outbound requests through the front door, or refuses them if there is no client.
struct HttpHooks {
    outbound: Option<OutboundClient>,
    early_use: EarlyUse,
}

type SendResult = Result<
    (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>),
    wasmtime_wasi_http::Error,
>;

impl WasiHttpHooks for HttpHooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _errors: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ) -> Box<dyn Future<Output = SendResult> + Send> {
        let outbound = self.outbound.clone();
        if outbound.is_none() {
            self.early_use.record();
        }
        Box::new(async move {
            let outbound = outbound.ok_or(wasmtime_wasi_http::Error::HttpRequestDenied)?;
            let response = outbound.send(request, options).await?;
            // All requests share one connection, so none of them waits for its end.
            let done: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send> =
                Box::new(std::future::ready(Ok(())));
            Ok((response, done))
        })
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        tracing::debug!(%error, "a body broke off");
        ErrorCode::ConnectionTerminated
    }
}
