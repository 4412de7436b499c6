//! Multiplies matrices: `POST /?rows=M&inner=K&columns=N` with A (M × K) and then B (K × N) as
//! little-endian f32, row by row. Returns A × B in the same form.

use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result, gpu};

/// Limit on each dimension. A dispatch over larger matrices would exceed every time limit.
const DIMENSION_MAX: usize = 4096;

#[gannet_sdk::handler]
fn matmul(request: Request) -> Result<Response> {
    let (rows, inner, columns) =
        (dimension(&request, "rows")?, dimension(&request, "inner")?, dimension(&request, "columns")?);
    let values = floats(request.body())?;
    if values.len() != rows * inner + inner * columns {
        return Err(Error::new(
            400,
            format!(
                "{rows} × {inner} and {inner} × {columns} are {} values; the body has {}",
                rows * inner + inner * columns,
                values.len()
            ),
        )
        .with_code("size_mismatch"));
    }
    let (a, b) = values.split_at(rows * inner);

    let a = gpu::Buffer::from_slice(a)?;
    let b = gpu::Buffer::from_slice(b)?;
    let c = gpu::Buffer::<f32>::zeroed(rows * columns)?;
    let kernel = gpu::kernel!("matmul.wgsl").open()?;
    let size = gpu::uniform(&[rows as u32, inner as u32, columns as u32, 0]);
    let mut batch = gpu::Batch::new();
    batch.dispatch(&kernel, (&a, &b, &c, size), gpu::grid_2d((columns as u32, rows as u32), 16))?;
    let product = batch.read(&c)?;
    let product = batch.submit()?.wait()?.take(&product);
    let bytes: Vec<u8> = product.iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(Response::bytes("application/octet-stream", bytes))
}

fn dimension(request: &Request, name: &str) -> Result<usize> {
    let text = request.query(name).unwrap_or_default();
    text.parse().ok().filter(|n| (1..=DIMENSION_MAX).contains(n)).ok_or_else(|| {
        Error::new(400, format!("{name} = {text:?}; it may be 1 to {DIMENSION_MAX}")).with_code("size_invalid")
    })
}

fn floats(bytes: &[u8]) -> Result<Vec<f32>> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(
            Error::new(400, format!("{} bytes are not whole f32 values", bytes.len())).with_code("size_mismatch")
        );
    }
    Ok(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
}
