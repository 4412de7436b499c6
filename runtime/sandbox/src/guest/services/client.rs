//! Sends calls of the platform to the front door, over the connection of outbound HTTP.

use crate::guest::outbound::OutboundClient;
use bytes::Bytes;
use gannet_base::hop::header;
use gannet_base::hop::platform::{BODY_BYTES_MAX, FORMAT, PlatformAnswer, PlatformCall, PlatformError};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use wasmtime_wasi_http::WasiBody;

fn failed(why: &dyn std::fmt::Display) -> PlatformError {
    PlatformError::Failed(format!("the server could not be asked: {why}"))
}

impl OutboundClient {
    /// Sends a call and waits for its answer.
    pub(super) async fn ask(&self, call: &PlatformCall) -> Result<PlatformAnswer, PlatformError> {
        let text = serde_json::to_vec(call).map_err(|error| failed(&error))?;
        let mut sender = self.connection.sender.get().cloned().ok_or_else(|| failed(&"there is no connection"))?;
        let _permit = self.connection.platform_permits.acquire().await.map_err(|error| failed(&error))?;
        let body: WasiBody = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        let request = Request::post("http://platform/")
            .header(header::SERVICE, FORMAT)
            .header(header::REQUEST, self.request.to_string())
            .body(body)
            .map_err(|error| failed(&error))?;
        // What was sent may have been done.
        let lost = |error: &dyn std::fmt::Display| PlatformError::Unknown(format!("the answer broke off: {error}"));
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(|error| lost(&error))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| lost(&error))?
    }
}
