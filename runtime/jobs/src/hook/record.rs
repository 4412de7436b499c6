//! The record of a hook, and what clients may ask for when they make one.

use super::signed::Verify;
use crate::job::Millis;
use gannet_base::manifest::schedule::check_path;
use gannet_base::names::{FunctionName, HookName, TenantName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How long the URL or the secret before is valid too, in milliseconds.
pub const OVERLAP_MS: Millis = 24 * 3_600_000;
/// The longest window in which deliveries are known again, in seconds.
pub const WINDOW_S_MAX: u64 = 24 * 3_600;
/// The window of a hook that does not say, in seconds, if its deliveries are not signed.
const WINDOW_S_UNSIGNED: u64 = 300;
/// The longest time until a hook expires, in seconds: ten years.
const EXPIRES_S_MAX: u64 = 10 * 366 * 86_400;
/// Bytes of the name of a header.
const HEADER_BYTES_MAX: usize = 64;
/// Bytes of a token.
const TOKEN_BYTES: usize = 32;

/// The text of a token, which is part of a hook's URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Makes a new one.
    pub fn random() -> std::io::Result<Self> {
        use base64::Engine;
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Self(base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Returns its text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The SHA-256 of a token, in hex. A token has 256 random bits, so it cannot be found from that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(String);

impl TokenHash {
    /// Returns the hash of a text that may be a token.
    pub fn of(text: &str) -> Self {
        Self(hex::encode(Sha256::digest(text.as_bytes())))
    }

    /// Whether two hashes are the same. Takes the same time wherever they differ.
    fn is(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

/// What was valid before it was replaced, and is until a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous<T> {
    /// It.
    pub value: T,
    /// Until when.
    pub until: Millis,
}

/// A hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its name.
    pub name: HookName,
    /// The tenant that owns its function.
    pub tenant: TenantName,
    /// Its function.
    pub function: FunctionName,
    /// When it was made.
    pub created: Millis,
    /// How deliveries are verified, besides the token.
    pub verify: Verify,
    /// The header with the signature, if not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The header with the id of a delivery, if not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_header: Option<String>,
    /// How long deliveries without an id are known again by their bodies, in seconds. 0: they are not.
    pub window_s: u64,
    /// The path at which the function gets the jobs.
    pub path: String,
    /// The address to which the results of the jobs are posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// When its URL stops to be valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
    /// The hash of its URL's token.
    pub token: TokenHash,
    /// The one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_token: Option<Previous<TokenHash>>,
    /// The encrypted secret of the signatures, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_secret: Option<Previous<String>>,
}

/// What a client asks for when it makes a hook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHook {
    /// Its name, which no other hook of the function has.
    #[schema(value_type = String, pattern = "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$", max_length = 64)]
    pub name: HookName,
    /// How deliveries are verified, besides by the URL.
    #[serde(default)]
    pub verify: Verify,
    /// The secret of the signatures. One is made if it is left out.
    #[schema(max_length = 256)]
    pub secret: Option<String>,
    /// The header with the signature, for `hmac-sha256`: `x-hub-signature-256` by default.
    #[schema(max_length = 64, pattern = "^[a-z0-9-]+$")]
    pub header: Option<String>,
    /// The header with the id of a delivery: by default `webhook-id`, else `x-github-delivery`.
    #[schema(max_length = 64, pattern = "^[a-z0-9-]+$")]
    pub id_header: Option<String>,
    /// How long a delivery without an id is known again by its body, in seconds; 0: it is not.
    #[schema(maximum = 86_400)]
    pub window_s: Option<u64>,
    /// After so many seconds the URL is not valid any more.
    #[schema(minimum = 1, maximum = 316_224_000)]
    pub expires_s: Option<u64>,
    /// The path at which the function gets the jobs.
    #[schema(max_length = 1024)]
    pub path: Option<String>,
    /// The address to which the results of the jobs are posted.
    #[schema(max_length = 2048)]
    pub webhook: Option<String>,
}

/// Checks the name of a header, in lower case.
fn check_header(key: &str, name: Option<&String>) -> Result<(), String> {
    let Some(name) = name else { return Ok(()) };
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=HEADER_BYTES_MAX).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(format!("{key} = {shown:?}; it must be 1 to {HEADER_BYTES_MAX} of a-z, 0-9 and dashes"))
}

fn within(key: &str, value: Option<u64>, least: u64, most: u64) -> Result<(), String> {
    match value {
        Some(value) if !(least..=most).contains(&value) => Err(format!("{key} = {value}; it may be {least} to {most}")),
        _ => Ok(()),
    }
}

impl NewHook {
    /// Refuses what no hook can have. Whether the webhook's address can be used is checked elsewhere.
    pub fn check(&self) -> Result<(), String> {
        check_header("header", self.header.as_ref())?;
        check_header("id_header", self.id_header.as_ref())?;
        within("window_s", self.window_s, 0, WINDOW_S_MAX)?;
        within("expires_s", self.expires_s, 1, EXPIRES_S_MAX)?;
        if self.header.is_some() && self.verify != Verify::HmacSha256 {
            return Err(format!(
                "header is for verify = \"hmac-sha256\" only, and verify is {:?}",
                self.verify.as_str()
            ));
        }
        self.path.as_deref().map_or(Ok(()), |path| check_path(path).map_err(|error| error.to_string()))?;
        match &self.secret {
            Some(_) if self.verify == Verify::Url => {
                Err("secret is for signed deliveries only, and verify is \"url\"".into())
            }
            Some(secret) => self.verify.check_secret(secret),
            None => Ok(()),
        }
    }

    /// Returns the hook, with the hash of its token and its encrypted secret. It must have been checked.
    pub fn hook(
        self,
        names: (TenantName, FunctionName),
        token: TokenHash,
        secret: Option<String>,
        now: Millis,
    ) -> Hook {
        let usual = if self.verify == Verify::Url { WINDOW_S_UNSIGNED } else { WINDOW_S_MAX };
        Hook {
            name: self.name,
            tenant: names.0,
            function: names.1,
            created: now,
            verify: self.verify,
            header: self.header,
            id_header: self.id_header,
            window_s: self.window_s.unwrap_or(usual),
            path: self.path.unwrap_or_else(|| "/".into()),
            webhook: self.webhook,
            expires: self.expires_s.map(|seconds| now.saturating_add_unsigned(seconds.saturating_mul(1_000))),
            token,
            previous_token: None,
            secret,
            previous_secret: None,
        }
    }
}

impl Hook {
    /// Whether a text is its token, or the one before, and it has not expired. Takes the same time for all texts.
    pub fn opens(&self, text: &str, now: Millis) -> bool {
        let hash = TokenHash::of(text);
        let is_current = self.token.is(&hash);
        let previous = self.previous_token.as_ref();
        let is_previous = previous.is_some_and(|previous| previous.value.is(&hash) & (now < previous.until));
        (is_current | is_previous) && !self.has_expired(now)
    }

    /// Whether its URL is not valid any more.
    pub fn has_expired(&self, now: Millis) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Replaces the token.
    pub fn replace_token(&mut self, token: TokenHash, now: Millis) {
        let value = std::mem::replace(&mut self.token, token);
        self.previous_token = Some(Previous { value, until: now.saturating_add(OVERLAP_MS) });
    }

    /// Replaces the encrypted secret.
    pub fn replace_secret(&mut self, secret: String, now: Millis) {
        let until = now.saturating_add(OVERLAP_MS);
        self.previous_secret = self.secret.replace(secret).map(|value| Previous { value, until });
    }

    /// Returns the encrypted secrets that verify now.
    pub fn secrets(&self, now: Millis) -> impl Iterator<Item = &str> {
        let previous = self.previous_secret.iter().filter(move |previous| now < previous.until);
        self.secret.iter().map(String::as_str).chain(previous.map(|previous| previous.value.as_str()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn new(more: serde_json::Value) -> Result<NewHook, String> {
        let mut body = json!({ "name": "source" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let hook: NewHook = serde_json::from_value(body).map_err(|error| error.to_string())?;
        hook.check().map(|()| hook)
    }

    fn hook(more: serde_json::Value, now: Millis) -> (Hook, Token) {
        let token = Token::random().unwrap();
        let names = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        (new(more).unwrap().hook(names, TokenHash::of(token.text()), None, now), token)
    }

    #[test]
    fn only_its_token_opens_a_hook_and_the_one_before_for_a_day() {
        let (mut hook, first) = hook(json!({}), 1_000);
        assert_eq!((first.text().len(), format!("{first:?}").as_str()), (43, "Token"));
        assert!(hook.opens(first.text(), 1_000) && !hook.opens("", 1_000) && !hook.opens(&hook.token.0, 1_000));
        assert!(!serde_json::to_string(&hook).unwrap().contains(first.text()), "only a hash is stored");
        let second = Token::random().unwrap();
        hook.replace_token(TokenHash::of(second.text()), 2_000);
        let end = 2_000 + OVERLAP_MS;
        assert!(hook.opens(first.text(), end - 1) && !hook.opens(first.text(), end) && hook.opens(second.text(), end));
        hook.replace_token(TokenHash::of(Token::random().unwrap().text()), 3_000);
        assert!(!hook.opens(first.text(), 3_000) && hook.opens(second.text(), 3_000), "of two one is left");
        let stored = serde_json::to_string(&hook).unwrap();
        assert_eq!(serde_json::from_str::<Hook>(&stored).unwrap(), hook);
    }

    #[test]
    fn a_hook_expires_when_it_was_asked_to() {
        let (hook, token) = hook(json!({ "expires_s": 10 }), 5_000);
        assert!(hook.opens(token.text(), 14_999) && !hook.opens(token.text(), 15_000));
    }

    #[test]
    fn the_secret_before_verifies_for_a_day() {
        let (mut hook, _) = hook(json!({ "verify": "hmac-sha256" }), 0);
        assert_eq!(hook.window_s, WINDOW_S_MAX);
        hook.secret = Some("a".into());
        hook.replace_secret("b".into(), 1_000);
        let valid = |now| hook.secrets(now).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!((valid(1_000), valid(1_000 + OVERLAP_MS)), (vec!["b".into(), "a".into()], vec!["b".to_owned()]));
    }

    #[test]
    fn what_no_hook_can_have_is_refused_with_the_value_and_the_limit() {
        for (more, part) in [
            (json!({ "name": "A/b" }), "hook name \"A/b\""),
            (json!({ "verify": "magic" }), "unknown variant `magic`"),
            (json!({ "token": "x" }), "unknown field `token`"),
            (json!({ "secret": "some secret text" }), "secret is for signed deliveries only"),
            (json!({ "verify": "standard", "secret": "plain" }), "secret is none of Standard Webhooks"),
            (json!({ "verify": "hmac-sha256", "secret": "short" }), "secret has 5 bytes; it may have 8 to 256"),
            (json!({ "verify": "hmac-sha256", "header": "X-Upper" }), "header = \"X-Upper\""),
            (json!({ "verify": "standard", "header": "x" }), "header is for verify = \"hmac-sha256\" only"),
            (json!({ "id_header": "" }), "id_header = \"\""),
            (json!({ "window_s": 86_401 }), "window_s = 86401; it may be 0 to 86400"),
            (json!({ "expires_s": 0 }), "expires_s = 0; it may be 1 to 316224000"),
            (json!({ "path": "/a/../b" }), "path = \"/a/../b\""),
        ] {
            let told = new(more.clone()).map(|_| "fine".to_owned()).unwrap_or_else(|told| told);
            assert!(told.contains(part), "{more}: {told}");
        }
        assert!(new(json!({ "window_s": 0, "path": "/x?y=1", "id_header": "x-id" })).is_ok());
    }
}
