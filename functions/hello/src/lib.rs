//! Says hello. It does not use the GPU, so its time is the overhead of the sandbox alone.

use gannet_sdk::http::{Request, Response};

#[gannet_sdk::handler]
fn hello(request: Request) -> Response {
    let name = request.query("name").unwrap_or_else(|| "world".into());
    Response::text(format!("hello, {name}\n"))
}
