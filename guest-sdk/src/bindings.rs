//! The interface of `wit/`, as generated code. The rest of the crate wraps it; functions do not see it.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::undocumented_unsafe_blocks,
    reason = "generated; documented in wit/"
)]

wit_bindgen::generate!({
    path: "../wit",
    world: "gannet:gpu/function",
    pub_export_macro: true,
    export_macro_name: "export_handler",
    generate_all,
});

/// The export of functions with a snapshot.
pub mod snapshot {
    wit_bindgen::generate!({
        path: "../wit",
        world: "gannet:gpu/snapshot",
        pub_export_macro: true,
        export_macro_name: "export_snapshot",
    });
}
