//! The GPU slots of this server, from the GPUs that were found and the operator's configuration. Pure.
//!
//! Slots are numbered from 0. The same adapter may have several. A slot without a GPU exists only if no GPU was found,
//! so that functions without kernels still run.

use gannet_base::names::ANY_CLASS;
use gannet_gpu_protocol::Gpu;
use gannet_state::config::{ConfigError, ServerConfig};

/// Number of a slot.
pub type SlotId = usize;

/// Memory that a device is assumed to take on a GPU whose driver does not report it.
const CONTEXT_BYTES: u64 = 512 << 20;
/// Devices themselves may take one part in this many of a GPU's memory. The rest is for what tenants allocate.
const CONTEXTS_PART: u64 = 2;

/// A GPU as this server uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSlot {
    /// Number of the slot, from 0.
    pub slot: SlotId,
    /// The GPU; `None` if the server has no GPU.
    pub gpu: Option<Gpu>,
    /// GPU class, as manifests name it. The configuration may override the class of the adapter.
    pub class: String,
    /// Spare workers kept ready, at most `workers_max`.
    pub spares: usize,
    /// Most workers and spares together: the configured number, or fewer if the GPU has no memory for so many devices.
    pub workers_max: usize,
}

/// Returns the slots: those of the configuration file, else all real GPUs, else the first software GPU.
pub fn slots(found: &[Gpu], file: &ServerConfig) -> Result<Vec<GpuSlot>, ConfigError> {
    let usual = |gpu: &Gpu| (gpu.clone(), gpu.class.clone(), file.spares, file.workers_max, None);
    let real: Vec<_> = found.iter().filter(|gpu| !gpu.software).map(usual).collect();
    let chosen = if file.gpus.is_empty() {
        if real.is_empty() { found.iter().take(1).map(usual).collect() } else { real }
    } else {
        let mut chosen = Vec::new();
        for wanted in &file.gpus {
            let gpu = found.iter().find(|gpu| gpu.index == wanted.index);
            let gpu = gpu.ok_or(ConfigError::NoSuchGpu { index: wanted.index, found: found.len() })?;
            let class = wanted.class.clone().unwrap_or_else(|| gpu.class.clone());
            let (spares, workers_max) =
                (wanted.spares.unwrap_or(file.spares), wanted.workers_max.unwrap_or(file.workers_max));
            chosen.push((gpu.clone(), class, spares, workers_max, wanted.memory_mib));
        }
        chosen
    };
    let mut slots: Vec<GpuSlot> = (0..)
        .zip(chosen)
        .map(|(slot, (mut gpu, class, spares, workers_max, memory_mib))| {
            if let Some(memory_mib) = memory_mib {
                gpu.memory_bytes = memory_mib << 20;
            }
            let workers_max = workers_max.min(room(&gpu));
            GpuSlot { slot, gpu: Some(gpu), class, spares: spares.min(workers_max), workers_max }
        })
        .collect();
    if slots.is_empty() {
        let (spares, workers_max) = (file.spares, file.workers_max);
        slots.push(GpuSlot { slot: 0, gpu: None, class: "none".into(), spares, workers_max });
    }
    Ok(slots)
}

/// Number of devices that fit on a GPU, at least one.
fn room(gpu: &Gpu) -> usize {
    if gpu.memory_bytes == 0 {
        return usize::MAX;
    }
    let context = if gpu.context_bytes == 0 { CONTEXT_BYTES } else { gpu.context_bytes };
    usize::try_from(gpu.memory_bytes / CONTEXTS_PART / context).unwrap_or(usize::MAX).max(1)
}

/// Whether a slot is of a class that a function names.
fn fits(gpu_slot: &GpuSlot, class: &str) -> bool {
    class == ANY_CLASS || gpu_slot.class == class
}

/// Returns the slots that a function may run in with their places in its order of preference. A slot of several classes
/// comes repeatedly.
pub fn ranked<'a>(slots: &'a [GpuSlot], classes: &'a [String]) -> impl Iterator<Item = (usize, SlotId)> + 'a {
    let of = |class| slots.iter().filter(move |slot| fits(slot, class)).map(|gpu_slot| gpu_slot.slot);
    classes.iter().enumerate().flat_map(move |(rank, class)| of(class).map(move |slot| (rank, slot)))
}

/// Returns the slots that a function may run in, as groups in its order of preference. The slots of a group are equally
/// good.
pub fn candidates(slots: &[GpuSlot], classes: &[String]) -> Vec<Vec<SlotId>> {
    let of = |class: &String| {
        let fit = slots.iter().filter(|gpu_slot| fits(gpu_slot, class));
        fit.map(|gpu_slot| gpu_slot.slot).collect::<Vec<_>>()
    };
    classes.iter().map(of).filter(|group| !group.is_empty()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn gpu(index: u32, software: bool) -> Gpu {
        Gpu {
            index,
            name: format!("gpu {index}"),
            backend: "vulkan".into(),
            driver: String::new(),
            class: if software { "software" } else { "gpu" }.into(),
            software,
            timestamps: true,
            memory_bytes: 8 << 30,
            context_bytes: 256 << 20,
        }
    }

    fn file(text: &str) -> ServerConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn software_is_used_only_when_there_is_no_other_or_when_asked_for() {
        let found = [gpu(0, false), gpu(1, false), gpu(2, true)];
        let indexes = |file: &str, found: &[Gpu]| {
            let slots = slots(found, &super::tests::file(file)).unwrap();
            slots.into_iter().map(|gpu_slot| gpu_slot.gpu.map(|gpu| gpu.index)).collect::<Vec<_>>()
        };
        assert_eq!(indexes("", &found), [Some(0), Some(1)]);
        assert_eq!(indexes("", &found[2..]), [Some(2)]);
        assert_eq!(indexes("", &[]), [None]);
        assert_eq!(indexes("[[gpus]]\nindex = 2\n[[gpus]]\nindex = 2\n", &found), [Some(2), Some(2)]);
        let missing = slots(&found, &file("[[gpus]]\nindex = 7\n")).unwrap_err();
        assert_eq!(missing.to_string(), "gpus: there is no gpu 7; 3 were found, see `gannet doctor`");
    }

    #[test]
    fn what_devices_take_by_themselves_bounds_the_workers() {
        let slots = slots(&[gpu(0, false)], &file("workers_max = 100\nspares = 64\n")).unwrap();
        assert_eq!((slots[0].workers_max, slots[0].spares), (16, 16), "half of 8 GiB, 256 MiB each");
        let small = super::slots(&[gpu(0, false)], &file("[[gpus]]\nindex = 0\nmemory_mib = 100\n")).unwrap();
        assert_eq!(small[0].workers_max, 1);
    }

    #[test]
    fn classes_are_an_order_of_preference() {
        let text = "[[gpus]]\nindex = 0\nclass = \"big\"\n[[gpus]]\nindex = 1\nclass = \"small\"\n[[gpus]]\nindex = 1\nclass = \"big\"\n";
        let slots = slots(&[gpu(0, false), gpu(1, false)], &file(text)).unwrap();
        let wanted =
            |classes: &[&str]| candidates(&slots, &classes.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
        assert_eq!(wanted(&["small", "huge", "any"]), [vec![1], vec![0, 1, 2]]);
        assert!(wanted(&["huge"]).is_empty());
    }
}
