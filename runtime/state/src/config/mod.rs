//! The server file, `gannet-server.toml`, as types. Each file is checked once; all errors are reported together.
//!
//! ```text
//!  text ─▶ [`read`]: keys and types ─▶ [`ServerConfig::check`]: ranges ─▶ serve, or `config check`
//!  SIGHUP ─▶ the same ─▶ [`ServerConfig::restart_needed`] names the keys that need a restart ─▶ [`LiveConfig`]
//! ```

mod error;
mod read;

pub use error::ConfigError;
pub use read::read;

use arc_swap::ArcSwap;
use gannet_base::limits::{self, LimitsChoice, TenantLimits};
use gannet_base::names::{ANY_CLASS, is_class};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The configuration in force. A reload replaces it as a whole.
pub type LiveConfig = Arc<ArcSwap<ServerConfig>>;

/// The server file as written. Every key has a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address to listen on.
    pub listen: Option<SocketAddr>,
    /// Separate address for the control API and the metrics. If it is not set, `listen` serves them too.
    pub admin_listen: Option<SocketAddr>,
    /// If set, functions are also served at the host `{function}--{tenant}.{domain}`.
    pub domain: Option<String>,
    /// Base URL under which clients reach this server, for the URLs in responses of the control API.
    pub public_url: Option<String>,
    /// Proxies whose `x-forwarded-for` header is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Certificate for HTTPS. If it is not set, the server speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Spare workers kept ready on each GPU.
    pub spares: usize,
    /// Maximum number of workers and spares on each GPU.
    pub workers_max: usize,
    /// Maximum number of requests in flight, of all tenants together.
    pub requests_max: usize,
    /// GPU memory that one tenant's worker may allocate.
    pub tenant_gpu_memory_mib: u64,
    /// Maximum resident memory of one worker process. A worker that takes more is killed.
    pub worker_memory_mib: u64,
    /// Free disk space that uploads and tenants' changes must leave, so that the bill and the operator have room.
    pub disk_reserve_mib: u64,
    /// CPU time that one build of an uploaded component may use.
    pub build_cpu_s: u64,
    /// How long requests in flight may keep running after SIGTERM.
    pub drain_s: u64,
    /// Whether a software driver computes on mapped pages of the assets' files. If false, assets are copied, as to a
    /// GPU: for data folders on disks that fail now and then, because a read error in a mapped page kills the worker.
    pub map_assets: bool,
    /// Accept components for `wasi:http/service` 0.3.
    pub wasi_http_0_3: bool,
    /// How long a worker may take to release the GPU after its lease is revoked, before it is killed. Default: 100 ms
    /// on a GPU, 10 s on a software driver.
    pub lease_grace_ms: Option<u64>,
    /// The file with the key that encrypts secrets. Default: `secrets.key` in the data folder.
    pub secrets_key_file: Option<PathBuf>,
    /// The GPUs to serve on, in order of preference. If empty: all real GPUs, or one software driver if there is none.
    pub gpus: Vec<GpuConfig>,
    /// Limits of tenants that have none of their own.
    pub limits: LimitsChoice,
    /// Prices of GPU time, CPU time and GPU memory.
    pub prices: PricesConfig,
    /// Limits for each client address, before a tenant is known.
    pub edge: EdgeConfig,
    /// Outbound HTTP of functions.
    pub egress: EgressConfig,
    /// Webhooks of jobs.
    pub webhooks: WebhooksConfig,
    /// How long records and versions are kept.
    pub retention: RetentionConfig,
    /// The access log.
    pub logs: LogsConfig,
}

/// One GPU to serve on, as written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuConfig {
    /// Index of the GPU, as `gannet doctor` lists it.
    pub index: u32,
    /// GPU class, as manifests name it. Default: the class that `gannet doctor` lists.
    pub class: Option<String>,
    /// Spare workers kept ready on this GPU. Default: the server's `spares`.
    pub spares: Option<usize>,
    /// Maximum number of workers and spares on this GPU. Default: the server's `workers_max`.
    pub workers_max: Option<usize>,
    /// Overrides the memory size that the driver reports.
    pub memory_mib: Option<u64>,
    /// Price of a second of GPU time. Default: `prices.gpu_micro_units_per_s`.
    pub micro_units_per_s: Option<u64>,
}

/// A certificate and its private key, in PEM. They are read again when the files change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The file with the certificate chain.
    pub cert: PathBuf,
    /// The file with the private key.
    pub key: PathBuf,
}

/// Prices in micro-units (millionths) of the currency.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PricesConfig {
    /// Currency code of ISO 4217.
    pub currency: String,
    /// Price of a second of GPU time, on GPUs without a price of their own.
    pub gpu_micro_units_per_s: u64,
    /// Price of a second of a guest's CPU time.
    pub cpu_micro_units_per_s: u64,
    /// Price of keeping one GiB of GPU memory for a second (`scale.min`).
    pub resident_micro_units_per_gib_s: u64,
}

impl Default for PricesConfig {
    fn default() -> Self {
        // The prices of an 80 GB card at about 2.50 an hour. Memory that is kept costs its share of the card.
        Self {
            currency: "USD".into(),
            gpu_micro_units_per_s: 700,
            cpu_micro_units_per_s: 20,
            resident_micro_units_per_gib_s: 9,
        }
    }
}

/// Limits for each client address, before a tenant is known.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeConfig {
    /// Requests without a key, from one address.
    pub anonymous_per_s: u64,
    /// Requests with a wrong key, from one address.
    pub wrong_keys_per_s: u64,
    /// Open connections from one address. Trusted proxies are exempt.
    pub connections_per_address: u64,
    /// Bytes of responses that may wait in memory for the clients of one address, in MiB. A connection has a quarter.
    pub waiting_mib_per_address: u64,
    /// Bytes of responses that may wait in memory for all clients, in MiB. A tenant has half, and addresses for which
    /// little waits have as much again.
    pub waiting_mib: u64,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            anonymous_per_s: 1_000,
            wrong_keys_per_s: 10,
            connections_per_address: 1_024,
            waiting_mib_per_address: 64,
            waiting_mib: 256,
        }
    }
}

/// Outbound HTTP of functions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EgressConfig {
    /// Private, loopback and link-local address ranges that functions may reach.
    pub allow_ranges: Vec<IpNet>,
    /// File with certificates, in PEM, that are trusted in addition to the usual ones.
    pub ca_file: Option<PathBuf>,
    /// Timeout for opening a connection, TLS included.
    pub connect_timeout_ms: u64,
    /// Timeout for the head of the response.
    pub first_byte_timeout_ms: u64,
    /// Maximum size of a response body.
    pub response_mib: u64,
    /// Concurrent outbound calls of one tenant.
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

/// Webhooks of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksConfig {
    /// Longest delay before the second try to deliver. Those before later tries are fixed.
    pub first_retry_ms: u64,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self { first_retry_ms: 5_000 }
    }
}

/// How long records and versions are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// How long segments of the ledger are kept.
    pub ledger_days: u64,
    /// How long entries of the audit log are kept.
    pub audit_days: u64,
    /// Newest versions of a function to keep. Older ones with traffic or a tag, and the previous current one, are kept
    /// too.
    pub versions: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { ledger_days: 400, audit_days: 400, versions: 50 }
    }
}

/// The access log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// A file, or `stderr`. Each request is logged there as one line of JSON.
    pub access: Option<PathBuf>,
}

/// Maximum number of GPUs in one server file.
const GPUS_MAX: usize = 64;
/// Default of `lease_grace_ms`, for real GPUs.
const LEASE_GRACE_MS: u64 = 100;

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
            disk_reserve_mib: 256,
            build_cpu_s: 180,
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
            webhooks: WebhooksConfig::default(),
            retention: RetentionConfig::default(),
            logs: LogsConfig::default(),
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
    /// Returns the limits of a tenant that has none of its own.
    pub fn tenant_limits(&self) -> TenantLimits {
        self.limits.over(&TenantLimits::default())
    }

    /// Returns an error for each value that is invalid.
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
            errors.push(wrong("public_url", "it is not a URL without a path, as in https://gpu.example.org"));
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
        if let Some(too_high) = limits::check_grace(&self.limits, self.grace_ms()) {
            let what = format!(
                "{too_high} with lease_grace_ms = {}: a worker must release the gpu within that time",
                self.grace_ms()
            );
            errors.push(wrong("limits.loop_mi_ops", what));
        }
        errors.extend(self.out_of_range());
        errors
    }

    /// The grace of real GPUs, in milliseconds.
    pub fn grace_ms(&self) -> u64 {
        self.lease_grace_ms.unwrap_or(LEASE_GRACE_MS)
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
            ("disk_reserve_mib".into(), self.disk_reserve_mib, 0, 1 << 30),
            ("build_cpu_s".into(), self.build_cpu_s, 1, 3600),
            ("drain_s".into(), self.drain_s, 0, 3600),
            ("lease_grace_ms".into(), self.grace_ms(), 50, 60_000),
            ("prices.gpu_micro_units_per_s".into(), prices.gpu_micro_units_per_s, 0, PRICE_MAX),
            ("prices.cpu_micro_units_per_s".into(), prices.cpu_micro_units_per_s, 0, PRICE_MAX),
            ("prices.resident_micro_units_per_gib_s".into(), prices.resident_micro_units_per_gib_s, 0, PRICE_MAX),
            ("edge.anonymous_per_s".into(), self.edge.anonymous_per_s, 1, 1_000_000),
            ("edge.wrong_keys_per_s".into(), self.edge.wrong_keys_per_s, 1, 1_000_000),
            ("edge.connections_per_address".into(), self.edge.connections_per_address, 1, 1_000_000),
            ("edge.waiting_mib_per_address".into(), self.edge.waiting_mib_per_address, 1, 1 << 20),
            ("edge.waiting_mib".into(), self.edge.waiting_mib, 4, 1 << 20),
            ("egress.connect_timeout_ms".into(), egress.connect_timeout_ms, 1, 60_000),
            ("egress.first_byte_timeout_ms".into(), egress.first_byte_timeout_ms, 1, 600_000),
            ("egress.response_mib".into(), egress.response_mib, 1, 1 << 20),
            ("egress.concurrency".into(), egress.concurrency, 1, 10_000),
            ("webhooks.first_retry_ms".into(), self.webhooks.first_retry_ms, 10, 3_600_000),
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

    /// Returns the keys that differ in `next` and take effect only after a restart.
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
            ("webhooks.first_retry_ms", self.webhooks != next.webhooks),
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
            "listn: unknown key `listn`; the nearest known one is `listen`",
            "domain: ",
            "public_url: ",
            "limits.function: unknown key `function`; the nearest known one is `functions`",
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
