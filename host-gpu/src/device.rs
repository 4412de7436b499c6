//! One GPU device, opened for one tenant.
//!
//! [`Device::open`] starts the device's GPU thread. Resource creation goes through the methods here,
//! each inside an error scope, so that what wgpu refuses becomes a typed error and never reaches
//! the uncaptured-error handler. Pipelines and devices are created under one lock, because some
//! drivers crash when two are made at once.
//!
//! A device is never dropped in a worker: dropping its queue waits for the GPU without a limit.
//! The process ends instead.

use crate::asset::{self, Residents};
use crate::flag::Flag;
use crate::harden::{FLAG_GROUP, IMMEDIATES_SIZE};
use crate::job::Job;
use crate::kernel::KernelCache;
use crate::lease::Link;
use crate::memory::Ledger;
use crate::slice::{SLICE_NS, SOFTWARE_CONTENDED_NS, SOFTWARE_SLICE_NS};
use crate::staging::Staging;
use crate::thread;
use crate::{Error, Gpu, adapter, error, host_memory};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// What kernels with subgroups may count on. Some software drivers have four.
const SUBGROUP_LANES_MIN: u32 = 8;

/// What whole-submission timing needs: timestamps that the encoder writes between passes, so that
/// copies, clears and uploads are timed like dispatches.
pub(crate) const TIMESTAMPS: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

/// Jobs that may wait for the GPU thread. A session has at most 16 submissions in flight, so this
/// is reached only by several busy sessions; senders then wait their turn.
const QUEUE_CAPACITY: usize = 64;

/// Counters that outlive sessions, for tests and metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Slices that reached the GPU: each is one submission and one round trip.
    pub round_trips: AtomicU64,
    /// Nanoseconds of GPU time charged.
    pub gpu_ns: AtomicU64,
}

/// What a device is opened with.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Position in the driver's list.
    pub index: u32,
    /// What the operator calls the GPU, if not as [`adapter::discover`] does.
    pub class: Option<String>,
    /// Bytes for everything that sessions allocate on it.
    pub memory_max: u64,
    /// Whether assets are mapped and not copied, where the device computes in the host's memory.
    pub map_assets: bool,
}

/// An open device.
#[derive(Debug)]
pub struct Device {
    pub(crate) wgpu: wgpu::Device,
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) kernels: KernelCache,
    pub(crate) flag: Arc<Flag>,
    pub(crate) pipelines: Mutex<Option<wgpu::PipelineCache>>,
    /// Sources that may not run here, by hash.
    quarantine: Mutex<HashSet<[u8; 32]>>,
    creation: Mutex<()>,
    holds: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
    memory: Arc<Ledger>,
    pub(crate) residents: Arc<Residents>,
    counters: Arc<Counters>,
    gpu: Gpu,
}

impl Device {
    /// Opens the adapter at `index` of the driver's list, with `memory_max` bytes for everything
    /// that sessions allocate on it.
    pub fn open(index: u32, memory_max: u64) -> Result<Arc<Self>, Error> {
        Self::open_shared(Opening { index, class: None, memory_max, map_assets: true }, None)
    }

    /// The same on a GPU that an arbiter shares among processes: nothing is submitted without a lease.
    pub fn open_shared(opening: Opening, link: Option<Link>) -> Result<Arc<Self>, Error> {
        let Opening { index, class, memory_max, map_assets } = opening;
        let instance = adapter::instance();
        let adapters = adapter::adapters(&instance);
        let adapter = adapters
            .get(index as usize)
            .ok_or_else(|| Error::Unsupported(format!("there is no gpu {index}; {} were found", adapters.len())))?;
        let mut wanted =
            TIMESTAMPS | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::PIPELINE_CACHE;
        if adapter.get_info().subgroup_min_size < SUBGROUP_LANES_MIN {
            wanted.remove(wgpu::Features::SUBGROUP);
        }
        let mut limits = adapter.limits();
        let (groups, immediates) = (limits.max_bind_groups, limits.max_immediate_size);
        if !adapter.features().contains(wgpu::Features::IMMEDIATES)
            || groups <= FLAG_GROUP
            || immediates < IMMEDIATES_SIZE
        {
            return Err(Error::Unsupported(format!(
                "gpu {index} has {groups} bind groups and {immediates} bytes of immediates; {} and {IMMEDIATES_SIZE} \
                 are needed to bound kernels",
                FLAG_GROUP + 1
            )));
        }
        // Sizes are u32 in WGSL and in many drivers; a binding beyond that is not worth the risk.
        limits.max_buffer_size = limits.max_buffer_size.min(u64::from(u32::MAX) + 1);
        let mut gpu = adapter::describe(index, adapter);
        gpu.class = class.unwrap_or(gpu.class);
        let wanted = wgpu::DeviceDescriptor {
            label: None,
            required_features: (adapter.features() & wanted) | wgpu::Features::IMMEDIATES,
            required_limits: limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let in_host_memory = if gpu.software && map_assets { host_memory::open(adapter, &wanted) } else { None };
        let (device, queue) = match in_host_memory {
            Some(opened) => opened,
            None => error::ready(adapter.request_device(&wanted))
                .ok_or_else(Error::lost)?
                .map_err(|refused| Error::Unsupported(format!("the gpu device could not be opened: {refused}")))?,
        };
        Ok(Self::start(device, queue, gpu, memory_max, link))
    }

    /// A device that runs no shader, for tests of quotas, validation and concurrency.
    pub fn noop(memory_max: u64) -> Arc<Self> {
        Self::noop_shared(memory_max, None)
    }

    /// The same, shared by an arbiter.
    pub fn noop_shared(memory_max: u64, link: Option<Link>) -> Arc<Self> {
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor {
            required_features: wgpu::Features::IMMEDIATES,
            required_limits: wgpu::Limits {
                max_immediate_size: IMMEDIATES_SIZE,
                max_bind_groups: FLAG_GROUP + 1,
                ..wgpu::Limits::default()
            },
            ..wgpu::DeviceDescriptor::default()
        });
        let gpu = Gpu {
            index: 0,
            name: "noop".into(),
            backend: "noop".into(),
            driver: String::new(),
            class: "software".into(),
            software: true,
            timestamps: false,
            memory_bytes: 0,
            context_bytes: 0,
        };
        Self::start(device, queue, gpu, memory_max, link)
    }

    fn start(device: wgpu::Device, queue: wgpu::Queue, gpu: Gpu, memory_max: u64, link: Option<Link>) -> Arc<Self> {
        let lost = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&lost);
        let on_loss = link.as_ref().map(|link| Arc::clone(&link.on_loss));
        device.set_device_lost_callback(move |reason, message| {
            tracing::error!(?reason, message, "the gpu device was lost");
            flag.store(true, Ordering::Relaxed);
            if let Some(on_loss) = &on_loss {
                on_loss();
            }
        });
        device.on_uncaptured_error(Arc::new(|caught| {
            tracing::error!(%caught, "a gpu error reached no error scope");
        }));
        let holds = Arc::<AtomicBool>::default();
        let counters = Arc::new(Counters::default());
        let staging = Arc::new(Staging::new(device.clone()));
        let flag = Arc::new(Flag::new(&device));
        let (jobs, receiver) = mpsc::channel(QUEUE_CAPACITY);
        let parts = thread::Parts {
            device: device.clone(),
            queue,
            staging: Arc::clone(&staging),
            flag: Arc::clone(&flag),
            slice_ns: if gpu.software { [SOFTWARE_SLICE_NS, SOFTWARE_CONTENDED_NS] } else { [SLICE_NS; 2] },
            holds: Arc::clone(&holds),
            link,
            lost: Arc::clone(&lost),
            counters: Arc::clone(&counters),
        };
        thread::spawn(parts, receiver);
        let residents = Arc::<Residents>::default();
        let memory = Ledger::new("tenant", memory_max, None);
        memory.relieved_by(asset::relief(&residents));
        Arc::new(Self {
            wgpu: device,
            jobs,
            staging,
            kernels: KernelCache::default(),
            flag,
            pipelines: Mutex::default(),
            quarantine: Mutex::default(),
            creation: Mutex::new(()),
            holds,
            lost,
            memory,
            residents,
            counters,
            gpu,
        })
    }

    /// The GPU behind the device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The device's limits.
    pub fn limits(&self) -> wgpu::Limits {
        self.wgpu.limits()
    }

    /// Whether WGSL may `enable f16;`.
    pub fn has_f16(&self) -> bool {
        self.wgpu.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Whether WGSL may `enable subgroups;`: on devices whose subgroups have eight invocations at least.
    pub fn has_subgroups(&self) -> bool {
        self.wgpu.features().contains(wgpu::Features::SUBGROUP)
    }

    /// The memory that all sessions share.
    pub fn memory(&self) -> &Arc<Ledger> {
        &self.memory
    }

    /// Round trips and GPU time since the device was opened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Gives the device up, as if its driver had lost it.
    pub fn destroy(&self) {
        self.wgpu.destroy();
        // The callback is called while the device is polled.
        if let Err(error) = self.wgpu.poll(wgpu::PollType::Poll) {
            tracing::debug!(%error, "a destroyed device was polled");
        }
    }

    /// Whether it holds a shared GPU. A process that ends while it does makes the arbiter doubt the GPU.
    pub fn holds_gpu(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }

    /// Whether the device is gone.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Replaces the sources that may not run, by their [`crate::kernel::source_hash`].
    pub fn quarantine(&self, sources: HashSet<[u8; 32]>) {
        *self.quarantine.lock().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    pub(crate) fn is_quarantined(&self, source: &[u8; 32]) -> bool {
        self.quarantine.lock().unwrap_or_else(PoisonError::into_inner).contains(source)
    }

    /// The lock under which pipelines are made.
    pub(crate) fn creation(&self) -> MutexGuard<'_, ()> {
        self.creation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `make` inside error scopes and answers what they caught. Scopes are bound to the
    /// thread, hence the closure: it cannot await.
    pub(crate) fn scoped<T>(&self, make: impl FnOnce(&wgpu::Device) -> T) -> Result<T, Error> {
        if self.is_lost() {
            return Err(Error::lost());
        }
        let memory = self.wgpu.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.wgpu.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.wgpu.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make(&self.wgpu);
        // Scopes end innermost first.
        let caught = [error::ready(validation.pop()), error::ready(internal.pop()), error::ready(memory.pop())];
        match caught.into_iter().flatten().flatten().next() {
            Some(caught) => Err(error::from_wgpu(caught)),
            None => Ok(made),
        }
    }
}
