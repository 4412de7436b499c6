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
