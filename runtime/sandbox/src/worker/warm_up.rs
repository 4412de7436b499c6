//! Loads and runs a tiny component before the worker is ready.
//!
//! The first load of a process takes milliseconds more than later ones (signal handlers, code registries, pages of the
//! binary and of the pool). A spare worker has time for that; a tenant's first request does not. The component is our
//! own: no tenant's code may run here.

use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

const COMPONENT: &[u8] = include_bytes!("warm_up.wasm");

/// Runs the component. An error means that this binary is broken.
pub(super) async fn run(engine: &Engine) -> wasmtime::Result<()> {
    let compiled = engine.precompile_component(COMPONENT)?;
    // SAFETY: compiled a line above, by this process, with this engine.
    let component = unsafe { Component::deserialize(engine, &compiled)? };
    let instance = Linker::<()>::new(engine).instantiate_pre(&component)?;
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = instance.instantiate_async(&mut store).await?;
    let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    run.call_async(&mut store, ()).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn the_binary_is_the_text() {
        assert_eq!(wat::parse_str(include_str!("warm_up.wat")).unwrap(), super::COMPONENT);
    }
}
