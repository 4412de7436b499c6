//! The only place that configures wasmtime, for the builder that compiles and the worker that runs.
//!
//! Compiled code can only be loaded by an engine with the same settings, so both must take their engine from here.
//! `wasi_http_0_3` is the operator's choice: it enables the component model's asynchronous part, which wasmtime still
//! calls experimental.

use gannet_base::manifest::{INSTANCES_MAX, MEMORY_BYTES_MAX};
use gannet_base::siblings::CALLS_MAX;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use wasmtime::{Config, Enabled, Engine, PoolingAllocationConfig};

/// How often the epoch advances. At each tick a guest yields to its neighbours and its CPU time is checked.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(5);
// A longer tick would make the CPU limit too coarse to mean anything.
const _: () = assert!(EPOCH_TICK.as_millis() <= 10);
/// Stack size of a guest's fiber. Wasm may use half of it.
const FIBER_STACK_BYTES: usize = 1 << 20;
/// What one component may be composed of. The pool has room for as many in each of its instances, so it never runs out:
/// a memory takes 4 GiB of address space, a table is mapped, and a core instance is only counted. A component made from
/// Python has 14 core instances and 2 tables.
const MEMORIES_MAX: u32 = 8;
const TABLES_MAX: u32 = 32;
const CORE_INSTANCES_MAX: u32 = 256;
/// Bytes of an instance's memory that stay mapped for the next instance: page faults cost more than clearing.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

fn config(wasi_http_0_3: bool) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.wasm_component_model_async(wasi_http_0_3);
    config.concurrency_support(wasi_http_0_3);
    config.epoch_interruption(true);
    config.async_stack_size(FIBER_STACK_BYTES);
    config.max_wasm_stack(FIBER_STACK_BYTES / 2);
    config.memory_init_cow(true);
    config
}

/// Returns a name for the engine and its settings. Code that was compiled under another name cannot be loaded.
pub fn compatibility(wasi_http_0_3: bool) -> wasmtime::Result<String> {
    let engine = Engine::new(&config(wasi_http_0_3))?;
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

/// Opens `/proc/self/pagemap`, which wasmtime keeps open for the process. With it, the kernel tells which pages an
/// instance has written (`PAGEMAP_SCAN`, Linux 6.7), and only those are cleared for the next. Where it cannot be opened
/// or the kernel is older, the first [`KEEP_RESIDENT_BYTES`] are cleared whole.
pub(crate) fn open_page_map() -> bool {
    PoolingAllocationConfig::is_pagemap_scan_available()
}

/// Makes the engine of a worker or builder. It reserves address space for all instances.
pub(crate) fn pooling(wasi_http_0_3: bool) -> wasmtime::Result<Engine> {
    let mut config = config(wasi_http_0_3);
    let mut pool = PoolingAllocationConfig::new();
    let instances = INSTANCES_MAX + CALLS_MAX;
    pool.total_component_instances(instances)
        .total_core_instances(instances * CORE_INSTANCES_MAX)
        .total_memories(instances * MEMORIES_MAX)
        .total_tables(instances * TABLES_MAX)
        .total_stacks(instances)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_memory_size(MEMORY_BYTES_MAX)
        .table_elements(100_000)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    config.allocation_strategy(pool);
    Engine::new(&config)
}
