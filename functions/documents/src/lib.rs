//! Makes documents searchable. A job with the input `{"id", "text"}` cuts the text into chunks, embeds each on the GPU, and
//! keeps them in key-value storage; its progress tells how many are kept. A batch does that for many documents.
//! `GET /search?q=…&count=3` returns the chunks nearest to a text, of all documents.
//!
//! | key in the bucket `documents` | value |
//! |---|---|
//! | `doc/{id}` | the number of chunks |
//! | `chunk/{n}/{id}` | the chunk and its vector, as a list |
//!
//! The embedding is real but small: hashed n-grams of letters, so that it needs no model. `functions/embed` has a model's.

use gannet_sdk::http::{Request, Response};
use gannet_sdk::keyvalue::{self, Bucket};
use gannet_sdk::{Error, Result, gpu, job};
use serde::Deserialize;
use serde_json::json;

const CHUNK_BYTES: usize = 600;
const WIDTH: usize = 256;
/// Chunks that are embedded and stored together.
const TOGETHER: usize = 32;

#[derive(Deserialize)]
struct Job {
    input: Document,
}

#[derive(Deserialize)]
struct Document {
    id: String,
    text: String,
}

/// Cuts a text between words, into pieces of at most [`CHUNK_BYTES`], unless one word is longer.
fn chunks(text: &str) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match chunks.last_mut() {
            Some(chunk) if chunk.len() + word.len() < CHUNK_BYTES => chunk.extend([" ", word]),
            _ => chunks.push(word.to_owned()),
        }
    }
    chunks
}

/// Hashes the n-grams of two to four letters of each word (FNV-1a).
fn hashes(text: &str) -> Vec<u32> {
    let mut hashes = Vec::new();
    for word in text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let letters: Vec<char> = format!("<{}>", word.to_lowercase()).chars().collect();
        for gram in (2..=4).flat_map(|size| letters.windows(size)) {
            let mix = |hash: u32, letter: &char| (hash ^ u32::from(*letter)).wrapping_mul(16_777_619);
            let hash = gram.iter().fold(2_166_136_261, mix);
            hashes.push(hash ^ (hash >> 15));
        }
    }
    hashes
}

/// Returns a vector of length 1 for each text.
fn embed(texts: &[String]) -> gpu::Result<Vec<Vec<f32>>> {
    let (mut all, mut begins) = (Vec::new(), vec![0]);
    for text in texts {
        all.extend(hashes(text));
        begins.push(all.len() as u32);
    }
    all.push(0); // A buffer is not empty.
    let (hashes, begins) = (gpu::Buffer::from_slice(&all)?, gpu::Buffer::from_slice(&begins)?);
    let vectors = gpu::Buffer::<f32>::zeroed(texts.len() * WIDTH)?;
    let grid = gpu::grid_1d((texts.len() * WIDTH) as u32, WIDTH as u32);
    gpu::kernel!("embed.wgsl").open()?.dispatch((&hashes, &begins, &vectors), grid)?;
    Ok(vectors.read()?.chunks(WIDTH).map(<[f32]>::to_vec).collect())
}

fn store(Document { id, text }: Document) -> Result<Response> {
    let (bucket, chunks) = (Bucket::open("documents")?, chunks(&text));
    let before: usize = bucket.get_json(&format!("doc/{id}"))?.unwrap_or(0);
    for (part, texts) in chunks.chunks(TOGETHER).enumerate() {
        let mut pairs = Vec::new();
        for (n, with_vector) in (part * TOGETHER..).zip(texts.iter().zip(embed(texts)?)) {
            pairs.push((format!("chunk/{n}/{id}"), serde_json::to_vec(&with_vector)?));
        }
        bucket.set_many(pairs)?;
        job::progress(&json!({ "chunks": chunks.len(), "kept": part * TOGETHER + texts.len() }))?;
    }
    bucket.set_json(&format!("doc/{id}"), &chunks.len())?;
    // An earlier text may have had more chunks.
    (chunks.len()..before).try_for_each(|n| bucket.delete(&format!("chunk/{n}/{id}")))?;
    Ok(Response::json(json!({ "id": id, "chunks": chunks.len() }).to_string()))
}

fn search(query: String, count: usize) -> Result<Response> {
    let (bucket, wanted) = (Bucket::open("documents")?, embed(&[query])?.concat());
    let mut keys = bucket.keys().collect::<keyvalue::Result<Vec<_>>>()?;
    keys.retain(|key| key.starts_with("chunk/"));
    let mut found = Vec::new();
    for keys in keys.chunks(100) {
        for (key, value) in keys.iter().zip(bucket.get_many(keys)?) {
            let Some(value) = value else { continue };
            let (text, vector): (String, Vec<f32>) = serde_json::from_slice(&value)?;
            let score: f32 = vector.iter().zip(&wanted).map(|(a, b)| a * b).sum();
            found.push((score, json!({ "key": key, "score": score, "text": text })));
        }
    }
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let nearest: Vec<_> = found.into_iter().take(count).map(|(_, chunk)| chunk).collect();
    Ok(Response::json(json!({ "nearest": nearest }).to_string()))
}

#[gannet_sdk::handler]
fn documents(request: Request) -> Result<Response> {
    if request.path() == "/search" {
        let count = request.query("count").and_then(|text| text.parse().ok()).unwrap_or(3);
        return search(request.query("q").unwrap_or_default(), count);
    }
    let job: Job = serde_json::from_slice(request.body()).map_err(|error| Error::new(400, error.to_string()))?;
    store(job.input)
}
