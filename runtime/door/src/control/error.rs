//! Errors of control operations, and the refusals that they become.

use gannet_base::hop::build::Rejected;
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::build::BuildError;
use gannet_state::registry::RegistryError;
use gannet_state::store::StoreError;

/// Why a control operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// An argument, a header or the body is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The operator did not say for which tenant it acts.
    #[error("this operation needs a tenant")]
    TenantNeeded,
    /// The resource does not exist, or belongs to another tenant.
    #[error("there is no resource of that name")]
    NotFound,
    /// The request conflicts with the current state or with another request.
    #[error("{0}")]
    Conflict(String),
    /// The body has a media type that the operation does not read.
    #[error("the body is {0}")]
    UnsupportedMediaType(String),
    /// The body is not JSON.
    #[error("the body is {0}, not application/json")]
    NotJson(String),
    /// The body is over its limit.
    #[error("the {what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The thing that is too large, as the error names it.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// A setting is above the tenant's limit.
    #[error("{name} = {value}; this tenant may have up to {limit}")]
    AboveLimit {
        /// The setting.
        name: &'static str,
        /// The value in the manifest.
        value: u64,
        /// The tenant's limit.
        limit: u64,
    },
    /// A limit of the tenant is used up.
    #[error("{name} = {limit}; in use: {used}")]
    LimitReached {
        /// The limit's name.
        name: &'static str,
        /// Its value.
        limit: u64,
        /// How much of it is used.
        used: u64,
    },
    /// No GPU here is of a class that the manifest names.
    #[error("{0}")]
    Unservable(String),
    /// The builder refused the upload.
    #[error(transparent)]
    Build(Rejected),
    /// Too many uploads are being received or built.
    #[error("{0}")]
    Busy(String),
    /// The disk is full.
    #[error("the server's disk is full")]
    StorageFull,
    /// The server failed.
    #[error("{0}")]
    Internal(String),
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::StorageFull,
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<RegistryError> for ControlError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::NotFound => Self::NotFound,
            RegistryError::Conflict(why) => Self::Conflict(why),
            RegistryError::Invalid(why) => Self::Invalid(why),
            RegistryError::LimitReached { name, limit, used } => Self::LimitReached { name, limit, used },
            RegistryError::Store(error) => error.into(),
        }
    }
}

impl From<BuildError> for ControlError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Rejected(rejected) => Self::Build(rejected),
            busy @ (BuildError::Busy | BuildError::TenantBusy { .. } | BuildError::NoGpu) => {
                Self::Busy(busy.to_string())
            }
            BuildError::BudgetUsedUp { limit_ms, used_ms } => {
                Self::LimitReached { name: "build_cpu_ms_per_day", limit: limit_ms, used: used_ms }
            }
            BuildError::DiskFull => Self::StorageFull,
            BuildError::Failed(detail) => Self::Internal(detail),
        }
    }
}

impl From<std::io::Error> for ControlError {
    fn from(error: std::io::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        use Blame as B;
        use ControlError as E;
        use RefusalKind as K;
        let (kind, code, blame) = match &error {
            E::Invalid(_) => (K::Malformed, "invalid", B::Caller),
            E::TenantNeeded => (K::Malformed, "tenant_needed", B::Caller),
            E::NotFound => (K::NotFound, "not_found", B::Caller),
            E::AboveLimit { .. } => (K::Unprocessable, "limit_above_tenants", B::Caller),
            E::LimitReached { .. } => (K::TooManyRequests, "tenant_limit", B::Caller),
            E::Conflict(_) => (K::Conflict, "conflict", B::Caller),
            E::UnsupportedMediaType(_) | E::NotJson(_) => {
                (K::UnsupportedMediaType, "unsupported_media_type", B::Caller)
            }
            E::TooLarge { .. } => (K::BodyTooLarge, "body_too_large", B::Caller),
            E::Build(rejected) => (K::Unprocessable, rejected.code.as_str(), B::Caller),
            E::Unservable(_) => (K::Unprocessable, "gpu_class_unavailable", B::Caller),
            E::Busy(_) => (K::Unavailable, "no_capacity", B::Platform),
            E::StorageFull => (K::StorageFull, "storage_full", B::Platform),
            E::Internal(_) => (K::Internal, "internal", B::Platform),
        };
        let refusal = match &error {
            E::Internal(cause) => Self::server_failed(cause),
            _ => Self::new(kind, code, blame, &error),
        };
        let limits = "`gannet limits` shows the tenant's limits; the operator sets them";
        match error {
            E::TenantNeeded => {
                refusal.hint("the operator key acts for a tenant with --tenant or the header x-gannet-tenant")
            }
            E::AboveLimit { .. } => refusal.hint(limits).permanent(),
            E::LimitReached { .. } => refusal.retry_after(60).hint(limits).permanent(),
            E::UnsupportedMediaType(_) => refusal.hint(
                "send the component as application/wasm, or multipart/form-data with the parts manifest and component",
            ),
            E::NotJson(_) => refusal.hint("send application/json"),
            E::Build(rejected) => Self { hint: rejected.code.hint(), ..refusal.permanent() },
            E::Unservable(_) => refusal.hint("name a class that `gannet gpu list` shows, or \"any\"").permanent(),
            E::Busy(_) => refusal.retry_after(2),
            _ => refusal,
        }
    }
}
