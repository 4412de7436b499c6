//! A guest's store: WASI, HTTP, GPU and limits, each in its own field, made for one request.

use crate::worker::egress::{Calls, CutOnDrop};
use crate::worker::log::{LogPipe, RequestLog};
use gannet_host_gpu::AssetCatalog;
use gannet_host_gpu::wit::{GpuCtxView, GpuView, LazySession};
use std::sync::Arc;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, ResourceLimiter};
use wasmtime_wasi::cli::StdoutStream;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// Handles a guest may hold at once: buffers, kernels, streams.
const HANDLES_MAX: usize = 10_000;
/// Random bytes in one call.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// Entries of one table.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// What each guest of a version is given.
pub(crate) struct GuestInputs {
    /// Environment and secrets.
    pub(crate) env: Vec<(String, String)>,
    /// The same for `wasi:config`.
    pub(crate) config: Arc<WasiConfigVariables>,
    /// The version's assets.
    pub(crate) assets: Arc<AssetCatalog>,
    /// The linear memory that it may have.
    pub(crate) memory_bytes: u64,
}

/// The data of a guest's store.
pub(crate) struct Guest {
    /// First, because it must be dropped before what the guest was sending.
    _cut: CutOnDrop,
    config: Arc<WasiConfigVariables>,
    assets: Arc<AssetCatalog>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    pub(crate) gpu: LazySession,
    pub(crate) memory: MemoryLimit,
}

impl Guest {
    pub(crate) fn new(inputs: &GuestInputs, out: LogPipe, err: LogPipe, gpu: LazySession, calls: Calls) -> Self {
        Self {
            _cut: CutOnDrop(Arc::clone(&calls.cut)),
            config: Arc::clone(&inputs.config),
            assets: Arc::clone(&inputs.assets),
            wasi: wasi(&inputs.env, out, err),
            http: WasiHttpCtx::new(),
            hooks: Hooks(Some(calls)),
            table: table(),
            gpu,
            memory: MemoryLimit::new(inputs.memory_bytes),
        }
    }

    /// A guest that runs `init` in a builder. It has its environment and its assets, and neither a GPU nor a way out.
    pub(crate) fn for_init(
        env: &[(String, String)],
        assets: AssetCatalog,
        memory_bytes: u64,
        out: impl StdoutStream + Clone + 'static,
    ) -> Self {
        let no_gpu = || Err(gannet_host_gpu::Error::Unsupported("there is no gpu while init runs, at deploy".into()));
        Self {
            _cut: CutOnDrop(Arc::default()),
            config: Arc::new(env.iter().cloned().collect()),
            assets: Arc::new(assets),
            wasi: wasi(env, out.clone(), out),
            http: WasiHttpCtx::new(),
            hooks: Hooks(None),
            table: table(),
            gpu: LazySession::new(no_gpu),
            memory: MemoryLimit::new(memory_bytes),
        }
    }

    /// Begins to serve another request, with what the last one left.
    pub(crate) fn begin_again(&mut self, calls: Calls) {
        self._cut = CutOnDrop(Arc::clone(&calls.cut));
        calls.log.begin_again(calls.request);
        self.hooks = Hooks(Some(calls));
    }

    /// The log of its requests.
    pub(crate) fn log(&self) -> Option<&Arc<RequestLog>> {
        self.hooks.0.as_ref().map(|calls| &calls.log)
    }

    /// Whether it holds handles: streams, assets, anything.
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

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

impl GpuView for Guest {
    fn gpu(&mut self) -> GpuCtxView<'_> {
        GpuCtxView { session: &mut self.gpu, assets: &self.assets, table: &mut self.table }
    }
}

/// A linker with everything a component may import.
pub(crate) fn linker(engine: &Engine, wasi_http_0_3: bool) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if wasi_http_0_3 {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    wasmtime_wasi_config::add_to_linker(&mut linker, |guest: &mut Guest| WasiConfig::from(&*guest.config))?;
    gannet_host_gpu::wit::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// How the guest's HTTP behaves beyond the standard: it calls out by the front door, if at all.
struct Hooks(Option<Calls>);

type Sent = Result<
    (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>),
    wasmtime_wasi_http::Error,
>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _errors: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let calls = self.0.clone();
        Box::new(async move {
            let calls = calls.ok_or(wasmtime_wasi_http::Error::HttpRequestDenied)?;
            let response = calls.send(request, options).await?;
            // The connection is not this call's own.
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

/// Counts an instance's linear memories together.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    limit: usize,
    used: usize,
    /// Whether growth was refused: most guests then trap, and this is why.
    pub(crate) refused: bool,
}

impl MemoryLimit {
    fn new(bytes: u64) -> Self {
        Self { limit: usize::try_from(bytes).unwrap_or(usize::MAX), used: 0, refused: false }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes of all its memories.
    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.used.saturating_add(desired.saturating_sub(current));
        if total > self.limit {
            self.refused = true;
            return Ok(false);
        }
        self.used = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}
