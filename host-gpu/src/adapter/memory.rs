//! Queries the driver for the size of a GPU's memory and for the part of it that is free for this process.
//!
//! wgpu does not report either, so the driver is queried directly (`VkPhysicalDeviceMemoryProperties`,
//! `VK_EXT_memory_budget`). On systems other than Linux, nothing is known.

/// Bytes of a GPU's own memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdapterMemory {
    pub(crate) total: u64,
    /// Bytes that this process can still allocate; None if the driver does not report it.
    pub(crate) free: Option<u64>,
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn query(_: &wgpu::Adapter) -> Option<AdapterMemory> {
    None
}

#[cfg(target_os = "linux")]
pub(crate) fn query(adapter: &wgpu::Adapter) -> Option<AdapterMemory> {
    use ash::vk;
    // SAFETY: only properties are read, while the adapter is borrowed, and nothing is kept or destroyed.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let told = adapter.physical_device_capabilities().supports_extension(ash::ext::memory_budget::NAME);
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceMemoryProperties2::default();
    if told {
        properties = properties.push_next(&mut budget);
    }
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device belongs to this instance, and the chain holds only what the device supports.
    unsafe { instance.get_physical_device_memory_properties2(adapter.raw_physical_device(), &mut properties) };
    let memory = properties.memory_properties;
    let own: Vec<usize> = memory
        .memory_heaps_as_slice()
        .iter()
        .enumerate()
        .filter(|(_, heap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL))
        .map(|(at, _)| at)
        .collect();
    let sum = |of: &dyn Fn(usize) -> Option<u64>| own.iter().filter_map(|at| of(*at)).sum::<u64>();
    let total = sum(&|at| memory.memory_heaps_as_slice().get(at).map(|heap| heap.size));
    let free = told.then(|| {
        let (budgets, used) = (budget.heap_budget, budget.heap_usage);
        sum(&|at| Some(budgets.get(at)?.saturating_sub(*used.get(at)?)))
    });
    Some(AdapterMemory { total, free })
}
