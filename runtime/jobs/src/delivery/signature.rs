//! Signatures of messages, as Standard Webhooks specifies them: `v1,` and the base64 of
//! `HMAC-SHA256(secret, "{id}.{timestamp}.{body}")`. A secret is written as `whsec_` and its bytes in base64.
//!
//! HMAC is written here (RFC 2104), because it is ten lines over a hash that we use anyway.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

const PREFIX: &str = "whsec_";
/// Bytes that a secret may have, by the specification.
const BYTES_MIN: usize = 24;
const BYTES_MAX: usize = 64;
/// Bytes of the secrets that are made here: as many as the signature has.
const BYTES_NEW: usize = 32;
/// Bytes that SHA-256 takes at once.
const BLOCK: usize = 64;

/// A secret that messages are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Makes a new one.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = vec![0; BYTES_NEW];
        getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Self(bytes))
    }

    /// Reads one. Returns None for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
        (BYTES_MIN..=BYTES_MAX).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// Returns its text, as receivers are configured with it.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.0))
    }

    /// Returns its bytes, with which HMAC is keyed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let head = format!("{id}.{timestamp_s}.");
        let code = hmac_sha256(&self.0, &[head.as_bytes(), body]);
        format!("v1,{}", BASE64_STANDARD.encode(code))
    }
}

/// Returns the value of `webhook-signature`: a signature with each secret. A receiver accepts a message if one of them
/// is right. `timestamp_s` is in whole seconds since 1970.
pub fn signatures<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp_s: i64,
    body: &[u8],
) -> String {
    let all: Vec<String> = secrets.into_iter().map(|secret| secret.sign(id, timestamp_s, body)).collect();
    all.join(" ")
}

/// RFC 2104, with SHA-256, over the parts of a text one after the other.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    let short: [u8; 32] = if key.len() > BLOCK { Sha256::digest(key).into() } else { [0; 32] };
    let key = if key.len() > BLOCK { short.as_slice() } else { key };
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let mut inner = Sha256::new_with_prefix(padded(0x36));
    parts.iter().for_each(|part| inner.update(part));
    Sha256::new_with_prefix(padded(0x5c)).chain_update(inner.finalize()).finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The test cases 1 to 3, 6 and 7 of RFC 4231.
    #[test]
    fn hmac_gives_what_rfc_4231_says() {
        let cases: [(&[u8], &[u8], &str); 5] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &[0xaa; 131],
                b"This is a test using a larger than block-size key and a larger than block-size data. The key needs \
                  to be hashed before being used by the HMAC algorithm.",
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, text, code) in cases {
            assert_eq!(hex::encode(hmac_sha256(key, &[text])), code);
            let (one, two) = text.split_at(text.len() / 2);
            assert_eq!(hex::encode(hmac_sha256(key, &[one, two])), code, "in parts");
        }
    }

    /// The example of the reference libraries of Standard Webhooks.
    #[test]
    fn a_message_is_signed_as_the_reference_signs_it() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let sign = |secrets: &[Secret]| {
            signatures(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#)
        };
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(sign(std::slice::from_ref(&secret)), expected);
        let both = sign(&[Secret::random().unwrap(), secret]);
        assert!(both.ends_with(&format!(" {expected}")) && both.split(' ').count() == 2, "{both}");
    }

    #[test]
    fn a_secret_has_24_to_64_bytes() {
        let of = |bytes: usize| Secret::parse(&format!("whsec_{}", BASE64_STANDARD.encode(vec![7; bytes]))).is_some();
        assert!(!of(23) && of(24) && of(64) && !of(65));
        assert_eq!(Secret::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), None, "without its prefix");
        assert_ne!(Secret::random().unwrap(), Secret::random().unwrap());
        assert_eq!(format!("{:?}", Secret::random().unwrap()), "Secret");
    }

    proptest! {
        #[test]
        fn a_secret_reads_as_it_was_written(bytes in proptest::collection::vec(any::<u8>(), 24..=64)) {
            let secret = Secret(bytes);
            prop_assert_eq!(Secret::parse(&secret.text()), Some(secret));
        }
    }
}
