//! A plain `wasi:http/service` 0.3, without the SDK. Its response has two chunks and contains the requested path.
//! It runs only on a server with `wasi_http_0_3 = true`.

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "function", generate_all });
}

use bindings::exports::wasi::http::handler::Guest;
use bindings::wasi::http::types::{ErrorCode, Fields, Request, Response};
use bindings::{wit_future, wit_stream};

struct Service;

impl Guest for Service {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let (mut body, contents) = wit_stream::new();
        let (trailers, no_trailers) = wit_future::new(|| Ok(None));
        // The body is written after the head has been handed over.
        wit_bindgen::spawn_local(async move {
            body.write_all(b"0.3 was asked for ".to_vec()).await;
            body.write_all(format!("{path}\n").into_bytes()).await;
            drop(body);
            let _ = trailers.write(Ok(None)).await;
            // The whole response was handed over, and the task goes on.
            let began = std::time::Instant::now();
            while began.elapsed().as_millis() < 50 {
                wit_bindgen::yield_async().await;
            }
            println!("went on");
        });
        let headers = Fields::from_list(&[("content-type".into(), b"text/plain".to_vec())])
            .map_err(|error| ErrorCode::InternalError(Some(format!("{error:?}"))))?;
        let (response, _sent) = Response::new(headers, Some(contents), no_trailers);
        Ok(response)
    }
}

bindings::export!(Service with_types_in bindings);
