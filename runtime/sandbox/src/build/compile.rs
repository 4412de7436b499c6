//! Compiles a component and checks its imports and exports against what a worker offers.
//!
//! In: a valid component. Out: compiled code, in the output file. It never instantiates or runs the component.

use crate::build::component::{self, invalid};
use crate::build::imports;
use crate::guest::linker;
use gannet_base::hop::build::{BuildSpec, Rejected};
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
pub(super) fn compile(engine: &Engine, bytes: &[u8], output: OwnedFd, order: &BuildSpec) -> Result<(), Rejected> {
    let compiled =
        engine.precompile_component(bytes).map_err(|error| invalid(format!("it does not compile: {error:#}")))?;
    if compiled.len() as u64 > order.compiled_bytes_max {
        let (size, limit) = (compiled.len(), order.compiled_bytes_max);
        return Err(invalid(format!("its compiled code has {size} bytes; the limit for its size is {limit}")));
    }
    // SAFETY: compiled above, by this process, with this engine.
    let component = unsafe { Component::deserialize(engine, &compiled) }
        .map_err(|error| invalid(format!("it does not load: {error:#}")))?;
    let linker = linker(engine, order.wasi_http_0_3).map_err(|error| invalid(format!("{error:#}")))?;
    let instance = linker.instantiate_pre(&component).map_err(|error| {
        match imports::missing(engine, &linker, &component).as_slice() {
            [] => invalid(format!("its imports do not fit: {error:#}")),
            missing => invalid(imports::explain(missing, &imports::world(engine, &component))),
        }
    })?;
    if ServicePre::new(instance.clone()).is_err() && ProxyPre::new(instance).is_err() {
        let world = imports::world(engine, &component);
        return Err(invalid(format!("it has no handler: a function exports wasi:http/incoming-handler 0.2; {world}")));
    }
    let mut output = File::from(output);
    let written = output.write_all(&compiled).and_then(|()| output.sync_all());
    written.map_err(|error| invalid(format!("the compiled component could not be written: {error}")))
}
