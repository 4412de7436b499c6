//! Uploads assets. If the device computes in the host's memory, the file is mapped and imported. Otherwise it is copied
//! in chunks.
//!
//! Copied assets are read by position, not through a mapping. A mapping would fault in each page for a single read, and
//! its pages would count as memory of the process.

use super::file::{AssetFile, read_at, unreadable};
use super::resident::ResidentAsset;
use crate::buffer::{BUFFER_ALIGNMENT, Buffer};
use crate::error::Error;
use crate::executor::{Executor, Job, JobResult, StagingPool, Step};
use crate::host_memory::MappedPages;
use crate::memory::{Charge, MemoryQuota};
use crate::usage::{Usage, nanoseconds};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::oneshot;

/// Bytes of one copy. Two copies overlap: the file is read for one while the GPU executes the other.
const COPY_CHUNK: u64 = 4 << 20;
/// Bytes that are populated between two checks whether anybody still waits. It is a multiple of all page sizes.
const MAP_CHUNK: u64 = 64 << 20;
/// Bytes that are read at a time. So few stay in a core's cache until they are copied into the staging buffer.
const BOUNCE_BUFFER_BYTES: usize = 128 << 10;

/// Uploads to one device.
#[derive(Debug)]
pub(crate) struct Uploader {
    executor: Arc<Executor>,
    /// The quota that assets are charged to.
    memory: Arc<MemoryQuota>,
}

impl Uploader {
    pub(super) fn new(executor: Arc<Executor>, memory: Arc<MemoryQuota>) -> Self {
        Self { executor, memory }
    }

    /// Uploads a whole asset. `wanted` returns whether anybody still waits for it.
    pub(super) async fn upload(
        &self,
        asset: &Arc<AssetFile>,
        payer: Option<&Usage>,
        wanted: &(impl Fn() -> bool + Sync),
    ) -> Result<ResidentAsset, Error> {
        let began = Instant::now();
        // A multiple of all alignments, so that an aligned offset in the asset is an aligned offset in its segment.
        let segment = self.executor.wgpu().limits().max_buffer_size & !0xffff;
        let mut ranges = Vec::new();
        let mut offset = 0;
        while offset < asset.size() {
            let size = (asset.size() - offset).min(segment);
            ranges.push((offset, size, self.memory.charge(size.next_multiple_of(BUFFER_ALIGNMENT))?));
            offset += size;
        }
        let mut buffers = Vec::with_capacity(ranges.len());
        for (offset, size, charge) in ranges {
            let buffer = match self.map(asset, (offset, size), charge, wanted).await? {
                Ok(buffer) => buffer,
                Err(charge) => {
                    let buffer = Arc::new(
                        self.executor
                            .scoped(|wgpu| Buffer::allocate(wgpu, size.next_multiple_of(BUFFER_ALIGNMENT), charge))?,
                    );
                    self.fill(asset, (offset, size), &buffer, payer, wanted).await?;
                    buffer
                }
            };
            buffers.push(buffer);
        }
        let took = began.elapsed();
        if let Some(payer) = payer {
            payer.assets_ns.fetch_add(nanoseconds(took), Ordering::Relaxed);
        }
        tracing::debug!(digest = asset.digest(), bytes = asset.size(), us = took.as_micros(), "an asset was uploaded");
        Ok(ResidentAsset { buffers, segment })
    }

    /// Imports a range of the file as a buffer. If that is impossible, returns the charge as the inner error.
    async fn map(
        &self,
        asset: &Arc<AssetFile>,
        (from, size): (u64, u64),
        charge: Charge,
        wanted: &(impl Fn() -> bool + Sync),
    ) -> Result<Result<Arc<Buffer>, Charge>, Error> {
        let Some(pages) = MappedPages::of(self.executor.wgpu(), &asset.file, from, size) else {
            return Ok(Err(charge));
        };
        let pages = Arc::new(pages);
        let mut done = 0;
        while done < size {
            if !wanted() {
                return Err(given_up());
            }
            let now = MAP_CHUNK.min(size - done);
            let populating = Arc::clone(&pages);
            // It may block, because the pages may have to be read from a disk.
            let populated = tokio::task::spawn_blocking(move || populating.populate(done, now)).await;
            if !populated.unwrap_or(false) {
                // The copy that follows reads the same bytes and reports the error.
                return Ok(Err(charge));
            }
            done += now;
        }
        let pages = Arc::into_inner(pages).ok_or_else(Error::lost)?;
        Ok(match self.executor.scoped(|wgpu| pages.import(wgpu)) {
            Ok(Some(wgpu)) => Ok(Arc::new(Buffer::imported(wgpu, charge))),
            Ok(None) | Err(_) => Err(charge),
        })
    }

    /// Copies a range of a file to the start of a buffer, in chunks. While the GPU copies one chunk, the next is read.
    pub(crate) async fn fill(
        &self,
        asset: &Arc<AssetFile>,
        (from, size): (u64, u64),
        target: &Arc<Buffer>,
        payer: Option<&Usage>,
        wanted: &(impl Fn() -> bool + Sync),
    ) -> Result<(), Error> {
        let mut before = None;
        let mut done = 0;
        while done < size {
            if !wanted() {
                return Err(given_up());
            }
            let now = COPY_CHUNK.min(size - done);
            let (job, receiver) = self.copy_chunk(asset, from + done, now, target, done).await?;
            self.executor.send(job).await?;
            if let Some(earlier) = before.replace(receiver) {
                charge(earlier, payer).await?;
            }
            done += now;
        }
        match before {
            Some(last) => charge(last, payer).await,
            None => Ok(()),
        }
    }

    /// Reads a chunk into a staging buffer. Returns the job that copies it to `target` at offset `at`, and the receiver
    /// of its result.
    async fn copy_chunk(
        &self,
        asset: &Arc<AssetFile>,
        from: u64,
        size: u64,
        target: &Arc<Buffer>,
        at: u64,
    ) -> Result<(Job, oneshot::Receiver<JobResult>), Error> {
        let padded = size.next_multiple_of(BUFFER_ALIGNMENT);
        let charge = self.memory.charge(StagingPool::rounded(padded))?;
        let staged = self.executor.scoped(|_| self.executor.staging().upload(padded, charge))?;
        let asset = Arc::clone(asset);
        let read = tokio::task::spawn_blocking(move || {
            let mut bounce = vec![0; BOUNCE_BUFFER_BYTES];
            let mut done = 0;
            while done < size {
                let now = BOUNCE_BUFFER_BYTES.min(usize::try_from(size - done).unwrap_or(BOUNCE_BUFFER_BYTES));
                let padded = now.next_multiple_of(4);
                let (bytes, rest) = bounce.split_at_mut(now);
                read_at(&asset.file, bytes, from + done).map_err(|error| unreadable(&error))?;
                rest.iter_mut().take(padded - now).for_each(|byte| *byte = 0);
                let bytes = bounce.get(..padded).unwrap_or_default();
                if !staged.fill(&mut std::iter::once((done, bytes))) {
                    return Err(Error::lost());
                }
                done += now as u64;
            }
            Ok(staged)
        });
        let staged = read.await.unwrap_or_else(|_| Err(Error::lost()))?;
        let step = Step::Copy {
            source: staged.buffer.clone(),
            source_offset: 0,
            target: target.wgpu.clone(),
            target_offset: at,
            size: padded,
        };
        let (mut job, receiver) = Job::new(vec![step]);
        job.upload = Some(staged);
        job.keep_alive.push(Box::new(Arc::clone(target)));
        Ok((job, receiver))
    }
}

fn given_up() -> Error {
    Error::DeadlineExceeded("the asset's upload was cancelled because nobody waits for it".into())
}

/// Waits for the copy of a chunk and charges its GPU time.
async fn charge(arrival: oneshot::Receiver<JobResult>, payer: Option<&Usage>) -> Result<(), Error> {
    let done = arrival.await.unwrap_or_else(|_| Err(Error::lost()))?;
    if let Some(payer) = payer {
        payer.charge(done.gpu_ns, done.clock);
    }
    Ok(())
}
