//! Assets: read-only data (weights, tables) that outlives requests on the GPU.
//!
//! ```text
//!  descriptor ─▶ AssetFile ─open─▶ Asset ─view─▶ resident? ─yes─▶ View: a range of its buffers
//!                   │                              │ no                      ▲
//!                   │ read: on the CPU             └─▶ upload in chunks ─────┤   (once, whoever asks)
//!                                                      or mapped, as it is ──┘   (software drivers: host_memory.rs)
//! ```
//!
//! An asset on the GPU is one buffer, or several where the device's buffers are smaller; all sessions of the device
//! share it. It is charged to the tenant, not to a request. When the tenant's memory is short, those that nobody uses
//! go, the least recently used first ([`Residents::relieve`]); a session that has viewed one pins it until it ends.
//!
//! What is copied is read by position, not through a mapping: each page of one would have to be found for the only time that it is
//! read, and would count as memory of the process.
//!
//! Invariant: nothing is charged while the table of residents is locked, because a charge may come back here for relief.

mod file;

pub use file::{AssetFile, READ_BYTES_MAX};

use crate::buffer::{Buffer, STEP};
use crate::encode::Step;
use crate::host_memory::Pages;
use crate::job::{Job, Keep};
use crate::memory::Charge;
use crate::session::{Usage, nanoseconds};
use crate::staging::Staging;
use crate::{Device, Error, Session};
use file::{read_at, unreadable};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::watch;

/// One copy from a file towards the GPU. Two are under way at once: one is read while the other is copied.
const CHUNK: u64 = 4 << 20;
/// What is mapped at a time, before it is looked whether anybody still waits. A multiple of all pages.
const BRING: u64 = 64 << 20;
/// What is read into the cache of a core at a time.
const BOUNCE: usize = 128 << 10;
/// Assets by the names under which a version knows them.
pub type AssetCatalog = BTreeMap<String, Arc<AssetFile>>;

/// An asset that a guest has opened.
#[derive(Debug, Clone)]
pub struct Asset(pub(crate) Arc<AssetFile>);

/// A range of an asset that can be bound.
#[derive(Debug, Clone)]
pub struct View {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) offset: u64,
    /// What is bound: the size, up to the next multiple of 4.
    pub(crate) bound: u64,
    size: u64,
}

impl View {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// An asset on the GPU.
#[derive(Debug)]
pub(crate) struct Resident {
    /// Each but the last holds `segment` bytes.
    buffers: Vec<Arc<Buffer>>,
    segment: u64,
}

impl Resident {
    /// A range that lies in one buffer, at an offset that can be bound.
    fn range(&self, offset: u64, bound: u64, alignment: u64) -> Option<(Arc<Buffer>, u64)> {
        let index = usize::try_from(offset.checked_div(self.segment)?).ok()?;
        let buffer = self.buffers.get(index)?;
        let within = offset % self.segment;
        (within.is_multiple_of(alignment) && within + bound <= buffer.size()).then(|| (Arc::clone(buffer), within))
    }

    /// Whether neither a session, nor a view, nor work on the GPU needs it.
    fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && self.buffers.iter().all(|buffer| Arc::strong_count(buffer) == 1)
    }

    fn bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.size()).sum()
    }
}

/// An asset that stays on the GPU until this is dropped.
#[derive(Debug)]
pub struct Kept(#[expect(dead_code, reason = "held for its drop")] Arc<Resident>);

type State = Option<Result<Arc<Resident>, Error>>;

#[derive(Debug)]
enum Slot {
    /// On its way.
    Coming(watch::Receiver<State>),
    /// There, and when it was last used.
    There(Arc<Resident>, u64),
}

/// The assets on a device.
#[derive(Debug, Default)]
pub(crate) struct Residents {
    table: Mutex<HashMap<String, Slot>>,
    clock: AtomicU64,
    /// What else can be spared.
    spare: Spare,
}

/// Frees something that is only kept for later, and answers whether there was anything.
#[derive(Default)]
struct Spare(OnceLock<Box<dyn Fn() -> bool + Send + Sync>>);

impl std::fmt::Debug for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Spare").field(&self.0.get().is_some()).finish()
    }
}

/// What is on the GPU of a device, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResidentAssets {
    /// How many.
    pub count: usize,
    /// How many bytes.
    pub bytes: u64,
}

impl Residents {
    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<String, Slot>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of assets that nobody uses, the least recently used first, until `wanted` bytes are free. Answers whether
    /// any went.
    pub(crate) fn relieve(&self, wanted: u64) -> bool {
        let mut gone = Vec::new();
        let mut freed = 0;
        {
            let mut table = self.table();
            while freed < wanted {
                let unused = table.iter().filter_map(|(digest, slot)| match slot {
                    Slot::There(resident, used) if resident.is_unused() => Some((*used, digest)),
                    _ => None,
                });
                let Some(digest) = unused.min().map(|(_, digest)| digest.clone()) else { break };
                let Some(Slot::There(resident, _)) = table.remove(&digest) else { break };
                freed += resident.bytes();
                gone.push(resident);
            }
        }
        // Their charges are given back here, after the table is free.
        !gone.is_empty()
    }

    fn summary(&self) -> ResidentAssets {
        let table = self.table();
        let there = table.values().filter_map(|slot| match slot {
            Slot::There(resident, _) => Some(resident.bytes()),
            Slot::Coming(_) => None,
        });
        there.fold(ResidentAssets::default(), |sum, bytes| ResidentAssets {
            count: sum.count + 1,
            bytes: sum.bytes + bytes,
        })
    }
}

/// What a ledger does when a charge would pass its limit; see [`Ledger::relieved_by`].
pub(crate) fn relief(residents: &Arc<Residents>) -> impl Fn(u64) -> bool + Send + Sync + use<> {
    let residents: Weak<Residents> = Arc::downgrade(residents);
    move |bytes| {
        let Some(residents) = residents.upgrade() else { return false };
        residents.relieve(bytes) || residents.spare.0.get().is_some_and(|free| free())
    }
}

impl Device {
    /// Has `free` give back something that is only kept for later, when memory is short and no asset can go. Once.
    pub fn spare(&self, free: impl Fn() -> bool + Send + Sync + 'static) {
        // Set by whoever opened the device.
        let _ = self.residents.spare.0.set(Box::new(free));
    }

    /// The assets that are on the GPU now.
    pub fn resident_assets(&self) -> ResidentAssets {
        self.residents.summary()
    }

    /// Brings an asset to the GPU, if it is not there: to be called as soon as it is known that it will be wanted. The
    /// GPU's time is charged to `payer`.
    pub fn prefetch(self: &Arc<Self>, asset: &Arc<AssetFile>, payer: Option<&Arc<Usage>>) {
        drop(self.bring(asset, payer));
    }

    /// Brings an asset to the GPU, and keeps it there until what is answered is dropped.
    pub async fn keep(self: &Arc<Self>, asset: &Arc<AssetFile>) -> Result<Kept, Error> {
        match self.bring(asset, None) {
            Ok(resident) => Ok(Kept(resident)),
            Err(receiver) => arrived(receiver).await.map(Kept),
        }
    }

    /// Lets go of assets that nobody uses and that are not wanted any more.
    pub fn forget_assets(&self, wanted: impl Fn(&str) -> bool) {
        let unwanted = |digest: &String, slot: &mut Slot| match slot {
            Slot::There(resident, _) => resident.is_unused() && !wanted(digest),
            Slot::Coming(_) => false,
        };
        let gone: Vec<_> = self.residents.table().extract_if(unwanted).collect();
        drop(gone);
    }

    /// Where an asset's arrival will be told.
    fn bring(
        self: &Arc<Self>,
        asset: &Arc<AssetFile>,
        payer: Option<&Arc<Usage>>,
    ) -> Result<Arc<Resident>, watch::Receiver<State>> {
        let now = self.residents.clock.fetch_add(1, Ordering::Relaxed);
        let mut table = self.residents.table();
        match table.get_mut(asset.digest()) {
            Some(Slot::There(resident, used)) => {
                *used = now;
                return Ok(Arc::clone(resident));
            }
            Some(Slot::Coming(receiver)) => return Err(receiver.clone()),
            None => {}
        }
        let (sender, receiver) = watch::channel(None);
        table.insert(asset.digest().to_owned(), Slot::Coming(receiver.clone()));
        drop(table);
        let (device, asset, payer) = (Arc::clone(self), Arc::clone(asset), payer.cloned());
        let paid = payer.as_ref().and_then(|payer| payer.uploads.begin());
        // Apart from whoever asked first, who may leave: others may wait for it too. If none does, it is given up.
        tokio::spawn(async move {
            let given_up = AtomicBool::new(false);
            let wanted = || {
                if payer.as_ref().is_none_or(|payer| !payer.cancelled.load(Ordering::Relaxed)) {
                    return true;
                }
                // One receiver is the table's, and others are made while it is locked.
                let mut table = device.residents.table();
                if sender.receiver_count() > 1 {
                    return true;
                }
                table.remove(asset.digest());
                given_up.store(true, Ordering::Relaxed);
                false
            };
            let result = device.upload(&asset, payer.as_deref(), &wanted).await.map(Arc::new);
            if !given_up.into_inner() {
                let mut table = device.residents.table();
                match &result {
                    Ok(resident) => table.insert(asset.digest().to_owned(), Slot::There(Arc::clone(resident), now)),
                    // The next one tries again.
                    Err(_) => table.remove(asset.digest()),
                };
            }
            sender.send_replace(Some(result));
            drop(paid);
        });
        Err(receiver)
    }

    async fn upload(
        self: &Arc<Self>,
        asset: &Arc<AssetFile>,
        payer: Option<&Usage>,
        wanted: &(impl Fn() -> bool + Sync),
    ) -> Result<Resident, Error> {
        let began = Instant::now();
        // Every range that can be bound may begin at a segment.
        let segment = self.limits().max_buffer_size & !0xffff;
        let mut ranges = Vec::new();
        let mut offset = 0;
        while offset < asset.size() {
            let size = (asset.size() - offset).min(segment);
            ranges.push((offset, size, self.memory().charge(size.next_multiple_of(STEP))?));
            offset += size;
        }
        let mut buffers = Vec::with_capacity(ranges.len());
        for (offset, size, charge) in ranges {
            let buffer = match self.mapped(asset, (offset, size), charge, wanted).await? {
                Ok(buffer) => buffer,
                Err(charge) => {
                    let buffer = Buffer::allocate(self, size.next_multiple_of(STEP), charge)?;
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
        Ok(Resident { buffers, segment })
    }

    /// A buffer that is a range of the file itself, where the device computes in the host's memory; else its charge back.
    async fn mapped(
        self: &Arc<Self>,
        asset: &Arc<AssetFile>,
        (from, size): (u64, u64),
        charge: Charge,
        wanted: &(impl Fn() -> bool + Sync),
    ) -> Result<Result<Arc<Buffer>, Charge>, Error> {
        let Some(pages) = Pages::of(&self.wgpu, &asset.file, from, size) else { return Ok(Err(charge)) };
        let pages = Arc::new(pages);
        let mut done = 0;
        while done < size {
            if !wanted() {
                return Err(given_up());
            }
            let now = BRING.min(size - done);
            let bringing = Arc::clone(&pages);
            // They may have to be read from a disk.
            let brought = tokio::task::spawn_blocking(move || bringing.bring(done, now)).await;
            if !brought.unwrap_or(false) {
                // What is wrong is found and said where they are read.
                return Ok(Err(charge));
            }
            done += now;
        }
        let pages = Arc::into_inner(pages).ok_or_else(Error::lost)?;
        Ok(Buffer::of_pages(self, pages, charge))
    }

    /// Copies a range of a file to the start of a buffer, in chunks: while one is copied on the GPU, the next is read.
    async fn fill(
        self: &Arc<Self>,
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
            let now = CHUNK.min(size - done);
            let job = self.chunk(asset, from + done, now, target, done).await?;
            let (job, receiver) = job;
            self.jobs.send(job).await.map_err(|_| Error::lost())?;
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

    /// A job that copies a chunk, which is read here.
    async fn chunk(
        self: &Arc<Self>,
        asset: &Arc<AssetFile>,
        from: u64,
        size: u64,
        target: &Arc<Buffer>,
        at: u64,
    ) -> Result<(Job, Arrival), Error> {
        let padded = size.next_multiple_of(STEP);
        let charge = self.memory().charge(Staging::rounded(padded))?;
        let staged = self.scoped(|_| self.staging.upload(padded, charge))?;
        let asset = Arc::clone(asset);
        let read = tokio::task::spawn_blocking(move || {
            let mut bounce = vec![0; BOUNCE];
            let mut done = 0;
            while done < size {
                let now = BOUNCE.min(usize::try_from(size - done).unwrap_or(BOUNCE));
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
        let (mut job, receiver) = Job::bare(vec![step]);
        job.upload = Some(staged);
        job.keep.push(Keep::Buffer(Arc::clone(target)));
        Ok((job, receiver))
    }
}

fn given_up() -> Error {
    Error::DeadlineExceeded("the asset's upload was given up: nobody waits for it".into())
}

type Arrival = tokio::sync::oneshot::Receiver<Result<crate::job::Done, Error>>;

/// Waits for a chunk, and charges it.
async fn charge(arrival: Arrival, payer: Option<&Usage>) -> Result<(), Error> {
    let done = arrival.await.unwrap_or_else(|_| Err(Error::lost()))?;
    if let Some(payer) = payer {
        payer.charge(done.gpu_ns, done.clock);
    }
    Ok(())
}

impl Asset {
    /// Opens an asset of the version.
    pub fn open(assets: &AssetCatalog, name: &str) -> Result<Self, Error> {
        let found = assets.get(name);
        found.map(|file| Self(Arc::clone(file))).ok_or_else(|| {
            let names: Vec<&str> = assets.keys().map(String::as_str).collect();
            Error::NotFound(format!("no asset {name:?} belongs to this version; those that do are {names:?}"))
        })
    }

    /// The file.
    pub fn file(&self) -> &Arc<AssetFile> {
        &self.0
    }

    /// A range to bind. An aligned one is the asset itself; any other is a copy, charged to the session.
    pub async fn view(&self, session: &mut Session, offset: u64, size: u64) -> Result<View, Error> {
        let asset = &self.0;
        asset.check("view", offset, size)?;
        if size == 0 {
            return Err(Error::InvalidArgument(format!("view: no bytes from offset {offset}; the least is 1")));
        }
        let device = Arc::clone(session.device());
        let limits = device.limits();
        let bound = size.next_multiple_of(STEP);
        if bound > limits.max_storage_buffer_binding_size {
            return Err(Error::TooLarge(format!(
                "view: {size} bytes; the device binds at most {}",
                limits.max_storage_buffer_binding_size
            )));
        }
        let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
        let began = Instant::now();
        let usage = Arc::clone(session.usage());
        let viewed = async {
            if offset.is_multiple_of(alignment) {
                let resident = match device.bring(asset, Some(&usage)) {
                    Ok(resident) => resident,
                    Err(receiver) => arrived(receiver).await?,
                };
                session.pin(asset.digest(), &resident);
                if let Some((buffer, offset)) = resident.range(offset, bound, alignment) {
                    return Ok(View { buffer, offset, bound, size });
                }
            }
            let buffer = Buffer::create(session, bound)?;
            device.fill(asset, (offset, size), &buffer, Some(&usage), &|| true).await?;
            Ok(View { buffer, offset: 0, bound, size })
        };
        let result = viewed.await;
        usage.waited_ns.fetch_add(nanoseconds(began.elapsed()), Ordering::Relaxed);
        result
    }
}

async fn arrived(mut receiver: watch::Receiver<State>) -> Result<Arc<Resident>, Error> {
    let state = receiver.wait_for(Option::is_some).await.map_err(|_| Error::lost())?;
    state.clone().unwrap_or_else(|| Err(Error::lost()))
}
