//! Blurs a picture: `POST /?radius=8` with a JPEG or PNG returns a PNG.

use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result, gpu};

/// Limit on the radius. With a larger one each pixel reads hundreds of others, and the picture looks the same.
const RADIUS_MAX: u32 = 64;

#[gannet_sdk::handler]
fn blur(request: Request) -> Result<Response> {
    let radius = radius(&request)?;
    let image = image::load_from_memory(request.body())
        .map_err(|error| Error::new(400, format!("the body is no JPEG or PNG: {error}")).with_code("image_invalid"))?
        .to_rgba8();
    let (width, height) = image.dimensions();

    let pixels = gpu::Buffer::from_slice(image.as_raw())?;
    let half = gpu::Buffer::<u8>::zeroed(pixels.len())?;
    let kernel = gpu::kernel!("blur.wgsl");
    let settings = gpu::uniform(&[width, height, radius, (radius as f32 / 2.0).to_bits()]);
    let grid = gpu::grid_2d((width, height), 8);

    // Both passes and the read are one batch, so there is only one round trip to the GPU.
    let mut batch = gpu::Batch::new();
    batch.dispatch(&kernel.clone().entry("horizontal").open()?, (&pixels, &half, &settings), grid)?;
    batch.dispatch(&kernel.entry("vertical").open()?, (&half, &pixels, &settings), grid)?;
    let blurred = batch.read(&pixels)?;
    let mut results = batch.submit()?.wait()?;
    Response::png((width, height), &results.take(&blurred))
}

fn radius(request: &Request) -> Result<u32> {
    let Some(text) = request.query("radius") else { return Ok(8) };
    text.parse().ok().filter(|radius| (1..=RADIUS_MAX).contains(radius)).ok_or_else(|| {
        Error::new(400, format!("radius = {text:?}; it may be 1 to {RADIUS_MAX}")).with_code("radius_invalid")
    })
}
