//! Streams a response: `GET /?count=5&every_ms=200` sends five chunks, one every 200 ms.

use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result};
use std::time::Duration;

#[gannet_sdk::handler]
fn stream(request: Request) -> Result<Response> {
    let count = number(&request, "count", 5, 10_000)?;
    let every = Duration::from_millis(number(&request, "every_ms", 200, 10_000)?);
    Ok(Response::stream("text/plain; charset=utf-8", move |body| {
        for n in 1..=count {
            body.write(format!("chunk {n} of {count}\n").as_bytes())?;
            if n < count {
                std::thread::sleep(every);
            }
        }
        Ok(())
    }))
}

fn number(request: &Request, name: &str, default: u64, most: u64) -> Result<u64> {
    let Some(text) = request.query(name) else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|n| *n <= most)
        .ok_or_else(|| Error::new(400, format!("{name} = {text:?}; it may be 0 to {most}")))
}
