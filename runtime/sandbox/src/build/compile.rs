//! Compiles a component and checks its imports and exports against what a worker offers.
//!
//! In: a valid component. Out: compiled code, in the output file. It never instantiates or runs the component.

use crate::build::component::{self, invalid};
use crate::guest::linker;
use gannet_base::hop::build::Rejected;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

/// Refuses a component for `wasi:http/service` 0.3 where the operator has not enabled it.
pub(super) fn refuse_0_3(bytes: &[u8], wasi_http_0_3: bool) -> Result<(), Rejected> {
    if !wasi_http_0_3 && component::is_service_0_3(bytes) {
        return Err(invalid(
            "it is for wasi:http/service 0.3, which this server has not enabled (wasi_http_0_3 = true)",
        ));
    }
    Ok(())
}

/// Compiles the component, checks that it can be served, and writes the compiled code to `output`.
pub(super) fn compile(engine: &Engine, bytes: &[u8], output: OwnedFd, wasi_http_0_3: bool) -> Result<(), Rejected> {
    let compiled =
        engine.precompile_component(bytes).map_err(|error| invalid(format!("it does not compile: {error:#}")))?;
    // SAFETY: compiled a line above, by this process, with this engine.
    let component = unsafe { Component::deserialize(engine, &compiled) }
        .map_err(|error| invalid(format!("it does not load: {error:#}")))?;
    let linker = linker(engine, wasi_http_0_3).map_err(|error| invalid(format!("{error:#}")))?;
    let instance = linker.instantiate_pre(&component).map_err(|error| {
        let unknown: Vec<String> = component
            .component_type()
            .imports(engine)
            .map(|(name, _)| name.to_owned())
            .filter(|name| !name.starts_with("wasi:") && !name.starts_with("gannet:gpu/"))
            .collect();
        if unknown.is_empty() {
            invalid(format!("its imports do not fit: {error:#}"))
        } else {
            invalid(format!("unknown imports: {}", unknown.join(", ")))
        }
    })?;
    if ServicePre::new(instance.clone()).is_err() && ProxyPre::new(instance).is_err() {
        return Err(invalid("it has no handler: a function exports wasi:http/incoming-handler 0.2"));
    }
    let mut output = File::from(output);
    let written = output.write_all(&compiled).and_then(|()| output.sync_all());
    written.map_err(|error| invalid(format!("the compiled component could not be written: {error}")))
}
