//! The attribute macros of `gannet-sdk`; use them as `gannet_sdk::handler` and `gannet_sdk::init`.

use proc_macro::TokenStream;
use quote::quote;
use syn::{ItemFn, parse_macro_input};

/// Makes a Rust function the component's HTTP handler. It takes a `Request` and returns any type that
/// implements `gannet_sdk::IntoResponse`, usually `Result<Response>`. It must not be async.
#[proc_macro_attribute]
pub fn handler(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    let name = &function.sig.ident;
    if let Some(asyncness) = &function.sig.asyncness {
        let error = syn::Error::new_spanned(asyncness, "a handler is not async: the host suspends it while it waits");
        return error.to_compile_error().into();
    }
    quote! {
        #function

        const _: () = {
            struct GannetComponent;
            impl ::gannet_sdk::__private::Guest for GannetComponent {
                fn handle(
                    request: ::gannet_sdk::__private::IncomingRequest,
                    out: ::gannet_sdk::__private::ResponseOutparam,
                ) {
                    ::gannet_sdk::__private::run(request, out, #name);
                }
            }
            ::gannet_sdk::__private::export!(GannetComponent with_types_in ::gannet_sdk::__private::bindings);
        };
    }
    .into()
}

/// Makes a Rust function the component's `init`. With `[build] snapshot = true` in the manifest, the server runs it
/// once, when the function is deployed, and every instance starts with the memory that it leaves.
///
/// It takes no arguments, and returns nothing or a `Result<(), E>` whose error implements `Display`. It can read the
/// environment and assets, but has no GPU and no secrets. It must drop every resource that it opens, must not print,
/// and must not be async.
#[proc_macro_attribute]
pub fn init(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    let name = &function.sig.ident;
    if let Some(asyncness) = &function.sig.asyncness {
        return syn::Error::new_spanned(asyncness, "init is not async").to_compile_error().into();
    }
    quote! {
        #function

        const _: () = {
            struct GannetInit;
            impl ::gannet_sdk::__private::InitGuest for GannetInit {
                fn init() -> ::core::result::Result<(), ::std::string::String> {
                    ::gannet_sdk::__private::initialized(#name())
                }
            }
            ::gannet_sdk::__private::export_init!(GannetInit with_types_in ::gannet_sdk::__private::snapshot_bindings);
        };
    }
    .into()
}
