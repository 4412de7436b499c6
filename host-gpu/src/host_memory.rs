//! Imports pages of a file as a buffer, without a copy, on devices that compute in the host's own memory.
//!
//! ```text
//!  open ─▶ a device with VK_EXT_external_memory_host
//!  MappedPages::of ─mmap─▶ MappedPages ─▶ populate: read from the disk, range by range
//!                                      ─▶ import ─▶ VkDeviceMemory ─▶ wgpu::Buffer
//! ```
//!
//! Only software drivers compute in host memory. A GPU would read the pages over its bus, so it gets copies instead.
//! The pages are mapped for reading only: a write to them kills the process, which is one tenant's worker and nothing
//! else. wgpu has no call for importing host memory, so the buffers are created through its Vulkan handles, and wgpu
//! calls back when it no longer uses them.

/// Opens a device that can import host memory. None if the driver cannot.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open(_: &wgpu::Adapter, _: &wgpu::DeviceDescriptor<'_>) -> Option<(wgpu::Device, wgpu::Queue)> {
    None
}

/// Pages of a file that a device can use as a buffer.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) enum MappedPages {}

#[cfg(not(target_os = "linux"))]
impl MappedPages {
    pub(crate) fn of(_: &wgpu::Device, _: &std::fs::File, _: u64, _: u64) -> Option<Self> {
        None
    }

    pub(crate) fn populate(&self, _: u64, _: u64) -> bool {
        match *self {}
    }

    pub(crate) fn import(self, _: &wgpu::Device) -> Option<wgpu::Buffer> {
        match self {}
    }
}

#[cfg(target_os = "linux")]
pub(crate) use vulkan::{MappedPages, open};

#[cfg(target_os = "linux")]
mod vulkan {
    use ash::ext::external_memory_host;
    use ash::vk;
    use memmap2::{Advice, Mmap, MmapOptions};
    use std::fs::File;
    use wgpu::hal::api::Vulkan;
    use wgpu::hal::vulkan::Buffer;

    const HOST: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
    /// The smallest page size. Drivers that need a larger alignment of pointers and sizes are not used for imports.
    const ALIGNMENT: u64 = 4096;
    /// The usages for binding and copying an asset. There are none for writing, because nothing writes to an asset.
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
        if !driver.physical_device_capabilities().supports_extension(external_memory_host::NAME) || !imports(&driver) {
            return None;
        }
        // SAFETY: the driver has the extension that is added, and no extension is removed.
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

    /// Returns whether a driver can import host pages for a buffer with an asset's usages.
    fn imports(driver: &wgpu::hal::vulkan::Adapter) -> bool {
        let instance = driver.shared_instance().raw_instance();
        let device = driver.raw_physical_device();
        let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
        // SAFETY: the physical device is this instance's, and it has the extension of the chained structure.
        unsafe { instance.get_physical_device_properties2(device, &mut properties) };
        let buffer = vk::PhysicalDeviceExternalBufferInfo::default().usage(RAW_USAGE).handle_type(HOST);
        let mut external = vk::ExternalBufferProperties::default();
        // SAFETY: as above.
        unsafe { instance.get_physical_device_external_buffer_properties(device, &buffer, &mut external) };
        let features = external.external_memory_properties.external_memory_features;
        let alignment = host.min_imported_host_pointer_alignment;
        alignment != 0
            && ALIGNMENT.is_multiple_of(alignment)
            && features.contains(vk::ExternalMemoryFeatureFlags::IMPORTABLE)
    }

    /// Pages of a file that a device can use as a buffer.
    #[derive(Debug)]
    pub(crate) struct MappedPages(Mmap);

    impl MappedPages {
        /// Maps `size` bytes from `offset`, which must be a multiple of a page. After the file's end there are zeros up
        /// to the next page. None if the device cannot import them.
        pub(crate) fn of(device: &wgpu::Device, file: &File, offset: u64, size: u64) -> Option<Self> {
            // SAFETY: the device is borrowed for as long as its handle is used, and only what is made here is
            // destroyed.
            let driver = unsafe { device.as_hal::<Vulkan>() }?;
            let can = driver.enabled_device_extensions().contains(&external_memory_host::NAME);
            // Pages after a file's end cannot be read.
            if !can || !offset.is_multiple_of(ALIGNMENT) || file.metadata().ok()?.len() < offset.checked_add(size)? {
                return None;
            }
            let length = usize::try_from(size).ok()?;
            // SAFETY: asset files are never changed or truncated. If something outside of Gannet does it, the bytes
            // that are read here change too, or a signal ends this process.
            unsafe { MmapOptions::new().offset(offset).len(length).map_copy_read_only(file) }.ok().map(Self)
        }

        /// Waits until a range is in memory. Returns false if the system reports that it cannot be read.
        pub(crate) fn populate(&self, offset: u64, size: u64) -> bool {
            let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
            let Some((offset, size)) =
                range.filter(|(offset, size)| offset.checked_add(*size).is_some_and(|end| end <= self.0.len()))
            else {
                return false;
            };
            let populated = self.0.advise_range(Advice::PopulateRead, offset, size);
            // Linux before 5.14 does not have this call. There, pages are read one by one when they are used.
            populated.is_ok() || populated.is_err_and(|error| error.kind() == std::io::ErrorKind::InvalidInput)
        }

        /// Imports the pages as a buffer. None if the driver refuses.
        pub(crate) fn import(self, device: &wgpu::Device) -> Option<wgpu::Buffer> {
            let size = (self.0.len() as u64).next_multiple_of(4);
            // SAFETY: as in `of`.
            let driver = unsafe { device.as_hal::<Vulkan>() }?;
            let memory = Imported::new(&driver, self.0)?;
            let raw = memory.buffer;
            // SAFETY: the buffer lives until the callback has run, which wgpu calls when neither wgpu nor the GPU uses
            // the buffer any more.
            let buffer = unsafe { Buffer::from_raw_externally_owned(raw, Box::new(move || drop(memory))) };
            let descriptor = wgpu::BufferDescriptor { label: None, size, usage: USAGE, mapped_at_creation: false };
            // SAFETY: the buffer is of this device, has that size and that usage, and all its bytes are initialized.
            Some(unsafe { device.create_buffer_from_hal::<Vulkan>(buffer, &descriptor) })
        }
    }

    /// Device memory that was imported from pages of a file, and the buffer in it.
    struct Imported {
        device: ash::Device,
        buffer: vk::Buffer,
        memory: vk::DeviceMemory,
        /// Unmapped after `Drop` has freed the device memory that uses the pages.
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
            // SAFETY: the description is complete. From here on, `Drop` destroys what was created.
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
            // SAFETY: the range is whole pages from a page's start, they stay mapped as long as the memory exists, and
            // the memory type is one that the driver named for them.
            imported.memory = unsafe { imported.device.allocate_memory(&taken, None) }.ok()?;
            // SAFETY: neither is bound yet, and the buffer fits.
            unsafe { imported.device.bind_buffer_memory(buffer, imported.memory, 0) }.ok()?;
            Some(imported)
        }
    }

    impl Drop for Imported {
        fn drop(&mut self) {
            // SAFETY: nothing uses buffer and memory any more, see `import`. The device still exists, because its
            // buffers keep it alive.
            unsafe {
                self.device.destroy_buffer(self.buffer, None);
                self.device.free_memory(self.memory, None);
            }
        }
    }
}
