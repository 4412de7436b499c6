//! Writes the entries of the audit log around the calls that change something: of the control API and of the job API.
//!
//! ```text
//!  entry without outcome, synced ─▶ the call ─▶ the same entry with its status, synced ─▶ response
//! ```

mod refused_calls;

use crate::respond::status_of;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::names::RequestId;
use gannet_base::records::AuditRecord;
use gannet_base::refusal::{Blame, Refusal};
use gannet_fleet::inbound::InboundRequest;
use gannet_state::store::audit::OPERATOR;
use gannet_state::store::{Store, StoreError};
use http::Response;
use refused_calls::RefusedCalls;
use std::sync::Arc;

/// Details of a change for the audit log, beyond its path: names, scopes, values; never a secret. Handlers put it into
/// the extensions of their response.
#[derive(Debug, Clone)]
pub(crate) struct AuditSubject(String);

impl AuditSubject {
    /// Adds a subject to a response, cut to 1024 characters.
    pub(crate) fn of(text: impl Into<String>, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let text: String = text.into();
        response.extensions_mut().insert(Self(text.chars().take(1024).collect()));
        response
    }
}

/// Writes the entries.
#[derive(Debug)]
pub struct AuditTrail {
    store: Arc<Store>,
    refused: RefusedCalls,
}

/// Returns the entry of a call, without its outcome. `action` is the operation's name in the OpenAPI document.
pub(crate) fn entry(inbound: &InboundRequest, caller: &Caller, action: &str) -> AuditRecord {
    let actor = match caller {
        Caller::Tenant(key) => key.record.id.clone(),
        Caller::Operator | Caller::Anonymous => OPERATOR.to_owned(),
    };
    AuditRecord {
        request: inbound.id.to_string(),
        time: jiff::Timestamp::now(),
        actor,
        address: inbound.client.to_string(),
        action: action.to_owned(),
        path: inbound.parts.uri.path().chars().take(256).collect(),
        subject: None,
        status: None,
    }
}

impl AuditTrail {
    /// Creates it.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, refused: RefusedCalls::default() }
    }

    /// Runs a call between the two writes of its entry, which belongs to these logs.
    pub(crate) async fn around<E: From<StoreError>>(
        &self,
        (whose, id, mut entry): (Vec<String>, RequestId, AuditRecord),
        call: impl Future<Output = Result<Response<ResponseBody>, Refusal>>,
    ) -> Result<Response<ResponseBody>, Refusal>
    where
        Refusal: From<E>,
    {
        let stored = |error: StoreError| Refusal::from(E::from(error));
        self.store.audit(&whose, id, &entry, None).await.map_err(stored)?;
        let mut result = call.await;
        let subject = result.as_mut().ok().and_then(|response| response.extensions_mut().remove::<AuditSubject>());
        entry.subject = subject.map(|AuditSubject(text)| text);
        entry.status = Some(match &result {
            Ok(response) => response.status().as_u16(),
            Err(refused) => status_of(refused).as_u16(),
        });
        // The latest refused calls are kept, but not all of them.
        let forgotten = result
            .as_ref()
            .is_err_and(|refused| refused.blame == Blame::Caller)
            .then(|| whose.first().and_then(|whose| self.refused.add(whose, id)));
        self.store.audit(&whose, id, &entry, forgotten.flatten()).await.map_err(stored)?;
        result
    }
}
