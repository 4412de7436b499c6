//! `gannet-server.toml` and the flags of `gannet serve`: raw as written, checked once.

use crate::names::{ANY_CLASS, TenantName, is_class};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The file, as written. Every key has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerFile {
    /// Address to listen on.
    pub listen: Option<SocketAddr>,
    /// Spare workers kept ready.
    pub spares: usize,
    /// Workers and spares together.
    pub workers_max: usize,
    /// GPU memory that one tenant may take.
    pub tenant_gpu_memory_mib: u64,
    /// Resident memory of one worker process.
    pub worker_memory_mib: u64,
    /// The largest component.
    pub component_mib_max: u64,
    /// How long requests may run on after SIGTERM.
    pub drain_s: u64,
    /// Accept components for `wasi:http/service` 0.3.
    pub wasi_http_0_3: bool,
    /// How long a worker may take to give the GPU back when it is asked to, before it is killed.
    pub lease_grace_ms: Option<u64>,
    /// Shares of the GPU of tenants that have another than 1.
    pub gpu_weights: BTreeMap<TenantName, u32>,
    /// The GPUs to serve on, in order of preference. None named: all real ones, or a software one.
    pub gpus: Vec<GpuFile>,
}

/// One GPU to serve on, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuFile {
    /// Its index, as `gannet doctor` lists it.
    pub index: u32,
    /// The class that manifests name.
    pub class: Option<String>,
    /// Spare workers kept ready on it.
    pub spares: Option<usize>,
    /// Workers and spares on it together.
    pub workers_max: Option<usize>,
    /// Its memory, if it is to be taken for another than the driver says.
    pub memory_mib: Option<u64>,
}

/// GPUs in one file.
const GPUS_MAX: usize = 64;

impl Default for ServerFile {
    fn default() -> Self {
        Self {
            listen: None,
            spares: 1,
            workers_max: 32,
            tenant_gpu_memory_mib: 4096,
            worker_memory_mib: 8192,
            component_mib_max: 64,
            drain_s: 30,
            wasi_http_0_3: false,
            lease_grace_ms: None,
            gpu_weights: BTreeMap::new(),
            gpus: Vec::new(),
        }
    }
}

/// Why the server cannot be configured so.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A value is out of its range.
    #[error("{name} = {value}; it may be {least} to {most}")]
    Range {
        /// The key.
        name: &'static str,
        /// What was given.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A GPU that is not there.
    #[error("gpus: there is no gpu {index}; {found} were found, see `gannet doctor`")]
    NoSuchGpu {
        /// Its index.
        index: u32,
        /// How many there are.
        found: usize,
    },
    /// A class that no manifest could name.
    #[error("gpus: class {0:?}; a class is 1 to 64 of a-z, 0-9 and dashes, and not \"any\"")]
    BadClass(String),
    /// `--dev` beyond this machine.
    #[error("--dev serves only a loopback address, not {0}: its key is known to everybody")]
    DevBeyondLoopback(SocketAddr),
}

impl ServerFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |cause: String| ConfigError::Read { path: path.to_owned(), cause };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let file: Self = toml::from_str(&text).map_err(|error| failed(error.to_string()))?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), ConfigError> {
        for class in self.gpus.iter().filter_map(|gpu| gpu.class.as_ref()) {
            if class == ANY_CLASS || !is_class(class) {
                return Err(ConfigError::BadClass(class.chars().take(80).collect()));
            }
        }
        let each = self.gpus.iter().flat_map(|gpu| {
            [
                ("gpus.spares", gpu.spares.unwrap_or(0) as u64, 0, 64),
                ("gpus.workers_max", gpu.workers_max.unwrap_or(1) as u64, 1, 1024),
                ("gpus.memory_mib", gpu.memory_mib.unwrap_or(1), 1, 1 << 24),
            ]
        });
        let all = [
            ("gpus", self.gpus.len() as u64, 0, GPUS_MAX as u64),
            ("spares", self.spares as u64, 0, 64),
            ("workers_max", self.workers_max as u64, 1, 1024),
            ("tenant_gpu_memory_mib", self.tenant_gpu_memory_mib, 1, 1 << 20),
            ("worker_memory_mib", self.worker_memory_mib, 256, 1 << 20),
            ("component_mib_max", self.component_mib_max, 1, 1024),
            ("drain_s", self.drain_s, 0, 3600),
            ("lease_grace_ms", self.lease_grace_ms.unwrap_or(100), 50, 60_000),
            ("gpu_weights", u64::from(self.gpu_weights.values().copied().min().unwrap_or(1)), 1, 1000),
            ("gpu_weights", u64::from(self.gpu_weights.values().copied().max().unwrap_or(1)), 1, 1000),
        ];
        for (name, value, least, most) in all.into_iter().chain(each) {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::Range { name, value, least, most });
            }
        }
        Ok(())
    }
}
