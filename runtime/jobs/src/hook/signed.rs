//! Verifies who has sent a delivery to a hook.
//!
//! | `verify` | header | signed |
//! |---|---|---|
//! | `url` | none: who knows the URL may post | |
//! | `standard` | `webhook-signature: v1,BASE64 …` ([Standard Webhooks](https://www.standardwebhooks.com)) | `id.timestamp.body` |
//! | `hmac-sha256` | `x-hub-signature-256: sha256=HEX`, or another; also bare hex or base64 | the body |
//! | `stripe` | `stripe-signature: t=SECONDS,v1=HEX,…` | `timestamp.body` |
//!
//! Each is HMAC-SHA256 and is compared in constant time. A timestamp may be [`TOLERANCE_S`] off.

use super::headers::Headers;
use crate::delivery::signature::{Secret, hmac_sha256};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// Seconds that a timestamp may be off, in both directions.
pub const TOLERANCE_S: i64 = 300;
/// Signatures of one delivery that are looked at.
const SIGNATURES_MAX: usize = 32;
/// Bytes that a secret of HMAC may have.
const SECRET_BYTES_MIN: usize = 8;
const SECRET_BYTES_MAX: usize = 256;

/// How deliveries are verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Verify {
    /// By the URL alone.
    #[default]
    #[serde(rename = "url")]
    Url,
    /// By a signature of Standard Webhooks.
    #[serde(rename = "standard")]
    Standard,
    /// By a header with the HMAC of the body, as GitHub sends it.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// By a header with the HMAC of a timestamp and the body, as Stripe sends it.
    #[serde(rename = "stripe")]
    Stripe,
}

/// Why a delivery is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// A header is missing or has another form.
    #[error("the header {0} is missing or malformed")]
    Header(String),
    /// The signature was not made with the hook's secret, or for another body.
    #[error("no signature in {0} is right for this body")]
    Signature(String),
    /// The timestamp is too far off.
    #[error("the timestamp is {off_s} s off; the limit is {TOLERANCE_S} s")]
    Timestamp {
        /// How far.
        off_s: u64,
    },
}

impl Verify {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Standard => "standard",
            Self::HmacSha256 => "hmac-sha256",
            Self::Stripe => "stripe",
        }
    }

    /// Refuses a secret that cannot be one.
    pub fn check_secret(self, secret: &str) -> Result<(), String> {
        if self == Self::Standard {
            let fine = Secret::parse(secret).is_some();
            let why = "secret is none of Standard Webhooks: `whsec_` and 24 to 64 bytes in base64";
            return if fine { Ok(()) } else { Err(why.into()) };
        }
        let bytes = secret.len();
        if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes) {
            return Ok(());
        }
        Err(format!("secret has {bytes} bytes; it may have {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}"))
    }

    /// Makes a secret. None if deliveries are not signed.
    pub fn new_secret(self) -> std::io::Result<Option<String>> {
        Ok(match self {
            Self::Url => None,
            // For the others any text is one, and this is as good as another.
            Self::Standard | Self::HmacSha256 | Self::Stripe => Some(Secret::random()?.text()),
        })
    }

    /// Returns the bytes of a secret that is written like this.
    fn key(self, secret: &str) -> Vec<u8> {
        match (self, Secret::parse(secret)) {
            (Self::Standard, Some(secret)) => secret.bytes().to_vec(),
            _ => secret.as_bytes().to_vec(),
        }
    }

    /// Returns the header that its signatures are in.
    fn usual_header(self) -> &'static str {
        match self {
            Self::Url => "",
            Self::Standard => "webhook-signature",
            Self::HmacSha256 => "x-hub-signature-256",
            Self::Stripe => "stripe-signature",
        }
    }
}

/// Checks that a delivery was signed with one of the secrets, at about this time. `header` is the one with the signature,
/// if it is not the usual one.
pub fn check(
    verify: Verify,
    header: Option<&str>,
    secrets: &[String],
    (headers, body): (&Headers, &[u8]),
    now_s: i64,
) -> Result<(), Unverified> {
    if verify == Verify::Url {
        return Ok(());
    }
    let name = header.unwrap_or_else(|| verify.usual_header());
    let value = headers.get(name).ok_or_else(|| Unverified::Header(name.into()))?;
    let keys: Vec<Vec<u8>> = secrets.iter().map(|secret| verify.key(secret)).collect();
    let (signed, candidates) = match verify {
        Verify::Standard => {
            let field = |name: &str| headers.get(name).ok_or_else(|| Unverified::Header(name.into()));
            let (id, time) = (field("webhook-id")?, field("webhook-timestamp")?);
            // With a dot in it, another id, time and body could have the same signature.
            if id.is_empty() || id.contains('.') {
                return Err(Unverified::Header("webhook-id".into()));
            }
            check_time(time, now_s).map_err(|error| error.unwrap_or(Unverified::Header("webhook-timestamp".into())))?;
            let sent = value.split(' ').filter_map(|one| BASE64_STANDARD.decode(one.strip_prefix("v1,")?).ok());
            (format!("{id}.{time}."), sent.take(SIGNATURES_MAX).collect::<Vec<_>>())
        }
        Verify::Stripe => {
            let parts = || value.split(',').filter_map(|part| part.trim().split_once('='));
            let time = parts().find(|(key, _)| *key == "t").map(|(_, time)| time);
            let time = time.ok_or_else(|| Unverified::Header(name.into()))?;
            check_time(time, now_s).map_err(|error| error.unwrap_or(Unverified::Header(name.into())))?;
            let sent = parts().filter(|(key, _)| *key == "v1").filter_map(|(_, code)| hex::decode(code).ok());
            (format!("{time}."), sent.take(SIGNATURES_MAX).collect())
        }
        Verify::HmacSha256 | Verify::Url => (String::new(), code(value).into_iter().collect()),
    };
    let is_right = |key: &Vec<u8>| {
        let expected = hmac_sha256(key, &[signed.as_bytes(), body]);
        candidates.iter().fold(false, |right, sent| right | bool::from(sent.as_slice().ct_eq(expected.as_slice())))
    };
    if keys.iter().fold(false, |right, key| right | is_right(key)) {
        return Ok(());
    }
    Err(Unverified::Signature(name.into()))
}

/// Reads the value of a header with one HMAC.
fn code(value: &str) -> Option<Vec<u8>> {
    let value = value.trim();
    let value = value.strip_prefix("sha256=").unwrap_or(value);
    hex::decode(value).or_else(|_| BASE64_STANDARD.decode(value)).ok()
}

/// Checks a timestamp in whole seconds since 1970. The error is None if it is none.
fn check_time(text: &str, now_s: i64) -> Result<(), Option<Unverified>> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let time = text.parse::<i64>().ok().filter(|_| is_number).ok_or(None)?;
    let off_s = time.abs_diff(now_s);
    if off_s > TOLERANCE_S.unsigned_abs() { Err(Some(Unverified::Timestamp { off_s })) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn headers(fields: &[(&str, &str)]) -> Headers {
        Headers::new(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn told(verify: Verify, fields: &[(&str, &str)], secret: &str, body: &[u8], now: i64) -> String {
        let checked = check(verify, None, &[secret.to_owned()], (&headers(fields), body), now);
        checked.map(|()| "fine".to_owned()).unwrap_or_else(|error| error.to_string())
    }

    /// The example of the reference libraries of Standard Webhooks.
    #[test]
    fn a_message_of_standard_webhooks_is_verified_as_the_reference_does() {
        let fields = |time, signature| {
            [
                ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
                ("webhook-timestamp", time),
                ("webhook-signature", signature),
            ]
        };
        let (time, body) = ("1614265330", &br#"{"test": 2432232314}"#[..]);
        let right = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let two = format!("v2,nothing v1,AAAA {right}");
        let check = |fields: &[(&str, &str)], body, now| told(Verify::Standard, fields, SECRET, body, now);
        for signature in [right, two.as_str()] {
            assert_eq!(check(&fields(time, signature), body, 1_614_265_330 + 300), "fine");
        }
        assert!(check(&fields(time, right), body, 1_614_265_330 + 301).contains("is 301 s off; the limit is 300 s"));
        assert!(check(&fields(time, right), body, 1_614_265_330 - 301).contains("is 301 s off"));
        assert!(check(&fields(time, right), b"{}", 1_614_265_330).contains("no signature"));
        assert!(check(&fields("1614265331", right), body, 1_614_265_330).contains("no signature"));
        for bad in ["", "+1614265330", "1614265330.0", "99999999999999999999"] {
            assert!(check(&fields(bad, right), body, 1_614_265_330).contains("webhook-timestamp is missing"), "{bad}");
        }
        assert!(check(&fields(time, right)[1..], body, 1_614_265_330).contains("webhook-id is missing"));
        assert!(check(&fields(time, right)[..2], body, 1_614_265_330).contains("webhook-signature is missing"));
        let other = [("webhook-id", "a.1"), fields(time, right)[1], fields(time, right)[2]];
        assert!(check(&other, body, 1_614_265_330).contains("webhook-id is missing or malformed"));
    }

    /// The example of GitHub's documentation.
    #[test]
    fn a_message_of_github_is_verified_as_its_documentation_says() {
        let (secret, body) = ("It's a Secret to Everybody", &b"Hello, World!"[..]);
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let bytes = hex::decode(hex).unwrap();
        for value in [format!("sha256={hex}"), hex.to_owned(), BASE64_STANDARD.encode(bytes)] {
            let fields = [("x-hub-signature-256", value.as_str())];
            assert_eq!(told(Verify::HmacSha256, &fields, secret, body, 0), "fine", "{value}");
            assert!(told(Verify::HmacSha256, &fields, "another secret", body, 0).contains("no signature"));
        }
        for value in ["sha256=", "sha1=757107ea", "", "sha256=757107ea"] {
            let fields = [("x-hub-signature-256", value)];
            assert!(told(Verify::HmacSha256, &fields, secret, body, 0).contains("no signature"), "{value}");
        }
        let fields = headers(&[("x-shop", &format!("sha256={hex}"))]);
        let own = check(Verify::HmacSha256, Some("x-shop"), &[secret.to_owned()], (&fields, body), 0);
        assert_eq!(own, Ok(()));
    }

    #[test]
    fn a_message_of_stripe_is_signed_with_its_time() {
        let (secret, body) = ("whsec_test_secret", &b"{\"id\": \"evt_1\"}"[..]);
        let code = hex::encode(hmac_sha256(secret.as_bytes(), &[b"1700000000.", body]));
        let check = |value: &str, now| told(Verify::Stripe, &[("stripe-signature", value)], secret, body, now);
        let value = format!("t=1700000000,v1={},v1={code},v0=6ffbb59b", "00".repeat(32));
        assert_eq!(check(&value, 1_700_000_300), "fine");
        assert!(check(&value, 1_700_000_301).contains("is 301 s off"));
        assert!(check(&value.replace("t=1700000000", "t=1700000001"), 1_700_000_000).contains("no signature"));
        assert!(check(&format!("v1={code}"), 1_700_000_000).contains("stripe-signature is missing or malformed"));
    }

    proptest! {
        /// Whatever is sent, it is refused, and nothing panics.
        #[test]
        fn nothing_but_a_right_signature_is_accepted(value in "\\PC{0,100}", body in proptest::collection::vec(any::<u8>(), 0..50)) {
            let fields = headers(&[
                ("webhook-id", "a"), ("webhook-timestamp", "1000"), ("webhook-signature", &value),
                ("x-hub-signature-256", &value), ("stripe-signature", &value),
            ]);
            for verify in [Verify::Standard, Verify::HmacSha256, Verify::Stripe] {
                prop_assert!(check(verify, None, &[SECRET.to_owned()], (&fields, &body), 1_000).is_err());
            }
        }
    }
}
