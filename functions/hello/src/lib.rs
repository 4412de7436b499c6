//! Says hello. It uses no GPU: what is left is the sandbox itself, which is what it measures.

use gannet_sdk::http::{Request, Response};

#[gannet_sdk::handler]
fn hello(request: Request) -> Response {
    let name = request.query("name").unwrap_or_else(|| "world".into());
    Response::text(format!("hello, {name}\n"))
}
