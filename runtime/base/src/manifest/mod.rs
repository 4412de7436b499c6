//! The manifest of a function, `gannet.toml`: its settings, their defaults and their ranges.
//!
//! A [`Manifest`] from [`Manifest::parse`] or [`Manifest::patched`] has been checked. Unknown keys are errors that name
//! the nearest known key. Names of settings end in their unit.

mod jobs;
mod scale;
pub mod schedule;

use crate::allowed_hosts::AllowedHost;
use crate::names::{ANY_CLASS, AssetName, FunctionName, is_class};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use jobs::{JobSettings, RETRY_CONDITIONS};
pub use scale::{Scale, ScaleRule};
pub use schedule::{Missed, Overlap, Schedule};

/// Largest number of instances in one worker at the same time.
pub const INSTANCES_MAX: u32 = 128;
/// Largest linear memory of an instance, in bytes. No manifest can raise it.
pub const MEMORY_BYTES_MAX: usize = 1 << 30;

/// Why a manifest is invalid. The caller adds the file's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(String);

/// How the component is built. The CLI uses the command and the artifact, the server the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Build {
    /// Shell command that builds the component.
    pub command: String,
    /// Path of the component that the command makes, relative to the manifest's folder.
    pub artifact: String,
    /// Whether the server runs the component's `init` export once, at deploy, so that instances start with the memory
    /// it leaves.
    pub snapshot: bool,
}

/// What the function's requests may use. Each limit has a default and a maximum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = FunctionLimits)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionLimits {
    /// Time from a request's arrival to the first byte of its response, including all waiting.
    #[schema(minimum = 1, maximum = 600000)]
    pub timeout_ms: u64,
    /// Time that a streamed response body may take as a whole, or that a guest may run on after its response.
    #[schema(minimum = 1, maximum = 86400000)]
    pub stream_timeout_ms: u64,
    /// Time from one part of a streamed response body to the next.
    #[schema(minimum = 1, maximum = 3600000)]
    pub stream_idle_ms: u64,
    /// Time that a request may wait for a permit or for room on a GPU.
    #[schema(minimum = 0, maximum = 600000)]
    pub queue_ms: u64,
    /// CPU time of the guest in a request.
    #[schema(minimum = 1, maximum = 600000)]
    pub cpu_ms: u64,
    /// Linear memory of an instance.
    #[schema(minimum = 1, maximum = 1024)]
    pub memory_mib: u64,
    /// GPU memory of a request.
    #[schema(minimum = 1, maximum = 65536)]
    pub gpu_memory_mib: u64,
    /// GPU time of a request.
    #[schema(minimum = 1, maximum = 600000)]
    pub gpu_time_ms: u64,
    /// Work of the loops of one invocation of a kernel, in 2^20 weighted operations. A software driver has a limit of its
    /// own.
    #[schema(minimum = 1, maximum = 64)]
    pub loop_mi_ops: u64,
    /// Requests of one version that run at once.
    #[schema(minimum = 1, maximum = 512)]
    pub concurrency: u64,
    /// Size of a request's body.
    #[schema(minimum = 0, maximum = 1024)]
    pub body_mib: u64,
    /// Size of the log text of a request.
    #[schema(minimum = 0, maximum = 16384)]
    pub log_kib: u64,
}

impl Default for FunctionLimits {
    fn default() -> Self {
        Self {
            timeout_ms: 30_000,
            stream_timeout_ms: 600_000,
            stream_idle_ms: 60_000,
            queue_ms: 10_000,
            cpu_ms: 10_000,
            memory_mib: 128,
            gpu_memory_mib: 256,
            gpu_time_ms: 10_000,
            loop_mi_ops: 4,
            concurrency: 16,
            body_mib: 10,
            log_kib: 256,
        }
    }
}

/// Which GPUs a function runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GpuChoice {
    /// GPU classes, in order of preference; `any` matches every GPU.
    pub class: Vec<String>,
}

impl Default for GpuChoice {
    fn default() -> Self {
        Self { class: vec![ANY_CLASS.to_owned()] }
    }
}

/// HTTP settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Whether anybody may call the function without a key.
    pub public: bool,
    /// Origins whose pages may call the function from a browser; `*` means all origins.
    pub cors_origins: Vec<String>,
    /// Whether the function implements OpenAI's API. If so, it is listed as a model, and clients call it by its name.
    pub openai: bool,
    /// Where the function may send requests to: `https://api.example.com`, `http://host:8080`, `https://*.example.com`.
    pub allowed_outbound_hosts: Vec<String>,
}

/// The secrets that a function gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SecretNames)]
#[serde(deny_unknown_fields, default)]
pub struct SecretNames {
    /// Names of secrets. Each becomes an environment variable and a key of `wasi:config`.
    pub names: Vec<String>,
}

/// A manifest. [`Manifest::parse`] and [`Manifest::patched`] return only valid ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// The function's name, if the manifest sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<FunctionName>,
    /// How the component is built.
    pub build: Build,
    /// WGSL files by kernel name, for languages without the `kernel!` macro.
    pub kernels: BTreeMap<String, String>,
    /// What its requests may use.
    pub limits: FunctionLimits,
    /// How its background jobs run.
    pub jobs: JobSettings,
    /// When it gets jobs by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub schedule: Vec<Schedule>,
    /// How the function scales.
    pub scale: Scale,
    /// Which GPUs the function runs on.
    pub gpu: GpuChoice,
    /// HTTP settings.
    pub http: Http,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Secrets that the function gets.
    pub secrets: SecretNames,
    /// Names of the tenant's assets, by the function's names for them.
    #[schema(value_type = BTreeMap<String, String>)]
    pub assets: BTreeMap<String, AssetName>,
}

/// Bytes of the name of a kernel, an environment variable, an asset or a secret.
const NAME_BYTES_MAX: usize = 64;
/// GPU classes in one manifest.
const CLASSES_MAX: usize = 16;
/// Origins in one manifest, and outbound hosts in one manifest.
const HOSTS_MAX: usize = 64;
/// Secrets of one function.
const SECRETS_MAX: usize = 64;
/// Assets of one function. Their file descriptors are sent in one frame, which bounds the number.
pub const ASSETS_MAX: usize = 16;
/// Bytes of the environment of one function, names and values together.
const ENV_BYTES_MAX: usize = 32 * 1024;

impl Manifest {
    /// Parses and checks a manifest.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let document = toml::Deserializer::parse(text).map_err(|error| ManifestError(explain("", &error, text)))?;
        let manifest: Self = serde_path_to_error::deserialize(document)
            .map_err(|error| ManifestError(explain(&error.path().to_string(), error.inner(), text)))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Returns this manifest with a JSON merge patch (RFC 7396) applied to its settings, and checks it.
    pub fn patched(&self, patch: &serde_json::Map<String, serde_json::Value>) -> Result<Self, ManifestError> {
        const SETTINGS: [&str; 8] = ["limits", "jobs", "scale", "gpu", "http", "env", "secrets", "assets"];
        if let Some(other) = patch.keys().find(|key| !SETTINGS.contains(&key.as_str())) {
            let other: String = other.chars().take(64).collect();
            return Err(ManifestError(format!("{other:?} is not one of the settings {}", SETTINGS.join(", "))));
        }
        if let Some((section, _)) = patch.iter().find(|(_, value)| !value.is_object() && !value.is_null()) {
            return Err(ManifestError(format!("{section} must be an object or null")));
        }
        let mut value = serde_json::to_value(self).map_err(|error| ManifestError(error.to_string()))?;
        json_patch::merge(&mut value, &serde_json::Value::Object(patch.clone()));
        let next: Self = serde_path_to_error::deserialize(value)
            .map_err(|error| ManifestError(format!("{}: {}", error.path(), shortened(&error.inner().to_string()))))?;
        next.check()?;
        Ok(next)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let l = &self.limits;
        // Name, value, smallest and largest allowed value.
        let bounds = [
            ("limits.timeout_ms", l.timeout_ms, 1, 600_000),
            ("limits.stream_timeout_ms", l.stream_timeout_ms, 1, 24 * 3_600_000),
            ("limits.stream_idle_ms", l.stream_idle_ms, 1, 3_600_000),
            ("limits.queue_ms", l.queue_ms, 0, 600_000),
            ("limits.cpu_ms", l.cpu_ms, 1, 600_000),
            ("limits.memory_mib", l.memory_mib, 1, (MEMORY_BYTES_MAX >> 20) as u64),
            ("limits.gpu_memory_mib", l.gpu_memory_mib, 1, 64 * 1024),
            ("limits.gpu_time_ms", l.gpu_time_ms, 1, 600_000),
            ("limits.loop_mi_ops", l.loop_mi_ops, 1, 64),
            ("limits.concurrency", l.concurrency, 1, u64::from(INSTANCES_MAX)),
            ("limits.body_mib", l.body_mib, 0, 1024),
            ("limits.log_kib", l.log_kib, 0, 16 * 1024),
        ];
        for (name, value, least, most) in bounds.into_iter().chain(self.jobs.bounds()).chain(self.scale.bounds()) {
            if !(least..=most).contains(&value) {
                return Err(ManifestError(format!("{name} = {value}; it may be {least} to {most}")));
            }
        }
        let classes = &self.gpu.class;
        if classes.is_empty() || classes.len() > CLASSES_MAX || !classes.iter().all(|class| is_class(class)) {
            return Err(ManifestError(format!(
                "gpu.class = {classes:?}; it must be a list of 1 to {CLASSES_MAX} classes, each 1 to 64 of a-z, 0-9 and dashes"
            )));
        }
        self.check_http()?;
        self.jobs.check()?;
        schedule::check(&self.schedule, jiff::Timestamp::now())?;
        if self.secrets.names.len() > SECRETS_MAX {
            let count = self.secrets.names.len();
            return Err(ManifestError(format!("secrets.names has {count} names; the limit is {SECRETS_MAX}")));
        }
        if let Some(twice) = self.secrets.names.iter().find(|name| self.env.contains_key(*name)) {
            return Err(ManifestError(format!("{twice:?} is both in [env] and in secrets.names")));
        }
        for name in &self.secrets.names {
            if !is_secret_name(name) {
                return Err(ManifestError(format!("secrets.names holds {name:?}; {SECRET_NAME_RULE}")));
            }
        }
        if self.assets.len() > ASSETS_MAX {
            let count = self.assets.len();
            return Err(ManifestError(format!("[assets] has {count} names; the limit is {ASSETS_MAX}")));
        }
        for name in self.kernels.keys().chain(self.env.keys()).chain(self.assets.keys()) {
            let fine = !name.is_empty()
                && name.len() <= NAME_BYTES_MAX
                && name.bytes().all(|b| b.is_ascii_graphic() && b != b'=' && b != b'/');
            if !fine {
                return Err(ManifestError(format!(
                    "the name {name:?} in [kernels], [env] or [assets]; names have 1 to {NAME_BYTES_MAX} printable characters, not = or /"
                )));
            }
        }
        let size: usize = self.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > ENV_BYTES_MAX {
            return Err(ManifestError(format!("[env] has {size} bytes; the limit is {ENV_BYTES_MAX}")));
        }
        Ok(())
    }
}

impl Manifest {
    fn check_http(&self) -> Result<(), ManifestError> {
        let http = &self.http;
        if http.cors_origins.len() > HOSTS_MAX || http.allowed_outbound_hosts.len() > HOSTS_MAX {
            return Err(ManifestError(format!("http lists more than {HOSTS_MAX} origins or hosts")));
        }
        for host in &http.allowed_outbound_hosts {
            AllowedHost::parse(host)
                .map_err(|why| ManifestError(format!("http.allowed_outbound_hosts holds {host:?}: {why}")))?;
        }
        for origin in &http.cors_origins {
            let fine = origin == "*"
                || origin.parse::<http::Uri>().is_ok_and(|uri| {
                    uri.scheme().is_some() && uri.authority().is_some() && uri.path() == "/" && !origin.ends_with('/')
                });
            if !fine {
                let rule = "an origin must be like https://app.example.com, or \"*\"";
                return Err(ManifestError(format!("http.cors_origins holds {origin:?}; {rule}")));
            }
        }
        Ok(())
    }
}

/// Returns whether a text is a valid name of a secret.
pub fn is_secret_name(name: &str) -> bool {
    let part = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(part)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The rule that [`is_secret_name`] checks, for error texts.
pub const SECRET_NAME_RULE: &str = "a secret's name has 1 to 64 letters, digits and _, no digit first";

/// Describes an error of the parser: the line, the key and the cause.
fn explain(key: &str, error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| {
        let line = text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1;
        format!("line {line}: ")
    });
    // The path of an error that is about no key is a dot.
    let key = if key.is_empty() || key == "." { String::new() } else { format!("{key}: ") };
    format!("{}{key}{}", line.unwrap_or_default(), shortened(error.message()))
}

/// Shortens serde's message about an unknown key: it lists all known keys, this names only the nearest.
fn shortened(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return message.trim().to_owned();
    }
    let unknown = quoted.next().unwrap_or_default();
    match crate::names::similar(unknown, quoted) {
        Some(known) => format!("unknown key `{unknown}`; the nearest known one is `{known}`"),
        None => format!("unknown key `{unknown}`"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_manifest_is_all_defaults() {
        assert_eq!(Manifest::parse("").unwrap(), Manifest::default());
        assert_eq!(Manifest::default().limits.timeout_ms, 30_000);
    }

    #[test]
    fn errors_name_the_key_the_value_and_the_limit() {
        for (text, part) in [
            ("[limits]\ntimout_ms = 1", "unknown key `timout_ms`; the nearest known one is `timeout_ms`"),
            ("[limit]\n", "unknown key `limit`; the nearest known one is `limits`"),
            ("[limits]\nmemory_mib = 999999", "limits.memory_mib = 999999; it may be 1 to 1024"),
            ("name = \"Blur\"", "may hold only a-z"),
            ("[env]\n\"A=B\" = \"x\"", "A=B"),
            ("[scale]\nmin = 5", "scale.min = 5; it may be 0 to 4"),
            ("[scale]\nmax = 1025", "scale.max = 1025; it may be 1 to 1024"),
            ("[scale]\nrule = \"cpu\"", "unknown variant `cpu`, expected `queue_delay` or `request_count`"),
            ("[scale]\nqueue_delay_s = 0", "scale.queue_delay_s = 0; it may be 1 to 3600"),
            ("[gpu]\nclass = []", "gpu.class = []"),
            ("[gpu]\nclass = [\"H100!\"]", "gpu.class = [\"H100!\"]"),
            ("x = ", "line 1: "),
        ] {
            let error = Manifest::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_patch_changes_settings_and_nothing_else() {
        let manifest = Manifest::parse("[env]\nA = \"1\"\nB = \"2\"\n[limits]\ncpu_ms = 5").unwrap();
        let patch = |text: &str| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            manifest.patched(value.as_object().unwrap())
        };
        let next = patch(r#"{"env": {"A": null, "C": "3"}, "limits": {"memory_mib": 64}}"#).unwrap();
        assert_eq!(next.env.keys().collect::<Vec<_>>(), ["B", "C"]);
        assert_eq!((next.limits.cpu_ms, next.limits.memory_mib), (5, 64));
        assert_eq!(patch(r#"{"limits": null}"#).unwrap().limits, FunctionLimits::default());
        assert_eq!(patch(r#"{"jobs": {"retry_on": [], "key": "/user"}}"#).unwrap().jobs.key, "/user");
        for (bad, part) in [
            (r#"{"kernels": {}}"#, "not one of the settings"),
            (r#"{"limits": {"cpu": 1}}"#, "limits.cpu: unknown key `cpu`"),
            (r#"{"limits": {"cpu_ms": -1}}"#, "invalid value"),
            (r#"{"jobs": {"retries": 101}}"#, "jobs.retries = 101"),
            (r#"{"secrets": {"names": ["B"]}}"#, "both in [env] and"),
            (r#"{"http": {"allowed_outbound_hosts": ["api.example.com"]}}"#, "scheme"),
        ] {
            let error = patch(bad).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            let _ = Manifest::parse(&text);
        }
    }
}
