//! Adds up bytes of an asset as little-endian u32, on the GPU and on the CPU: `GET /?from=0&bytes=4096` returns the
//! size of the asset and both sums. With `pause_ms`, it waits between the two sums.

use gannet_sdk::asset::Asset;
use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result, gpu};
use std::time::Duration;

#[gannet_sdk::handler]
fn lookup(request: Request) -> Result<Response> {
    let table = Asset::open("table")?;
    let (from, bytes) = (number(&request, "from", 0)?, number(&request, "bytes", table.len())?);

    let sum = gpu::Buffer::<u32>::zeroed(1)?;
    let kernel = gpu::kernel!("sum.wgsl").open()?;
    kernel.dispatch((&table.view(from, bytes)?, &sum), gpu::grid_1d(1, 1))?;
    let on_gpu = sum.read()?.first().copied().unwrap_or_default();
    std::thread::sleep(Duration::from_millis(number(&request, "pause_ms", 0)?));

    let values = table.read(from, bytes)?;
    let (whole, _) = values.as_chunks::<4>();
    let on_cpu = whole.iter().fold(0u32, |sum, value| sum.wrapping_add(u32::from_le_bytes(*value)));
    Ok(Response::text(format!("{} {on_gpu} {on_cpu}\n", table.len())))
}

fn number(request: &Request, name: &str, default: u64) -> Result<u64> {
    let Some(text) = request.query(name) else { return Ok(default) };
    text.parse().map_err(|_| Error::new(400, format!("{name} = {text:?} is no whole number")))
}
