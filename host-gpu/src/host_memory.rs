//! Devices that compute in the host's own memory: a file's pages can be a buffer as they are, and nothing is copied.
//!
//! ```text
//!  open ─▶ a device with VK_EXT_external_memory_host
//!  MappedPages::of ─mmap─▶ MappedPages ─▶ populate, range by range: from the disk ─▶ import ─▶ VkDeviceMemory ─▶ wgpu::Buffer
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

/// Pages of a file that a device can have for a buffer.
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
    /// The smallest page. Drivers that want pointers and sizes to be multiples of more are not asked.
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
        if !driver.physical_device_capabilities().supports_extension(external_memory_host::NAME) || !imports(&driver) {
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

    /// Whether a driver takes pages of the host for a buffer like an asset's.
    fn imports(driver: &wgpu::hal::vulkan::Adapter) -> bool {
        let instance = driver.shared_instance().raw_instance();
        let device = driver.raw_physical_device();
        let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
        // SAFETY: the physical device is this instance's, and it has the extension of the chained structure.
        unsafe { instance.get_physical_device_properties2(device, &mut properties) };
        let buffer = vk::PhysicalDeviceExternalBufferInfo::default().usage(RAW_USAGE).handle_type(HOST);
        let mut external = vk::ExternalBufferProperties::default();
        // SAFETY: the same.
        unsafe { instance.get_physical_device_external_buffer_properties(device, &buffer, &mut external) };
        let features = external.external_memory_properties.external_memory_features;
        let alignment = host.min_imported_host_pointer_alignment;
        alignment != 0
            && ALIGNMENT.is_multiple_of(alignment)
            && features.contains(vk::ExternalMemoryFeatureFlags::IMPORTABLE)
    }

    /// Pages of a file that a device can have for a buffer.
    #[derive(Debug)]
    pub(crate) struct MappedPages(Mmap);

    impl MappedPages {
        /// Maps the bytes from `offset`, a multiple of a page; behind the file's end there are zeros up to the next page. None
        /// where the device cannot have them.
        pub(crate) fn of(device: &wgpu::Device, file: &File, offset: u64, size: u64) -> Option<Self> {
            // SAFETY: the device is borrowed for as long as its handle is used, and only what is made here is destroyed.
            let driver = unsafe { device.as_hal::<Vulkan>() }?;
            let can = driver.enabled_device_extensions().contains(&external_memory_host::NAME);
            // Pages behind a file's end cannot be read.
            if !can || !offset.is_multiple_of(ALIGNMENT) || file.metadata().ok()?.len() < offset.checked_add(size)? {
                return None;
            }
            let length = usize::try_from(size).ok()?;
            // SAFETY: assets are in files that are never changed or cut. If that is broken from outside, what is read here
            // changes with them, or this process ends by a signal.
            unsafe { MmapOptions::new().offset(offset).len(length).map_copy_read_only(file) }.ok().map(Self)
        }

        /// Waits until a range is in memory. False if it cannot be read, as far as the system tells.
        pub(crate) fn populate(&self, offset: u64, size: u64) -> bool {
            let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
            let Some((offset, size)) =
                range.filter(|(offset, size)| offset.checked_add(*size).is_some_and(|end| end <= self.0.len()))
            else {
                return false;
            };
            let populated = self.0.advise_range(Advice::PopulateRead, offset, size);
            // Systems before Linux 5.14 do not know it: there pages are found one by one, when they are used.
            populated.is_ok() || populated.is_err_and(|error| error.kind() == std::io::ErrorKind::InvalidInput)
        }

        /// The buffer that they are. None if the driver refuses.
        pub(crate) fn import(self, device: &wgpu::Device) -> Option<wgpu::Buffer> {
            let size = (self.0.len() as u64).next_multiple_of(4);
            // SAFETY: as in `of`.
            let driver = unsafe { device.as_hal::<Vulkan>() }?;
            let memory = Imported::new(&driver, self.0)?;
            let raw = memory.buffer;
            // SAFETY: the buffer lives until the callback has run, which wgpu calls when neither it nor the GPU uses it.
            let buffer = unsafe { Buffer::from_raw_externally_owned(raw, Box::new(move || drop(memory))) };
            let descriptor = wgpu::BufferDescriptor { label: None, size, usage: USAGE, mapped_at_creation: false };
            // SAFETY: a buffer of this device, with that size and that usage, whose bytes are all there.
            Some(unsafe { device.create_buffer_from_hal::<Vulkan>(buffer, &descriptor) })
        }
    }

    /// Memory of a device that is pages of a file, and the buffer in it.
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
            // driver named for them.
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
