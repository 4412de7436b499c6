//! Reads request bodies whole, and bounds the memory that they take: of OpenAI's clients, whose body names the function,
//! and of jobs, whose input is stored.
//!
//! Invariant: the bodies of one tenant take at most half of what those of the others leave, so that no number of
//! requests of one tenant keeps another out. A byte counts from when it is received (not when it is announced) until it
//! has been sent on.

use bytes::{Bytes, BytesMut};
use gannet_base::names::TenantName;
use gannet_base::refusal::Refusal;
use gannet_fleet::inbound::{BODY_IDLE_MAX, InboundRequest, RequestError, discard_refused};
use http_body_util::BodyExt;
use hyper::body::Body;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The most bytes that all bodies may take together.
const BODIES_BYTES_MAX: u64 = 256 << 20;
/// How long a client may take to send a body, however steadily it sends.
const BODY_MAX: Duration = Duration::from_secs(600);

/// Counts the bytes that the bodies of each tenant take.
#[derive(Debug, Clone, Default)]
pub struct BodyBudget(Arc<Mutex<HashMap<TenantName, u64>>>);

/// The bytes that one body counts for, until this is dropped.
#[derive(Debug)]
struct Reservation {
    bodies: BodyBudget,
    tenant: TenantName,
    bytes: u64,
}

impl BodyBudget {
    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<TenantName, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reservation(&self, tenant: TenantName) -> Reservation {
        Reservation { bodies: self.clone(), tenant, bytes: 0 }
    }
}

impl Reservation {
    fn grow(&mut self, bytes: u64) -> Result<(), RequestError> {
        let mut counts = self.bodies.counts();
        let all: u64 = counts.values().sum();
        let own = counts.get(&self.tenant).copied().unwrap_or(0);
        let limit = (BODIES_BYTES_MAX - (all - own)) / 2;
        let grown = own.saturating_add(bytes);
        if grown > limit {
            return Err(RequestError::BodiesFull { limit });
        }
        counts.insert(self.tenant.clone(), grown);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut counts = self.bodies.counts();
        if let Some(own) = counts.get_mut(&self.tenant) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

/// A body and its reservation.
struct ReservedBytes {
    bytes: Bytes,
    _room: Reservation,
}

impl AsRef<[u8]> for ReservedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads the body of a tenant's request, of at most `limit` bytes. It counts for the tenant until the returned bytes are
/// dropped. The limit is the platform's: the refusal of a larger body names no setting of a manifest.
pub(crate) async fn collect(
    inbound: &mut InboundRequest,
    tenant: TenantName,
    bodies: &BodyBudget,
    limit: u64,
) -> Result<Bytes, Refusal> {
    let mut reservation = bodies.reservation(tenant);
    let reading = tokio::time::timeout(BODY_MAX, read(inbound, &mut reservation, limit)).await;
    let seconds = BODY_MAX.as_secs();
    match reading.unwrap_or(Err(RequestError::BodyTooSlow { seconds })) {
        // The bytes own the reservation, so the body counts until it has been sent on, however long it waits for that.
        Ok(bytes) => Ok(Bytes::from_owner(ReservedBytes { bytes, _room: reservation })),
        Err(error) => {
            // Otherwise a client that is still sending would see its connection closed and not the error.
            discard_refused(&inbound.parts.headers, &mut inbound.body).await;
            Err(Refusal { hint: None, ..error.into() })
        }
    }
}

async fn read(inbound: &mut InboundRequest, reservation: &mut Reservation, limit: u64) -> Result<Bytes, RequestError> {
    if inbound.body.size_hint().lower() > limit {
        return Err(RequestError::BodyTooLarge { limit });
    }
    let mut bytes = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(BODY_IDLE_MAX, inbound.body.frame()).await;
        let frame = match frame {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(RequestError::Malformed(format!("the body broke off: {error}"))),
            Ok(None) => return Ok(bytes.freeze()),
            Err(_) => return Err(RequestError::BodyTooSlow { seconds: BODY_IDLE_MAX.as_secs() }),
        };
        let Ok(data) = frame.into_data() else { continue };
        if (bytes.len() + data.len()) as u64 > limit {
            return Err(RequestError::BodyTooLarge { limit });
        }
        reservation.grow(data.len() as u64)?;
        bytes.extend_from_slice(&data);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BODY_BYTES_MAX: u64 = 16 << 20;

    #[test]
    fn bodies_of_a_tenant_leave_room_for_those_of_others() {
        let bodies = BodyBudget::default();
        let name = |name: &str| TenantName::new(name).unwrap();
        let mut greedy: Vec<Reservation> = Vec::new();
        loop {
            let mut reservation = bodies.reservation(name("greedy"));
            if reservation.grow(BODY_BYTES_MAX).is_err() {
                break;
            }
            greedy.push(reservation);
        }
        assert_eq!(greedy.len() as u64 * BODY_BYTES_MAX, BODIES_BYTES_MAX / 2);
        let mut other = bodies.reservation(name("other"));
        assert!(other.grow(BODY_BYTES_MAX).is_ok());
        drop((greedy, other));
        assert!(bodies.counts().is_empty());
    }
}
