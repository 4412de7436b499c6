//! `gannet.toml`: raw as written, checked once into what everything else uses.
//!
//! The raw form denies unknown keys and holds the defaults; names end in their unit. An unknown key
//! is answered with the nearest known one.

use crate::allowed_hosts::AllowedHost;
use crate::names::{ANY_CLASS, AssetName, FunctionName, is_class};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Instances that live at once in one worker.
pub const INSTANCES_MAX: u32 = 128;
/// The most linear memory that an instance can have, whatever its manifest says.
pub const MEMORY_BYTES_MAX: usize = 1 << 30;

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gannet.toml: {0}")]
pub struct ManifestError(String);

/// How the component is built: command and artifact for the CLI, the snapshot for the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Build {
    /// A shell command.
    pub command: String,
    /// The component it makes, from the manifest's folder.
    pub artifact: String,
    /// Whether the server runs the component's `init` export once, at deploy, and instances begin with the memory it leaves.
    pub snapshot: bool,
}

/// What requests may use. Each limit has a default and a maximum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = FunctionLimits)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionLimits {
    /// To the first byte: queue, CPU, GPU, I/O.
    #[schema(minimum = 1, maximum = 600000)]
    pub timeout_ms: u64,
    /// A streamed body as a whole.
    #[schema(minimum = 1, maximum = 86400000)]
    pub stream_timeout_ms: u64,
    /// From one part of a streamed body to the next.
    #[schema(minimum = 1, maximum = 3600000)]
    pub stream_idle_ms: u64,
    /// Waiting for a place among the function's concurrent requests.
    #[schema(minimum = 0, maximum = 600000)]
    pub queue_ms: u64,
    /// CPU time of the guest.
    #[schema(minimum = 1, maximum = 600000)]
    pub cpu_ms: u64,
    /// Linear memory of the guest.
    #[schema(minimum = 1, maximum = 1024)]
    pub memory_mib: u64,
    /// GPU memory of a request.
    #[schema(minimum = 1, maximum = 65536)]
    pub gpu_memory_mib: u64,
    /// GPU time of a request.
    #[schema(minimum = 1, maximum = 600000)]
    pub gpu_time_ms: u64,
    /// Requests that run at once.
    #[schema(minimum = 1, maximum = 512)]
    pub concurrency: u64,
    /// A request's body.
    #[schema(minimum = 0, maximum = 1024)]
    pub body_mib: u64,
    /// Log text of a request.
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
            concurrency: 16,
            body_mib: 10,
            log_kib: 256,
        }
    }
}

/// How a function scales.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scale {
    /// 1 keeps a worker up with the function loaded; its GPU memory is then charged.
    #[schema(minimum = 0, maximum = 1)]
    pub min: u64,
    /// Workers that may serve the function at once, one on each GPU.
    #[schema(minimum = 1, maximum = 1024)]
    pub max: u64,
    /// How long an idle worker stays.
    #[schema(minimum = 1, maximum = 86400)]
    pub idle_timeout_s: u64,
    /// Requests that one instance serves, one after the other; 1 gives each a fresh sandbox.
    #[schema(minimum = 1, maximum = 1000000)]
    pub instance_reuse: u64,
}

impl Default for Scale {
    fn default() -> Self {
        Self { min: 0, max: 4, idle_timeout_s: 60, instance_reuse: 1 }
    }
}

/// Where a function runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GpuChoice {
    /// Classes of GPU, in order of preference; `any` is every one.
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
    /// Whether anyone may call the function, without a key.
    pub public: bool,
    /// Origins whose pages may call it from a browser; `*` is every one.
    pub cors_origins: Vec<String>,
    /// Whether it speaks OpenAI's API: it is listed as a model, and called by its name.
    pub openai: bool,
    /// Where it may send requests to: `https://api.example.com`, `http://host:8080`, `https://*.example.com`.
    pub allowed_outbound_hosts: Vec<String>,
}

/// Secrets that a function gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SecretNames)]
#[serde(deny_unknown_fields, default)]
pub struct SecretNames {
    /// Their names; each is an environment variable and a key of `wasi:config`.
    pub names: Vec<String>,
}

/// A checked manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// The function's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<FunctionName>,
    /// How it is built.
    pub build: Build,
    /// WGSL files by kernel name, for languages without the `kernel!` macro.
    pub kernels: BTreeMap<String, String>,
    /// Limits.
    pub limits: FunctionLimits,
    /// Scaling.
    pub scale: Scale,
    /// Where it runs.
    pub gpu: GpuChoice,
    /// HTTP.
    pub http: Http,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Secrets.
    pub secrets: SecretNames,
    /// Assets, by the names under which the function knows them.
    #[schema(value_type = BTreeMap<String, String>)]
    pub assets: BTreeMap<String, AssetName>,
}

/// Kernel names and environment names: short, printable, no separators.
const NAME_BYTES_MAX: usize = 64;
/// Classes of GPU in one manifest.
const CLASSES_MAX: usize = 16;
/// Origins, and hosts, in one manifest.
const HOSTS_MAX: usize = 64;
/// Secrets of one function.
const SECRETS_MAX: usize = 64;
/// Assets of one function: their descriptors travel in one frame.
pub const ASSETS_MAX: usize = 16;
/// Environment of one function.
const ENV_BYTES_MAX: usize = 32 * 1024;

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text).map_err(|error| ManifestError(explain(&error)))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// This manifest with some of its settings changed, as a JSON merge patch (RFC 7396) does.
    pub fn patched(&self, patch: &serde_json::Map<String, serde_json::Value>) -> Result<Self, ManifestError> {
        const SETTINGS: [&str; 7] = ["limits", "scale", "gpu", "http", "env", "secrets", "assets"];
        if let Some(other) = patch.keys().find(|key| !SETTINGS.contains(&key.as_str())) {
            let other: String = other.chars().take(64).collect();
            return Err(ManifestError(format!("{other:?} is none of the settings {}", SETTINGS.join(", "))));
        }
        if let Some((section, _)) = patch.iter().find(|(_, value)| !value.is_object() && !value.is_null()) {
            return Err(ManifestError(format!("{section}: it is neither an object nor null")));
        }
        let mut value = serde_json::to_value(self).map_err(|error| ManifestError(error.to_string()))?;
        merge(&mut value, &serde_json::Value::Object(patch.clone()), 0)?;
        let next: Self = serde_json::from_value(value).map_err(|error| ManifestError(error.to_string()))?;
        next.check()?;
        Ok(next)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let l = &self.limits;
        // Name, value, least, most.
        let bounds = [
            ("limits.timeout_ms", l.timeout_ms, 1, 600_000),
            ("limits.stream_timeout_ms", l.stream_timeout_ms, 1, 24 * 3_600_000),
            ("limits.stream_idle_ms", l.stream_idle_ms, 1, 3_600_000),
            ("limits.queue_ms", l.queue_ms, 0, 600_000),
            ("limits.cpu_ms", l.cpu_ms, 1, 600_000),
            ("limits.memory_mib", l.memory_mib, 1, (MEMORY_BYTES_MAX >> 20) as u64),
            ("limits.gpu_memory_mib", l.gpu_memory_mib, 1, 64 * 1024),
            ("limits.gpu_time_ms", l.gpu_time_ms, 1, 600_000),
            ("limits.concurrency", l.concurrency, 1, u64::from(INSTANCES_MAX)),
            ("limits.body_mib", l.body_mib, 0, 1024),
            ("limits.log_kib", l.log_kib, 0, 16 * 1024),
            ("scale.min", self.scale.min, 0, 1),
            ("scale.max", self.scale.max, 1, 1024),
            ("scale.idle_timeout_s", self.scale.idle_timeout_s, 1, 24 * 3600),
            ("scale.instance_reuse", self.scale.instance_reuse, 1, 1_000_000),
        ];
        for (name, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(ManifestError(format!("{name} = {value}; it may be {least} to {most}")));
            }
        }
        let classes = &self.gpu.class;
        if classes.is_empty() || classes.len() > CLASSES_MAX || !classes.iter().all(|class| is_class(class)) {
            return Err(ManifestError(format!(
                "gpu.class = {classes:?}; it is a list of 1 to {CLASSES_MAX} classes, each 1 to 64 of a-z, 0-9 and dashes"
            )));
        }
        self.check_http()?;
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
                    "the name {name:?}; names have 1 to {NAME_BYTES_MAX} printable characters, not = or /"
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
                let rule = "an origin is like https://app.example.com, or \"*\"";
                return Err(ManifestError(format!("http.cors_origins holds {origin:?}; {rule}")));
            }
        }
        Ok(())
    }
}

/// Whether a text can be the name of a secret.
pub fn is_secret_name(name: &str) -> bool {
    let part = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(part)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// What [`is_secret_name`] wants.
pub const SECRET_NAME_RULE: &str = "a name of a secret is 1 to 64 letters, digits and _, no digit first";

/// JSON merge patch, RFC 7396.
fn merge(target: &mut serde_json::Value, patch: &serde_json::Value, depth: u32) -> Result<(), ManifestError> {
    use serde_json::Value;
    if depth > 8 {
        return Err(ManifestError("the patch is nested too deeply".into()));
    }
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else { return Ok(()) };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value, depth + 1)?;
        }
    }
    Ok(())
}

/// Adds the nearest known key to an error about an unknown one.
fn explain(error: &toml::de::Error) -> String {
    let message = error.message();
    let at = error.span().map(|span| format!("byte {}: ", span.start)).unwrap_or_default();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return format!("{at}{message}");
    }
    let unknown = quoted.next().unwrap_or_default();
    let nearest = quoted.map(|known| (strsim::jaro_winkler(unknown, known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, known)) => format!("{at}unknown key `{unknown}`; the nearest known one is `{known}`"),
        None => format!("{at}unknown key `{unknown}`"),
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
            ("[gpu]\nclass = []", "gpu.class = []"),
            ("[gpu]\nclass = [\"H100!\"]", "gpu.class = [\"H100!\"]"),
            ("x = ", "gannet.toml"),
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
        for (bad, part) in [
            (r#"{"kernels": {}}"#, "none of the settings"),
            (r#"{"limits": {"cpu": 1}}"#, "unknown field `cpu`"),
            (r#"{"limits": {"cpu_ms": -1}}"#, "invalid value"),
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
