//! Times GPU work from inside a function: `GET /NAME?rounds=N` returns the nanoseconds of each round, one per line.
//! `host-gpu/examples/native.rs` does the same work without a sandbox, and `scripts/bench` compares the two.

use gannet_sdk::gpu::{self, Batch, Buffer, Grid};
use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result};
use std::time::Instant;

/// Dispatches in `many`.
const MANY: usize = 300;
/// Rows and columns in `matmul`.
const SIZE: u32 = 1024;

#[gannet_sdk::handler]
fn measure(request: Request) -> Result<Response> {
    let rounds = request.query("rounds").and_then(|text| text.parse().ok()).unwrap_or(100);
    let times = match request.path() {
        "/small" => transfer(256, rounds)?,
        "/large" => transfer(4 << 20, rounds)?,
        "/many" => many(rounds)?,
        "/matmul" => matmul(rounds)?,
        _ => return Err(Error::new(404, "there are small, large, many and matmul")),
    };
    Ok(Response::text(times.iter().map(|time| format!("{time}\n")).collect::<String>()))
}

fn timed(rounds: usize, mut round: impl FnMut() -> Result<()>) -> Result<Vec<u128>> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let began = Instant::now();
        round()?;
        times.push(began.elapsed().as_nanos());
    }
    Ok(times)
}

/// Returns a grid that covers `count` values, with at most 65,535 workgroups in each dimension.
fn grid(count: usize) -> Grid {
    let groups = count.div_ceil(64) as u32;
    let x = groups.min(1024);
    Grid { x, y: groups.div_ceil(x), z: 1 }
}

/// Times rounds of: upload `count` values, dispatch once, read `count` values back.
fn transfer(count: usize, rounds: usize) -> Result<Vec<u128>> {
    let values = vec![7u32; count];
    let (source, result) = (Buffer::<u32>::zeroed(count)?, Buffer::<u32>::zeroed(count)?);
    let mut batch = Batch::new();
    batch.dispatch(&gpu::kernel!("add.wgsl").open()?, (&source, &result), grid(count))?;
    let read = batch.read(&result)?;
    timed(rounds, || {
        source.write(&values)?;
        let back = batch.submit()?.wait()?.take(&read);
        if back.last() != Some(&8) {
            return Err(Error::new(500, "the sum is wrong"));
        }
        Ok(())
    })
}

/// Times a batch of many small dispatches that is submitted again in each round.
fn many(rounds: usize) -> Result<Vec<u128>> {
    let (one, two) = (Buffer::<u32>::zeroed(256)?, Buffer::<u32>::zeroed(256)?);
    let kernel = gpu::kernel!("add.wgsl").open()?;
    let mut batch = Batch::new();
    for _ in 0..MANY / 2 {
        batch.dispatch(&kernel, (&one, &two), grid(256))?;
        batch.dispatch(&kernel, (&two, &one), grid(256))?;
    }
    let read = batch.read(&one)?;
    let mut expected = 0u32;
    timed(rounds, || {
        let back = batch.submit()?.wait()?.take(&read);
        expected += MANY as u32;
        if back.last() != Some(&expected) {
            return Err(Error::new(500, "the sum is wrong"));
        }
        Ok(())
    })
}

fn matmul(rounds: usize) -> Result<Vec<u128>> {
    let count = (SIZE * SIZE) as usize;
    let (a, b) = (Buffer::from_slice(&vec![1.0f32; count])?, Buffer::from_slice(&vec![2.0f32; count])?);
    let c = Buffer::<f32>::zeroed(count)?;
    let mut batch = Batch::new();
    let size = gpu::uniform(&[SIZE, SIZE, SIZE, 0]);
    batch.dispatch(&gpu::kernel!("matmul.wgsl").open()?, (&a, &b, &c, size), gpu::grid_2d((SIZE, SIZE), 16))?;
    let read = batch.read(&c)?;
    timed(rounds, || {
        let back = batch.submit()?.wait()?.take(&read);
        if back.last() != Some(&(2.0 * SIZE as f32)) {
            return Err(Error::new(500, "the product is wrong"));
        }
        Ok(())
    })
}
