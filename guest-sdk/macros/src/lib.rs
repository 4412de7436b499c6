//! The attribute macro of `gannet-sdk`; use it as `gannet_sdk::handler`.

use proc_macro::TokenStream;
use quote::quote;
use syn::{ItemFn, parse_macro_input};

/// Makes a function the component's HTTP handler. It takes a `Request` and answers anything that
/// `gannet_sdk::IntoResponse` is for, as a rule `Result<Response>`.
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

/// Makes a function the component's `init`: with `[build] snapshot = true` the server runs it once, when the function is
/// deployed, and every instance begins with the memory that it leaves. It takes nothing, and answers nothing or a `Result`
/// whose error can be shown; it must drop what it opens, and not print.
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
