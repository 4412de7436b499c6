//! `gannet-server.toml` and the flags of `gannet serve`: raw as written, checked once, all errors together.
//!
//! ```text
//!  text ─▶ [`read`]: keys and types ─▶ [`ServerConfig::check`]: ranges ─▶ serve, or `config check`
//!  SIGHUP ─▶ the same ─▶ [`ServerConfig::restart_needed`] names what stays as it was ─▶ [`LiveConfig`]
//! ```

mod read;

pub use read::read;

use arc_swap::ArcSwap;
use gannet_base::limits::{LimitsChoice, TenantLimits};
use gannet_base::names::{ANY_CLASS, is_class};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The file in force. Replaced whole by a reload.
pub type LiveConfig = Arc<ArcSwap<ServerConfig>>;

/// The file, as written. Every key has a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address to listen on.
    pub listen: Option<SocketAddr>,
    /// Address for the control API and the metrics alone; without it they share the other.
    pub admin_listen: Option<SocketAddr>,
    /// With it functions answer at `{function}--{tenant}.{domain}`.
    pub domain: Option<String>,
    /// How clients reach this server, for the URLs that it tells.
    pub public_url: Option<String>,
    /// Proxies whose word about where a request came from is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// TLS.
    pub tls: Option<TlsConfig>,
    /// Spare workers kept ready.
    pub spares: usize,
    /// Workers and spares together.
    pub workers_max: usize,
    /// Requests in flight, of all tenants together.
    pub requests_max: usize,
    /// GPU memory that one tenant may take.
    pub tenant_gpu_memory_mib: u64,
    /// Resident memory of one worker process.
    pub worker_memory_mib: u64,
    /// How long requests may run on after SIGTERM.
    pub drain_s: u64,
    /// Where a software driver computes, let it compute on the pages of assets' files. Else they are copied, as to a GPU:
    /// for data folders on disks that fail now and then.
    pub map_assets: bool,
    /// Accept components for `wasi:http/service` 0.3.
    pub wasi_http_0_3: bool,
    /// How long a worker may take to give the GPU back when it is asked to, before it is killed.
    pub lease_grace_ms: Option<u64>,
    /// The file with the key that secrets are sealed with.
    pub secrets_key_file: Option<PathBuf>,
    /// The GPUs to serve on, in order of preference. None named: all real ones, or a software one.
    pub gpus: Vec<GpuConfig>,
    /// Limits of tenants that have none of their own.
    pub limits: LimitsChoice,
    /// What work costs.
    pub prices: PricesConfig,
    /// Rates of whoever has no tenant.
    pub edge: EdgeConfig,
    /// Outbound HTTP of functions.
    pub egress: EgressConfig,
    /// How long things are kept.
    pub retention: RetentionConfig,
    /// Logs.
    pub logs: LogsConfig,
}

/// One GPU to serve on, as written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuConfig {
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
    /// What a second of its work costs.
    pub micro_units_per_s: Option<u64>,
}

/// A certificate and its key, in PEM. Read again when the files change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What work costs, in micro-units (millionths) of the currency.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PricesConfig {
    /// ISO 4217.
    pub currency: String,
    /// A second of a GPU whose entry says nothing else.
    pub gpu_micro_units_per_s: u64,
    /// A second of a guest's CPU time.
    pub cpu_micro_units_per_s: u64,
    /// A GiB of GPU memory kept by `scale.min` for a second.
    pub resident_micro_units_per_gib_s: u64,
}

impl Default for PricesConfig {
    fn default() -> Self {
        // A card of 80 GB at about 2.50 an hour; memory that is kept costs its part of the card.
        Self {
            currency: "USD".into(),
            gpu_micro_units_per_s: 700,
            cpu_micro_units_per_s: 20,
            resident_micro_units_per_gib_s: 9,
        }
    }
}

/// Rates of whoever has no tenant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeConfig {
    /// Requests without a key, from one address.
    pub anonymous_per_s: u64,
    /// Wrong keys, from one address.
    pub wrong_keys_per_s: u64,
    /// Connections from one address that is no trusted proxy.
    pub connections_per_address: u64,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self { anonymous_per_s: 1_000, wrong_keys_per_s: 10, connections_per_address: 1_024 }
    }
}

/// Outbound HTTP of functions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EgressConfig {
    /// Ranges that functions may reach although they are private, loopback or link-local.
    pub allow_ranges: Vec<IpNet>,
    /// Certificates, in PEM, that are trusted beside the usual ones.
    pub ca_file: Option<PathBuf>,
    /// Until a connection stands, TLS included.
    pub connect_timeout_ms: u64,
    /// Until the head of the answer is there.
    pub first_byte_timeout_ms: u64,
    /// The largest body of an answer.
    pub response_mib: u64,
    /// Calls of one tenant at once.
    pub concurrency: u64,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            allow_ranges: Vec::new(),
            ca_file: None,
            connect_timeout_ms: 5_000,
            first_byte_timeout_ms: 30_000,
            response_mib: 100,
            concurrency: 64,
        }
    }
}

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Lines of the ledger.
    pub ledger_days: u64,
    /// Entries of the audit log.
    pub audit_days: u64,
    /// Versions of a function, those with traffic or a tag not counted.
    pub versions: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { ledger_days: 400, audit_days: 400, versions: 50 }
    }
}

/// Logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// Where each request is written, a line of JSON each: a file, or `stderr`.
    pub access: Option<PathBuf>,
}

/// GPUs in one file.
const GPUS_MAX: usize = 64;

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: None,
            admin_listen: None,
            domain: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            tls: None,
            spares: 1,
            workers_max: 32,
            requests_max: 4096,
            tenant_gpu_memory_mib: 4096,
            worker_memory_mib: 8192,
            drain_s: 30,
            map_assets: true,
            wasi_http_0_3: false,
            lease_grace_ms: None,
            secrets_key_file: None,
            gpus: Vec::new(),
            limits: LimitsChoice::default(),
            prices: PricesConfig::default(),
            edge: EdgeConfig::default(),
            egress: EgressConfig::default(),
            retention: RetentionConfig::default(),
            logs: LogsConfig::default(),
        }
    }
}

/// Why the server cannot be configured so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A key is unknown, or its value is of the wrong kind.
    #[error("{key}: {cause}")]
    Key {
        /// Which, from the top.
        key: String,
        /// Why.
        cause: String,
    },
    /// A value is out of its range.
    #[error("{name} = {value}; it may be {least} to {most}")]
    Range {
        /// The key.
        name: String,
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
    /// `--dev` beyond this machine.
    #[error("--dev serves only a loopback address, not {0}: its key is known to everybody")]
    DevBeyondLoopback(SocketAddr),
    /// More than one thing is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Many(Vec<ConfigError>),
}

impl ConfigError {
    /// The errors that this is made of.
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Many(errors) => errors,
            one => std::slice::from_ref(one),
        }
    }

    fn of(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Many(errors)),
        }
    }
}

fn wrong(key: &str, cause: impl Into<String>) -> ConfigError {
    ConfigError::Key { key: key.to_owned(), cause: cause.into() }
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 190 && text.split('.').all(label)
}

impl ServerConfig {
    /// The limits of a tenant that has none of its own.
    pub fn tenant_limits(&self) -> TenantLimits {
        self.limits.over(&TenantLimits::default())
    }

    /// Everything that is wrong with the values.
    fn check(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (at, class) in self.gpus.iter().enumerate().filter_map(|(at, gpu)| Some((at, gpu.class.as_ref()?))) {
            if class == ANY_CLASS || !is_class(class) {
                let class: String = class.chars().take(80).collect();
                let rule = "a class is 1 to 64 of a-z, 0-9 and dashes, and not \"any\"";
                errors.push(wrong(&format!("gpus[{at}].class"), format!("{class:?}; {rule}")));
            }
        }
        if let Some(domain) = self.domain.as_deref().filter(|domain| !is_host(domain)) {
            let domain: String = domain.chars().take(200).collect();
            errors.push(wrong("domain", format!("{domain:?} is not a host name in lower case, without a port")));
        }
        if let Some(url) = &self.public_url
            && !url.parse::<http::Uri>().is_ok_and(|url| {
                matches!(url.scheme_str(), Some("http" | "https")) && url.authority().is_some() && url.path() == "/"
            })
        {
            errors.push(wrong("public_url", "it is not like https://gpu.example.org"));
        }
        if self.admin_listen.is_some() && self.admin_listen == self.listen {
            errors.push(wrong("admin_listen", "it is the same as listen; leave it out for one address"));
        }
        let currency = &self.prices.currency;
        if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
            errors.push(wrong("prices.currency", "it is not three capital letters, as in ISO 4217"));
        }
        for gannet_base::limits::OutOfRange { name, value, least, most } in self.limits.check() {
            errors.push(ConfigError::Range { name: format!("limits.{name}"), value, least, most });
        }
        errors.extend(self.out_of_range());
        errors
    }

    fn out_of_range(&self) -> Vec<ConfigError> {
        const PRICE_MAX: u64 = 1_000_000_000;
        let (prices, egress, kept) = (&self.prices, &self.egress, &self.retention);
        let mut all = vec![
            ("gpus".to_owned(), self.gpus.len() as u64, 0, GPUS_MAX as u64),
            ("spares".into(), self.spares as u64, 0, 64),
            ("workers_max".into(), self.workers_max as u64, 1, 1024),
            ("requests_max".into(), self.requests_max as u64, 1, 1 << 20),
            ("tenant_gpu_memory_mib".into(), self.tenant_gpu_memory_mib, 1, 1 << 20),
            ("worker_memory_mib".into(), self.worker_memory_mib, 256, 1 << 20),
            ("drain_s".into(), self.drain_s, 0, 3600),
            ("lease_grace_ms".into(), self.lease_grace_ms.unwrap_or(100), 50, 60_000),
            ("prices.gpu_micro_units_per_s".into(), prices.gpu_micro_units_per_s, 0, PRICE_MAX),
            ("prices.cpu_micro_units_per_s".into(), prices.cpu_micro_units_per_s, 0, PRICE_MAX),
            ("prices.resident_micro_units_per_gib_s".into(), prices.resident_micro_units_per_gib_s, 0, PRICE_MAX),
            ("edge.anonymous_per_s".into(), self.edge.anonymous_per_s, 1, 1_000_000),
            ("edge.wrong_keys_per_s".into(), self.edge.wrong_keys_per_s, 1, 1_000_000),
            ("edge.connections_per_address".into(), self.edge.connections_per_address, 1, 1_000_000),
            ("egress.connect_timeout_ms".into(), egress.connect_timeout_ms, 1, 60_000),
            ("egress.first_byte_timeout_ms".into(), egress.first_byte_timeout_ms, 1, 600_000),
            ("egress.response_mib".into(), egress.response_mib, 1, 1 << 20),
            ("egress.concurrency".into(), egress.concurrency, 1, 10_000),
            ("retention.ledger_days".into(), kept.ledger_days, 32, 36_500),
            ("retention.audit_days".into(), kept.audit_days, 1, 36_500),
            ("retention.versions".into(), kept.versions, 1, 10_000),
        ];
        for (at, gpu) in self.gpus.iter().enumerate() {
            all.extend([
                (format!("gpus[{at}].spares"), gpu.spares.unwrap_or(0) as u64, 0, 64),
                (format!("gpus[{at}].workers_max"), gpu.workers_max.unwrap_or(1) as u64, 1, 1024),
                (format!("gpus[{at}].memory_mib"), gpu.memory_mib.unwrap_or(1), 1, 1 << 24),
                (format!("gpus[{at}].micro_units_per_s"), gpu.micro_units_per_s.unwrap_or(0), 0, PRICE_MAX),
            ]);
        }
        let range = |(name, value, least, most)| ConfigError::Range { name, value, least, most };
        all.into_iter().filter(|(_, value, least, most)| !(least..=most).contains(&value)).map(range).collect()
    }

    /// The keys in which `next` differs from this file and that only a restart brings into force.
    pub fn restart_needed(&self, next: &Self) -> Vec<&'static str> {
        let without_prices = |file: &Self| {
            let mut gpus = file.gpus.clone();
            gpus.iter_mut().for_each(|gpu| gpu.micro_units_per_s = None);
            gpus
        };
        let changed = [
            ("listen", self.listen != next.listen),
            ("admin_listen", self.admin_listen != next.admin_listen),
            ("tls", self.tls != next.tls),
            ("drain_s", self.drain_s != next.drain_s),
            ("retention.ledger_days", self.retention.ledger_days != next.retention.ledger_days),
            ("spares", self.spares != next.spares),
            ("workers_max", self.workers_max != next.workers_max),
            ("requests_max", self.requests_max != next.requests_max),
            ("tenant_gpu_memory_mib", self.tenant_gpu_memory_mib != next.tenant_gpu_memory_mib),
            ("worker_memory_mib", self.worker_memory_mib != next.worker_memory_mib),
            ("map_assets", self.map_assets != next.map_assets),
            ("wasi_http_0_3", self.wasi_http_0_3 != next.wasi_http_0_3),
            ("lease_grace_ms", self.lease_grace_ms != next.lease_grace_ms),
            ("secrets_key_file", self.secrets_key_file != next.secrets_key_file),
            ("gpus", without_prices(self) != without_prices(next)),
            ("egress.ca_file", self.egress.ca_file != next.egress.ca_file),
            ("logs.access", self.logs.access != next.logs.access),
        ];
        changed.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::read::parse;

    #[test]
    fn all_errors_are_told_at_once() {
        let text = "spares = 99\nlisten = 7\nlistn = \"x\"\ndomain = \"Fn.Example\"\npublic_url = \"ftp://x\"\n\
            [limits]\nfunction = 3\nkeys = 0\n[prices]\ncurrency = \"usd\"\n[[gpus]]\nindex = 0\nclass = \"any\"\n\
            [egress]\nallow_ranges = [\"10.0.0.0/99\"]\n";
        let told = parse(text).unwrap_err();
        let told: Vec<String> = told.each().iter().map(ToString::to_string).collect();
        for part in [
            "spares = 99; it may be 0 to 64",
            "listen: ",
            "listn: unknown field `listn`; the nearest known one is `listen`",
            "domain: ",
            "public_url: ",
            "limits.function: unknown field `function`; the nearest known one is `functions`",
            "limits.keys = 0; it may be 1 to 10000",
            "prices.currency: ",
            "gpus[0].class: ",
            "egress.allow_ranges[0]: ",
        ] {
            assert!(told.iter().any(|line| line.starts_with(part)), "{part}: {told:#?}");
        }
        assert_eq!(told.len(), 10, "{told:#?}");
    }

    #[test]
    fn a_reload_names_what_needs_a_restart() {
        let (old, new) = (parse("spares = 1").unwrap(), parse("spares = 2\n[limits]\nkeys = 5").unwrap());
        assert_eq!(old.restart_needed(&new), ["spares"]);
        assert_eq!(new.tenant_limits().keys, 5);
        assert!(old.restart_needed(&parse("[prices]\ncpu_micro_units_per_s = 1").unwrap()).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
