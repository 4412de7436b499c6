//! Draws the Mandelbrot set: `GET /?width=800&height=600&x=-0.6&y=0&scale=2.4&steps=256`
//! returns a PNG.

use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result, gpu};
use std::str::FromStr;

#[gannet_sdk::handler]
fn mandelbrot(request: Request) -> Result<Response> {
    let width = number(&request, "width", 800, 1..=4096)?;
    let height = number(&request, "height", 600, 1..=4096)?;
    let steps = number(&request, "steps", 256, 1..=10_000)?;
    let x = number(&request, "x", -0.6, -4.0..=4.0)?;
    let y = number(&request, "y", 0.0, -4.0..=4.0)?;
    let scale = number(&request, "scale", 2.4, 1e-6..=8.0)?;

    let pixels = gpu::Buffer::<u8>::zeroed(width as usize * height as usize * 4)?;
    let view = gpu::uniform(&[width, height, steps, 0, f32::to_bits(x), f32::to_bits(y), f32::to_bits(scale), 0]);
    let kernel = gpu::kernel!("mandelbrot.wgsl").open()?;
    let mut batch = gpu::Batch::new();
    batch.dispatch(&kernel, (&pixels, view), gpu::grid_2d((width, height), 8))?;
    let drawn = batch.read(&pixels)?;
    let mut results = batch.submit()?.wait()?;
    Response::png((width, height), &results.take(&drawn))
}

fn number<T>(request: &Request, name: &str, default: T, range: std::ops::RangeInclusive<T>) -> Result<T>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let Some(text) = request.query(name) else { return Ok(default) };
    let (least, most) = (range.start(), range.end());
    match text.parse() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => {
            Err(Error::new(400, format!("{name} = {text:?}; it may be {least} to {most}"))
                .with_code("argument_invalid"))
        }
    }
}
