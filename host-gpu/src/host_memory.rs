//! Devices that compute in the host's own memory: a file's pages can be a buffer as they are, and nothing is copied.
//!
//! ```text
//!  open ─▶ a device with VK_EXT_external_memory_host ─▶ import: file ─mmap─▶ pages ─▶ VkDeviceMemory ─▶ wgpu::Buffer
//! ```
//!
//! That is so of software drivers. A GPU reads host memory over its bus, and gets copies. The pages are mapped for reading only:
//! whatever writes there ends the process, and with it no more than one tenant's worker. wgpu does not map host memory itself, so
//! the buffers are made through its own handles, and it is told when they are gone.

/// Opens a device that can import host memory; none where the driver cannot.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open(_: &wgpu::Adapter, _: &wgpu::DeviceDescriptor<'_>) -> Option<(wgpu::Device, wgpu::Queue)> {
    None
}

/// A buffer of which a range of a file is the content; none where the device cannot have one.
#[cfg(not(target_os = "linux"))]
pub(crate) fn import(_: &wgpu::Device, _: &std::fs::File, _: u64, _: u64) -> Option<wgpu::Buffer> {
    None
}

#[cfg(target_os = "linux")]
pub(crate) use vulkan::{import, open};

#[cfg(target_os = "linux")]
mod vulkan {
    use ash::ext::external_memory_host;
    use ash::vk;
    use memmap2::{Mmap, MmapOptions};
    use std::fs::File;
    use wgpu::hal::api::Vulkan;
    use wgpu::hal::vulkan::Buffer;

    const HOST: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
    /// What drivers may want a pointer and a size to be a multiple of; a page.
    const ALIGNMENT: u64 = 4096;
    /// What bindings and copies of an asset need; nothing writes to one.
    const USAGE: wgpu::BufferUsages =
        wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::UNIFORM).union(wgpu::BufferUsages::COPY_SRC);
    const RAW_USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
        vk::BufferUsageFlags::STORAGE_BUFFER.as_raw()
            | vk::BufferUsageFlags::UNIFORM_BUFFER.as_raw()
            | vk::BufferUsageFlags::TRANSFER_SRC.as_raw(),
    );

    pub(crate) fn open(
        adapter: &wgpu::Adapter,
        wanted: &wgpu::DeviceDescriptor<'_>,
    ) -> Option<(wgpu::Device, wgpu::Queue)> {
        // SAFETY: the adapter is borrowed for as long as its handle is used, and nothing of it is destroyed.
        let driver = unsafe { adapter.as_hal::<Vulkan>() }?;
        if !driver.physical_device_capabilities().supports_extension(external_memory_host::NAME) {
            return None;
        }
        // SAFETY: the driver has the extension that is added, and nothing is taken away.
        let opened = unsafe {
            driver.open_with_callback(
                wanted.required_features,
                &wanted.required_limits,
                &wanted.memory_hints,
                Some(Box::new(|device| device.extensions.push(external_memory_host::NAME))),
            )
        };
        // SAFETY: opened a line above, from this adapter and with these features and limits.
        unsafe { adapter.create_device_from_hal(opened.ok()?, wanted) }.ok()
    }

    /// The bytes from `offset`, a multiple of a page, and zeros behind the file's end up to the next multiple of 4.
    pub(crate) fn import(device: &wgpu::Device, file: &File, offset: u64, size: u64) -> Option<wgpu::Buffer> {
        // SAFETY: the device is borrowed for as long as its handle is used, and only what is made here is destroyed.
        let driver = unsafe { device.as_hal::<Vulkan>() }?;
        if !driver.enabled_device_extensions().contains(&external_memory_host::NAME)
            || !offset.is_multiple_of(ALIGNMENT)
        {
            return None;
        }
        // Pages behind a file's end cannot be read.
        if file.metadata().ok()?.len() < offset.checked_add(size)? {
            return None;
        }
        let length = usize::try_from(size).ok()?;
        // SAFETY: assets are in files that are never changed or cut. If that is broken from outside, what is read here
        // changes with them, or this process ends by a signal.
        let pages =
            unsafe { MmapOptions::new().offset(offset).len(length).populate().map_copy_read_only(file) }.ok()?;
        let memory = Imported::new(&driver, pages)?;
        let raw = memory.buffer;
        // SAFETY: the buffer lives until the callback has run, which wgpu calls when neither it nor the GPU uses it.
        let buffer = unsafe { Buffer::from_raw_externally_owned(raw, Box::new(move || drop(memory))) };
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size: size.next_multiple_of(4),
            usage: USAGE,
            mapped_at_creation: false,
        };
        // SAFETY: a buffer of this device, with that size and at least that usage, whose bytes are all there.
        Some(unsafe { device.create_buffer_from_hal::<Vulkan>(buffer, &descriptor) })
    }

    /// Pages of a file that a device takes for its own memory.
    struct Imported {
        device: ash::Device,
        buffer: vk::Buffer,
        memory: vk::DeviceMemory,
        /// After the memory that is made of it.
        _pages: Mmap,
    }

    impl Imported {
        fn new(driver: &wgpu::hal::vulkan::Device, pages: Mmap) -> Option<Self> {
            let device = driver.raw_device().clone();
            let size = (pages.len() as u64).next_multiple_of(ALIGNMENT);
            let start = pages.as_ptr().cast_mut().cast();
            let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HOST);
            let made = vk::BufferCreateInfo::default()
                .size(size)
                .usage(RAW_USAGE)
                .sharing_mode(vk::SharingMode::EXCLUSIVE)
                .push_next(&mut external);
            // SAFETY: the description is whole. From here on, `Drop` destroys what was made.
            let buffer = unsafe { device.create_buffer(&made, None) }.ok()?;
            let mut imported = Self { device, buffer, memory: vk::DeviceMemory::null(), _pages: pages };
            let instance = driver.shared_instance().raw_instance();
            let functions = external_memory_host::Device::new(instance, &imported.device);
            let mut pointer = vk::MemoryHostPointerPropertiesEXT::default();
            // SAFETY: the extension is enabled, the pages are mapped and begin at a multiple of a page.
            unsafe {
                (functions.fp().get_memory_host_pointer_properties_ext)(
                    imported.device.handle(),
                    HOST,
                    start,
                    &raw mut pointer,
                )
            }
            .result()
            .ok()?;
            // SAFETY: the buffer is this device's.
            let needed = unsafe { imported.device.get_buffer_memory_requirements(buffer) };
            let types = pointer.memory_type_bits & needed.memory_type_bits;
            if types == 0 || needed.size > size {
                return None;
            }
            let mut host = vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HOST).host_pointer(start);
            let taken = vk::MemoryAllocateInfo::default()
                .allocation_size(size)
                .memory_type_index(types.trailing_zeros())
                .push_next(&mut host);
            // SAFETY: whole pages from a page's start are mapped for as long as the memory is, and the type is one that the
            // driver named for them; a driver that refuses says so.
            imported.memory = unsafe { imported.device.allocate_memory(&taken, None) }.ok()?;
            // SAFETY: neither is bound yet, and the buffer fits.
            unsafe { imported.device.bind_buffer_memory(buffer, imported.memory, 0) }.ok()?;
            Some(imported)
        }
    }

    impl Drop for Imported {
        fn drop(&mut self) {
            // SAFETY: nothing uses them any more, see `import`. The device is there: its buffers hold it.
            unsafe {
                self.device.destroy_buffer(self.buffer, None);
                self.device.free_memory(self.memory, None);
            }
        }
    }
}
