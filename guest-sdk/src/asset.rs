//! Assets: weights and tables that the manifest names under `[assets]`.
//!
//! The server keeps them on the GPU, shared by all requests. A [`View`] binds a range of an asset to a kernel, without
//! a copy if its offset is aligned. On the CPU, assets can be read like files, for example for headers and
//! vocabularies.

use crate::bindings::gannet::gpu::{asset as wit_asset, binding as wit_binding};
use crate::gpu::{Bind, Error, Result, Source};
use std::io;

/// Bytes that [`Reader`] reads ahead at a time.
const READ_AHEAD: u64 = 256 * 1024;

/// An asset that the manifest names under `[assets]`: read-only bytes.
///
/// ```no_run
/// # use gannet_sdk::{asset::Asset, gpu};
/// # fn f(kernel: &gpu::Kernel, sums: &gpu::Buffer<f32>) -> gpu::Result<()> {
/// let weights = Asset::open("weights")?;
/// kernel.dispatch((&weights.view(0, weights.len())?, sums), gpu::grid_1d(64, 64))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Asset(wit_asset::Asset);

impl Asset {
    /// Opens an asset by the name that the manifest gives it.
    ///
    /// An unknown name is `gpu::Error::NotFound`.
    ///
    /// ```no_run
    /// # use gannet_sdk::asset::Asset;
    /// // [assets]
    /// // weights = "all-minilm-l6-v2"
    /// let weights = Asset::open("weights")?;
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn open(name: &str) -> Result<Self> {
        Ok(Self(wit_asset::Asset::open(name)?))
    }

    /// The size in bytes.
    ///
    /// ```no_run
    /// # use gannet_sdk::asset::Asset;
    /// println!("{} MiB of weights", Asset::open("weights")?.len() >> 20);
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn len(&self) -> u64 {
        self.0.size()
    }

    /// Whether the asset has no bytes. It is always false: an asset has at least one byte.
    ///
    /// ```no_run
    /// # use gannet_sdk::asset::Asset;
    /// assert!(!Asset::open("weights")?.is_empty());
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `size` bytes from byte `offset` on the CPU.
    ///
    /// A range past the end is `gpu::Error::InvalidArgument`; more than 64 MiB at once is `gpu::Error::TooLarge`.
    ///
    /// ```no_run
    /// # use gannet_sdk::asset::Asset;
    /// let magic = Asset::open("weights")?.read(0, 4)?;
    /// assert_eq!(magic, b"GGUF");
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>> {
        self.0.read(offset, size)
    }

    /// A range of `size` bytes from byte `offset`, to bind to a variable that a kernel only reads.
    ///
    /// It costs nothing if `offset` is a multiple of the device's `storage_binding_alignment`, unless the range spans
    /// two of the GPU buffers that hold a large asset. Any other range is copied, and the copy counts against the
    /// request's GPU memory.
    ///
    /// A range that is empty or past the end is `gpu::Error::InvalidArgument`; one over the device's limit for a
    /// binding is `gpu::Error::TooLarge`.
    ///
    /// ```no_run
    /// # use gannet_sdk::{asset::Asset, gpu};
    /// # fn f(kernel: &gpu::Kernel, weights: &Asset, out: &gpu::Buffer<f32>) -> gpu::Result<()> {
    /// let row = weights.view(4096, 1024)?;
    /// kernel.dispatch((&row, out), gpu::grid_1d(256, 64))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn view(&self, offset: u64, size: u64) -> Result<View> {
        Ok(View(self.0.view(offset, size)?))
    }

    /// A reader that starts at the first byte.
    ///
    /// ```no_run
    /// # use gannet_sdk::asset::Asset;
    /// use std::io::BufRead;
    /// let words = Asset::open("vocabulary")?;
    /// let count = words.reader().lines().count();
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn reader(&self) -> Reader<'_> {
        Reader { asset: self, at: 0, ahead: Vec::new(), used: 0 }
    }
}

/// A range of an asset, to bind to a kernel's variable.
///
/// ```
/// # use gannet_sdk::{asset::View, gpu};
/// fn sum(kernel: &gpu::Kernel, values: &View, out: &gpu::Buffer<f32>) -> gpu::Result<()> {
///     kernel.dispatch((values, out), gpu::grid_1d(1, 64))?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct View(wit_asset::View);

impl View {
    /// The size in bytes.
    ///
    /// ```no_run
    /// # use gannet_sdk::asset::Asset;
    /// assert_eq!(Asset::open("weights")?.view(0, 1024)?.len(), 1024);
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn len(&self) -> u64 {
        self.0.size()
    }

    /// Whether the view has no bytes. It is always false: a view has at least one byte.
    ///
    /// ```no_run
    /// # use gannet_sdk::asset::Asset;
    /// assert!(!Asset::open("weights")?.view(0, 1024)?.is_empty());
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Bind for &View {
    fn source(&self) -> Source<'_> {
        Source(wit_binding::Source::Asset(&self.0))
    }
}

/// Reads an asset like a file; see [`Asset::reader`].
///
/// ```no_run
/// # use gannet_sdk::asset::{Asset, Reader};
/// use std::io::{Read, Seek, SeekFrom};
/// fn third_byte(reader: &mut Reader) -> std::io::Result<u8> {
///     let mut byte = [0];
///     reader.seek(SeekFrom::Start(2))?;
///     reader.read_exact(&mut byte)?;
///     Ok(byte[0])
/// }
/// ```
#[derive(Debug)]
pub struct Reader<'a> {
    asset: &'a Asset,
    /// Offset of `ahead` in the asset.
    at: u64,
    ahead: Vec<u8>,
    /// Bytes of `ahead` that were consumed.
    used: usize,
}

impl io::Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let ahead = io::BufRead::fill_buf(self)?;
        let count = ahead.len().min(out.len());
        if let (Some(from), Some(to)) = (ahead.get(..count), out.get_mut(..count)) {
            to.copy_from_slice(from);
        }
        io::BufRead::consume(self, count);
        Ok(count)
    }
}

impl io::BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used >= self.ahead.len() {
            self.at += self.ahead.len() as u64;
            let size = self.asset.len().saturating_sub(self.at).min(READ_AHEAD);
            self.ahead = if size == 0 {
                Vec::new()
            } else {
                self.asset.read(self.at, size).map_err(|error: Error| io::Error::other(error.message().to_owned()))?
            };
            self.used = 0;
        }
        Ok(self.ahead.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.ahead.len());
    }
}

impl io::Seek for Reader<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let here = self.at + self.used as u64;
        let target = match to {
            io::SeekFrom::Start(offset) => Some(offset),
            io::SeekFrom::End(offset) => self.asset.len().checked_add_signed(offset),
            io::SeekFrom::Current(offset) => here.checked_add_signed(offset),
        };
        let target =
            target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek to a position before the start"))?;
        let within = target.checked_sub(self.at).and_then(|within| usize::try_from(within).ok());
        match within.filter(|within| *within <= self.ahead.len()) {
            Some(within) => self.used = within,
            None => {
                // The target is outside of `ahead`.
                self.ahead.clear();
                (self.at, self.used) = (target, 0);
            }
        }
        Ok(target)
    }
}
