//! The body of `run` and `runsync`.

use super::error::JobApiError;
use gannet_base::limits::TenantLimits;
use gannet_base::names::{FunctionName, TenantName};
use gannet_fleet::egress::is_postable;
use gannet_jobs::job::Policy;
use gannet_jobs::service::{JobLimits, Submission};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The largest body of `run`, in bytes.
pub(super) const BODY_BYTES_MAX: u64 = 10 << 20;
/// The largest body of `runsync`, in bytes.
pub(super) const SYNC_BODY_BYTES_MAX: u64 = 20 << 20;
/// The longest address of a webhook, in bytes.
const WEBHOOK_BYTES_MAX: usize = 2_048;
/// The longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;
const WEEK_MS: u64 = 7 * 24 * 3_600_000;

/// The body as clients send it. Other keys, such as `s3Config`, are ignored, as by Runpod.
#[derive(Debug, Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    webhook: Option<String>,
    #[serde(default)]
    policy: SentPolicy,
}

/// The key `policy` as clients send it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SentPolicy {
    execution_timeout: Option<u64>,
    ttl: Option<u64>,
    delay: Option<u64>,
    low_priority: Option<bool>,
}

impl SentPolicy {
    /// Whether it says when the first attempt may begin.
    pub(super) fn has_delay(&self) -> bool {
        self.delay.is_some()
    }

    /// Checks what a client asks for.
    pub(super) fn check(self, limits: &TenantLimits) -> Result<Policy, JobApiError> {
        let Self { execution_timeout, ttl, delay, low_priority } = self;
        let timeout_max = limits.job_timeout_s.saturating_mul(1000).min(WEEK_MS);
        within("policy.executionTimeout", execution_timeout, 5_000, timeout_max)?;
        within("policy.ttl", ttl, 10_000, WEEK_MS)?;
        within("policy.delay", delay, 0, ttl.unwrap_or(WEEK_MS))?;
        let low_priority = low_priority.unwrap_or_default();
        Ok(Policy { execution_timeout_ms: execution_timeout, ttl_ms: ttl, delay_ms: delay, low_priority })
    }
}

fn within(name: &str, value: Option<u64>, least: u64, most: u64) -> Result<(), JobApiError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(JobApiError::Invalid(format!("{name} = {value}; it may be {least} to {most}")))
        }
        _ => Ok(()),
    }
}

/// Reads the header `Idempotency-Key`.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, JobApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(text) if (1..=KEY_BYTES_MAX).contains(&text.len()) => Ok(Some(text.to_owned())),
        _ => Err(JobApiError::Invalid(format!(
            "Idempotency-Key has {} bytes; it may have 1 to {KEY_BYTES_MAX} printable ones",
            value.len()
        ))),
    }
}

/// Reads a body.
pub(super) fn read(
    body: &[u8],
    (tenant, function): (TenantName, FunctionName),
    limits: &TenantLimits,
    sync: bool,
    idempotency_key: Option<String>,
) -> Result<Submission, JobApiError> {
    let body: Body<'_> = serde_json::from_slice(body)
        .map_err(|error| JobApiError::Invalid(format!("the body is no JSON object of a job: {error}")))?;
    let input = body.input.ok_or_else(|| JobApiError::Invalid("the body has no `input`".into()))?;
    let policy = body.policy.check(limits)?;
    body.webhook.as_deref().map_or(Ok(()), check_webhook)?;
    Ok(Submission {
        tenant,
        function,
        input: input.get().as_bytes().to_vec(),
        policy,
        sync,
        webhook: body.webhook,
        idempotency_key,
        limits: job_limits(limits),
    })
}

/// Returns what a tenant's jobs may take.
pub(super) fn job_limits(limits: &TenantLimits) -> JobLimits {
    JobLimits { queued: limits.jobs_queued, bytes: limits.jobs_mib << 20 }
}

/// Checks the address of a webhook. Whether it is a public one is only known when it is reached.
pub(super) fn check_webhook(address: &str) -> Result<(), JobApiError> {
    let length = address.len();
    if length > WEBHOOK_BYTES_MAX {
        return Err(JobApiError::Invalid(format!("webhook has {length} bytes; the limit is {WEBHOOK_BYTES_MAX}")));
    }
    if is_postable(address) {
        return Ok(());
    }
    let address: String = address.chars().take(200).collect();
    Err(JobApiError::Invalid(format!(
        "webhook = {address:?}; it must be an absolute http or https URL with a host, without credentials and without a fragment"
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Submission, String> {
        let names = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        read(text.as_bytes(), names, &TenantLimits::default(), false, None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_body_is_read_and_its_policy_checked_at_the_limits() {
        let read = read_text(r#"{"input": {"a" : 1}, "s3Config": {}, "policy": {"executionTimeout": 5000, "ttl": 604800000, "delay": 604800000, "lowPriority": true}}"#).unwrap();
        assert_eq!(read.input, br#"{"a" : 1}"#, "byte for byte");
        let policy = Policy {
            execution_timeout_ms: Some(5_000),
            ttl_ms: Some(604_800_000),
            delay_ms: Some(604_800_000),
            low_priority: true,
        };
        assert_eq!(read.policy, policy);
        for (body, problem) in [
            ("", "EOF"),
            ("[]", "the body is no JSON object"),
            ("{}", "no `input`"),
            (r#"{"input": 1, "policy": {"ttl": 9999}}"#, "policy.ttl = 9999; it may be 10000 to 604800000"),
            (r#"{"input": 1, "policy": {"executionTimeout": 4999}}"#, "executionTimeout = 4999"),
            (r#"{"input": 1, "policy": {"executionTimeout": 86400001}}"#, "it may be 5000 to 86400000"),
            (r#"{"input": 1, "policy": {"ttl": -1}}"#, "invalid value"),
            (r#"{"input": 1, "policy": {"ttl": 10000, "delay": 10001}}"#, "policy.delay = 10001; it may be 0 to 10000"),
            (r#"{"input": 1, "policy": {"delay": 604800001}}"#, "policy.delay = 604800001"),
        ] {
            let error = read_text(body).unwrap_err();
            assert!(error.contains(problem), "{body}: {error}");
        }
        let webhook = |address: &str| read_text(&serde_json::json!({ "input": 1, "webhook": address }).to_string());
        assert_eq!(webhook("https://example.org/a?b").unwrap().webhook.as_deref(), Some("https://example.org/a?b"));
        for bad in ["", "example.org", "ftp://example.org/", "https://me:key@example.org/", "https://example.org/#a"] {
            assert!(webhook(bad).unwrap_err().contains("absolute http or https URL"), "{bad}");
        }
        let long = |bytes: usize| webhook(&format!("https://example.org/{}", "x".repeat(bytes - 20)));
        assert!(long(2_048).is_ok() && long(2_049).unwrap_err().contains("webhook has 2049 bytes"));
        assert!(read_text(r#"{"input": {}}"#).is_ok() && read_text(r#"{"input": "text"}"#).is_ok());
    }

    #[test]
    fn an_idempotency_key_has_a_length() {
        let key = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", text.parse().unwrap());
            idempotency_key(&headers).is_ok()
        };
        assert!(key("a") && key(&"x".repeat(255)) && !key(&"x".repeat(256)) && !key(""));
        assert!(idempotency_key(&HeaderMap::new()).unwrap().is_none());
    }
}
