//! `[build] snapshot`: runs a component's `init` once, and makes a component that starts with the memory it left.
//!
//! ```text
//!  instrument ▶ compile ▶ instantiate ▶ init ▶ no handles left? ▶ read memories and globals ▶ rewrite
//! ```
//!
//! The method, and the code that instruments and rewrites, is Wizer's. `init` sees the component's assets and
//! environment, but no secrets and no GPU. A snapshot holds only memory: a handle that `init` keeps (of a stream it
//! printed to, say) would refer to something else, or to nothing, in an instance. So a component that keeps one is
//! refused.

use crate::guest::{GuestState, linker};
use gannet_base::hop::build::{InitSpec, RejectCode, Rejected};
use gannet_host_gpu::{AssetCatalog, AssetFile};
use std::fs::File;
use std::os::fd::OwnedFd;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Instance, Lift, Val, WasmList};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wizer::{ComponentInstanceState, Wizer};

/// The name of the export that is run.
const INIT: &str = "init";
/// Limit on what `init` may print. The output is shown when `init` fails.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// At most this many bytes of the output are shown: the last ones.
const SHOWN_BYTES_MAX: usize = 2_000;

fn rejected(detail: impl std::fmt::Display) -> Rejected {
    Rejected { code: RejectCode::InitFailed, detail: format!("snapshot: {detail}") }
}

/// Returns the component with the memory that its `init` left. Calls `begins` when the component is compiled and `init` is
/// about to run. The caller makes the runtime, because the last layer of confinement no longer allows that.
pub(super) fn snapshot(
    runtime: &tokio::runtime::Runtime,
    engine: &Engine,
    bytes: &[u8],
    (order, assets): (&InitSpec, Vec<OwnedFd>),
    wasi_http_0_3: bool,
    begins: impl FnOnce() -> Result<(), Rejected>,
) -> Result<Vec<u8>, Rejected> {
    let wizer = Wizer::new();
    let (context, instrumented) =
        wizer.instrument_component(bytes).map_err(|error| rejected(format!("it cannot be taken: {error:#}")))?;
    let component =
        Component::new(engine, &instrumented).map_err(|error| rejected(format!("it does not compile: {error:#}")))?;
    begins()?;
    runtime.block_on(async {
        let output = MemoryOutputPipe::new(OUTPUT_BYTES_MAX);
        let env: Vec<(String, String)> = order.env.clone().into_iter().collect();
        let guest = GuestState::for_init(&env, asset_catalog(order, assets), order.memory_bytes, output.clone());
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.memory);
        // Each memory is read by one call that returns all of it, so the size of a call's result must not be limited.
        // The front door enforces the time limit.
        store.set_hostcall_fuel(usize::MAX);
        store.set_epoch_deadline(u64::MAX >> 1);
        let linker = linker(engine, wasi_http_0_3).map_err(rejected)?;
        let instance = linker.instantiate_async(&mut store, &component).await;
        let instance = instance.map_err(|error| rejected(format!("it cannot be instantiated: {error:#}")))?;
        if let Err(why) = init(&mut store, &component, &instance).await {
            return Err(rejected(describe_failure(&why, &store, &output)));
        }
        if store.data().has_handles() {
            return Err(rejected(
                "init left a handle open, which does not exist in an instance: it must not print, and must drop what it opens",
            ));
        }
        let mut state = SnapshotInstance { store: &mut store, instance, failure: None };
        let taken = wizer.snapshot_component(&context, &mut state).await;
        if let Some(why) = state.failure {
            return Err(rejected(format!("its memory could not be read: {why}")));
        }
        let taken = taken.map_err(|error| rejected(format!("{error:#}")))?;
        if taken.len() as u64 > order.bytes_max {
            let (size, limit) = (taken.len(), order.bytes_max);
            return Err(rejected(format!("the component and its memory have {size} bytes; the limit is {limit}")));
        }
        Ok(taken)
    })
}

fn asset_catalog(order: &InitSpec, files: Vec<OwnedFd>) -> AssetCatalog {
    let files = order.assets.iter().zip(files);
    files
        .map(|(asset, file)| (asset.name.clone(), AssetFile::new(File::from(file), asset.size, asset.digest.clone())))
        .collect()
}

/// Calls `init`, which takes nothing and returns nothing or a `result` whose error is a string.
async fn init(store: &mut Store<GuestState>, component: &Component, instance: &Instance) -> Result<(), String> {
    let export = component.get_export(None, INIT);
    let Some((ComponentItem::ComponentFunc(function), index)) = export else {
        return Err("it exports no function init".into());
    };
    let results = function.results().len();
    if function.params().len() != 0 || results > 1 {
        return Err("init must take no arguments and return nothing or result<_, string>".into());
    }
    let mut returned = vec![Val::Bool(false); results];
    let function = instance.get_func(&mut *store, index).ok_or("the function init is missing")?;
    function
        .call_async(&mut *store, &[], &mut returned)
        .await
        .map_err(|error| format!("init: {}", error.root_cause()))?;
    match returned.pop() {
        Some(Val::Result(Err(Some(why)))) => match *why {
            Val::String(why) => Err(format!("init: {why}")),
            _ => Err("init failed".into()),
        },
        Some(Val::Result(Err(None))) => Err("init failed".into()),
        _ => Ok(()),
    }
}

/// Says why `init` failed, with the end of what it printed.
fn describe_failure(why: &str, store: &Store<GuestState>, output: &MemoryOutputPipe) -> String {
    let mut text = why.to_owned();
    if store.data().memory.growth_refused {
        text.push_str(&format!(
            "; it reached its memory limit: limits.memory_mib = {}",
            store.data().memory.limit() >> 20
        ));
    }
    let printed = output.contents();
    let printed = String::from_utf8_lossy(&printed);
    let printed = printed.trim();
    if !printed.is_empty() {
        let from = printed.ceil_char_boundary(printed.len().saturating_sub(SHOWN_BYTES_MAX));
        text.push_str("; it printed: ");
        text.push_str(printed.get(from..).unwrap_or_default());
    }
    text
}

/// The instance whose memory Wizer reads, after `init`.
struct SnapshotInstance<'a> {
    store: &'a mut Store<GuestState>,
    instance: Instance,
    /// The first call that failed. Wizer's interface cannot return errors.
    failure: Option<String>,
}

impl SnapshotInstance<'_> {
    async fn try_call<R: Lift + Send + Sync + 'static>(
        &mut self,
        instance: &str,
        function: &str,
    ) -> wasmtime::Result<R> {
        let outer = self.instance.get_export_index(&mut *self.store, None, instance);
        let index = self.instance.get_export_index(&mut *self.store, outer.as_ref(), function);
        let index = index.ok_or_else(|| wasmtime::format_err!("there is no {instance}#{function}"))?;
        let function = self.instance.get_typed_func::<(), (R,)>(&mut *self.store, index)?;
        Ok(function.call_async(&mut *self.store, ()).await?.0)
    }

    async fn call<R: Lift + Send + Sync + 'static>(&mut self, instance: &str, function: &str) -> Option<R> {
        match self.try_call(instance, function).await {
            Ok(value) => Some(value),
            Err(error) => {
                self.failure.get_or_insert(format!("{error:#}"));
                None
            }
        }
    }
}

impl ComponentInstanceState for SnapshotInstance<'_> {
    async fn call_func_ret_list_u8(&mut self, instance: &str, func: &str, contents: impl FnOnce(&[u8]) + Send) {
        match self.call::<WasmList<u8>>(instance, func).await {
            Some(list) => contents(list.as_le_slice(&*self.store)),
            None => contents(&[]),
        }
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.call(instance, func).await.unwrap_or(0)
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.call(instance, func).await.unwrap_or(0)
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.call::<f32>(instance, func).await.map_or(0, f32::to_bits)
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.call::<f64>(instance, func).await.map_or(0, f64::to_bits)
    }
}
