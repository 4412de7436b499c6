//! Webhooks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The secret that a tenant's webhooks are signed with, as Standard Webhooks says.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookSecret {
    /// The secret: `whsec_` and its bytes in base64.
    pub secret: String,
    /// When it was made (RFC 3339).
    #[schema(format = "date-time")]
    pub created: String,
    /// Until when the one before signs too (RFC 3339). Null if there is none.
    #[schema(format = "date-time")]
    pub previous_until: Option<String>,
}
