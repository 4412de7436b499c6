//! The queues of a tenant's jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether all queues of a tenant are paused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct QueuesPaused {
    /// Whether no attempt of any function begins. A queue that was paused by itself stays paused when this is false.
    pub paused: bool,
}
