//! What tenants do to their hooks.

use crate::hook::record::{Hook, NewHook, Token, TokenHash};
use crate::hook::signed::Verify;
use crate::job::Millis;
use crate::keys;
use crate::runner::Runner;
use crate::service::shared::{Jobs, Shared, to_its_end};
use crate::service::state::Names;
use gannet_base::names::{FunctionName, HookName, TenantName};
use gannet_state::records::{Change, CommitError, Entry, Expect, Revision};
use serde::Serialize;
use std::io;
use std::sync::Arc;

/// Records that are read at once.
const PAGE: usize = 500;
/// Reads after conflicts.
const READS_MAX: usize = 8;

/// Why a hook was not made, shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is no such function.
    #[error("there is no such function")]
    NoFunction,
    /// There is no such hook.
    #[error("the function has no hook {name}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// There is one already.
    #[error("the function has a hook {name} already")]
    Exists {
        /// The name.
        name: HookName,
    },
    /// Its deliveries are not signed, or the secret cannot be one.
    #[error("{0}")]
    Secret(String),
    /// The tenant has too many.
    #[error("hooks = {limit}; in use: {used}")]
    LimitReached {
        /// The limit.
        limit: u64,
        /// How many there are.
        used: u64,
    },
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// The store does not work. The change may have been made or not.
    #[error("the hook could not be stored: {0}")]
    Store(#[from] io::Error),
}

impl From<CommitError> for HookError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Full => Self::Full,
            error => Self::Store(io::Error::other(error)),
        }
    }
}

/// A hook as its tenant sees it: without its URL and its secret, which are shown only when they are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = Hook)]
pub struct HookView {
    /// Its name.
    pub name: String,
    /// How deliveries are verified.
    pub verify: Verify,
    /// The header with the signature, if not the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The header with the id of a delivery, if not the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_header: Option<String>,
    /// How long deliveries without an id are known again, in seconds.
    pub window_s: u64,
    /// The path at which the function gets the jobs.
    pub path: String,
    /// The address to which the results are posted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// When it was made (RFC 3339).
    pub created: String,
    /// When its URL stops to be valid (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Until when the URL before is valid too (RFC 3339), if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_url_until: Option<String>,
    /// Until when the secret before is valid too (RFC 3339), if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_secret_until: Option<String>,
}

/// A hook that was made, or whose URL or secret was replaced.
#[derive(Debug)]
pub struct MadeHook {
    /// The hook.
    pub view: HookView,
    /// The token of its URL, if that is new.
    pub token: Option<Token>,
    /// Its secret, if that is new.
    pub secret: Option<String>,
}

/// What of a hook is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// Its URL.
    Url,
    /// Its secret, by this one, or by one that is made.
    Secret(Option<String>),
}

fn rfc_3339(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

impl HookView {
    fn new(hook: &Hook, now: Millis) -> Self {
        let still = |until: Option<Millis>| until.filter(|until| now < *until).map(rfc_3339);
        Self {
            name: hook.name.to_string(),
            verify: hook.verify,
            header: hook.header.clone(),
            id_header: hook.id_header.clone(),
            window_s: hook.window_s,
            path: hook.path.clone(),
            webhook: hook.webhook.clone(),
            created: rfc_3339(hook.created),
            expires: hook.expires.map(rfc_3339),
            previous_url_until: still(hook.previous_token.as_ref().map(|previous| previous.until)),
            previous_secret_until: still(hook.previous_secret.as_ref().map(|previous| previous.until)),
        }
    }
}

/// Returns the name under which a hook's secret is encrypted. A tenant's own secrets have no spaces in their names.
pub(super) fn sealed_name(hook: &HookName, function: &FunctionName) -> String {
    format!("hook secret {function}/{hook}")
}

impl<R: Runner> Shared<R> {
    /// Reads a hook.
    pub(super) async fn hook(
        &self,
        tenant: &TenantName,
        function: &FunctionName,
        name: &HookName,
    ) -> io::Result<Option<(Hook, Revision)>> {
        let Some(entry) = self.records.get(&keys::hook(tenant, function, name)).await? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&entry.value)?, entry.revision)))
    }

    /// Reads the records of all hooks whose keys begin with a prefix.
    async fn hook_records(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.records.page(prefix, after.as_deref(), PAGE).await?;
            after = page.entries.last().map(|entry| entry.key.clone());
            let is_last = !page.more || after.is_none();
            all.extend(page.entries);
            if is_last {
                return Ok(all);
            }
        }
    }

    async fn remove_hooks(&self, prefix: &str) -> io::Result<()> {
        let gone: Vec<Change> = self
            .hook_records(prefix)
            .await?
            .into_iter()
            .map(|entry| Change::Delete { key: entry.key, expect: Expect::Any })
            .collect();
        for some in gone.chunks(PAGE) {
            self.records.commit(some.to_vec()).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn seal(&self, hook: &HookName, names: &Names, secret: &str) -> io::Result<String> {
        let name = sealed_name(hook, &names.1);
        self.webhooks.vault.seal(&names.0, &name, secret.as_bytes()).map_err(io::Error::other)
    }

    fn put_hook(hook: &Hook, expect: Expect) -> io::Result<Vec<Change>> {
        let key = keys::hook(&hook.tenant, &hook.function, &hook.name);
        Ok(vec![Change::Put { key, value: serde_json::to_vec(hook)?, expect }])
    }
}

/// Removes the hooks of functions that do not exist any more: the server may have ended while one was deleted.
pub(in crate::service) async fn forget_orphans<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    for entry in shared.hook_records(keys::HOOKS).await? {
        let exists = keys::hook_of(&entry.key)
            .is_some_and(|(tenant, function)| shared.runner.function(&tenant, &function).is_some());
        if !exists {
            let gone = Change::Delete { key: entry.key, expect: Expect::Any };
            shared.records.commit(vec![gone]).await.map_err(io::Error::other)?;
        }
    }
    Ok(())
}

impl<R: Runner> Jobs<R> {
    /// Makes a hook. It must have been checked. A tenant may have `limit` of them.
    pub async fn make_hook(&self, names: &Names, new: NewHook, limit: u64) -> Result<MadeHook, HookError> {
        let (jobs, names) = (self.clone(), names.clone());
        to_its_end(async move { jobs.make_hook_all_the_way(names, new, limit).await }).await?
    }

    async fn make_hook_all_the_way(&self, names: Names, new: NewHook, limit: u64) -> Result<MadeHook, HookError> {
        let shared = &self.shared;
        let _one = shared.making_hooks.lock().await;
        if shared.runner.function(&names.0, &names.1).is_none() {
            return Err(HookError::NoFunction);
        }
        if shared.hook(&names.0, &names.1, &new.name).await?.is_some() {
            return Err(HookError::Exists { name: new.name });
        }
        let used = self.hook_count(&names.0).await?;
        if used >= limit {
            return Err(HookError::LimitReached { limit, used });
        }
        let given = new.secret.clone();
        let secret = if given.is_some() { given.clone() } else { new.verify.new_secret()? };
        let sealed = secret.as_deref().map(|secret| shared.seal(&new.name, &names, secret)).transpose()?;
        let (token, now) = (Token::random()?, shared.clock.now());
        let hook = new.hook(names, TokenHash::of(token.text()), sealed, now);
        shared.records.commit(Shared::<R>::put_hook(&hook, Expect::Absent)?).await?;
        let secret = secret.filter(|_| given.is_none());
        Ok(MadeHook { view: HookView::new(&hook, now), token: Some(token), secret })
    }

    /// Lists the hooks of a function by name.
    pub async fn hooks(&self, names: &Names) -> Result<Vec<HookView>, HookError> {
        let now = self.shared.clock.now();
        let prefix = format!("{}{}/{}/", keys::HOOKS, names.0, names.1);
        let all = self.shared.hook_records(&prefix).await?;
        let view =
            |entry: Entry| Ok(HookView::new(&serde_json::from_slice(&entry.value).map_err(io::Error::other)?, now));
        all.into_iter().map(view).collect()
    }

    /// Returns how many hooks a tenant has.
    pub async fn hook_count(&self, tenant: &TenantName) -> io::Result<u64> {
        Ok(self.shared.hook_records(&format!("{}{tenant}/", keys::HOOKS)).await?.len() as u64)
    }

    /// Deletes a hook: its URL is not valid any more.
    pub async fn delete_hook(&self, names: &Names, name: &HookName) -> Result<(), HookError> {
        let _one = self.shared.making_hooks.lock().await;
        if self.shared.hook(&names.0, &names.1, name).await?.is_none() {
            return Err(HookError::NotFound { name: name.to_string() });
        }
        let gone = Change::Delete { key: keys::hook(&names.0, &names.1, name), expect: Expect::Any };
        self.shared.records.commit(vec![gone]).await?;
        Ok(())
    }

    /// Replaces the URL or the secret of a hook. The one before is valid too for a day; one that was replaced less than a
    /// day ago is not any more.
    pub async fn rotate_hook(&self, names: &Names, name: &HookName, what: Replaced) -> Result<MadeHook, HookError> {
        let shared = &self.shared;
        let mut uncertain: Option<(Hook, MadeHook)> = None;
        for _ in 0..READS_MAX {
            let found = shared.hook(&names.0, &names.1, name).await?;
            let (mut hook, revision) = found.ok_or_else(|| HookError::NotFound { name: name.to_string() })?;
            // It was stored after all. Another one would end what is valid now.
            if let Some((_, made)) = uncertain.take().filter(|(tried, _)| *tried == hook) {
                return Ok(made);
            }
            let now = shared.clock.now();
            let (token, secret) = match &what {
                Replaced::Url => {
                    let token = Token::random()?;
                    hook.replace_token(TokenHash::of(token.text()), now);
                    (Some(token), None)
                }
                Replaced::Secret(given) => {
                    if hook.verify == Verify::Url {
                        return Err(HookError::Secret("the deliveries of this hook are not signed".into()));
                    }
                    given
                        .as_deref()
                        .map_or(Ok(()), |secret| hook.verify.check_secret(secret))
                        .map_err(HookError::Secret)?;
                    let made = if given.is_some() { None } else { hook.verify.new_secret()? };
                    let secret = given.as_deref().or(made.as_deref()).unwrap_or_default();
                    hook.replace_secret(shared.seal(name, names, secret)?, now);
                    (None, made)
                }
            };
            let made = MadeHook { view: HookView::new(&hook, now), token, secret };
            match shared.records.commit(Shared::<R>::put_hook(&hook, Expect::Revision(revision))?).await {
                Ok(_) => return Ok(made),
                Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Unknown(_)) => uncertain = Some((hook, made)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("the hook is changed by others").into())
    }

    /// Removes the hooks of a function that was deleted, or with none those of a tenant.
    pub async fn forget_hooks(&self, tenant: &TenantName, function: Option<&FunctionName>) -> io::Result<()> {
        let _one = self.shared.making_hooks.lock().await;
        let prefix = match function {
            Some(function) => format!("{}{tenant}/{function}/", keys::HOOKS),
            None => format!("{}{tenant}/", keys::HOOKS),
        };
        self.shared.remove_hooks(&prefix).await
    }
}
