//! Webhooks: the task that delivers (`deliver`), what clients ask about deliveries (`calls`), and the secrets that
//! messages are signed with (`secret`). [`crate::delivery`] has the decisions.

mod calls;
pub(super) mod deliver;
pub(super) mod load;
mod secret;

pub use calls::{DeliveryError, DeliveryStatus, DeliveryView};
pub use secret::WebhookSecret;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
