//! Encrypts tenants' secrets with a key that is not in the store's database. The cipher is XChaCha20-Poly1305, with a
//! random nonce for each value. The tenant and the secret's name are associated data, so an encrypted value cannot be
//! decrypted as another secret.
//!
//! The key comes from `GANNET_SECRETS_KEY`, else from the file that the server file names, else from
//! `DATA/secrets.key`, which is made at the first start.

use crate::store::files::write_durably;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use gannet_base::names::TenantName;
use gannet_base::records::SecretRecord;
use std::io;
use std::path::{Path, PathBuf};

/// Environment variable with the key, in base64. It takes precedence over a key file.
pub const KEY_VARIABLE: &str = "GANNET_SECRETS_KEY";
/// Name of the key's file in the data folder.
const KEY_FILE: &str = "secrets.key";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// Maximum length of a secret's value.
pub const VALUE_BYTES_MAX: u64 = 64 * 1024;

/// Why secrets cannot be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The key cannot be read or made, or encryption failed.
    #[error("the key of the secrets: {0}")]
    Key(String),
    /// The value was not encrypted with this key, or not for this tenant and name.
    #[error("the secret {name:?} cannot be decrypted: it was encrypted with another key")]
    Sealed {
        /// Name of the secret.
        name: String,
    },
    /// Stored secrets were encrypted with another key than the configured one, or the key is missing.
    #[error(
        "the key of the secrets {}: {lost} of {count} stored secrets cannot be decrypted, such as {first}; put the \
         right key back, or run `gannet repair --forget-secrets` and set them again",
        if *is_missing { "is missing" } else { "is not the one that they were encrypted with" }
    )]
    OtherKey {
        /// Whether there is no key.
        is_missing: bool,
        /// How many secrets cannot be decrypted.
        lost: usize,
        /// How many there are.
        count: usize,
        /// One of them, with its tenant.
        first: String,
    },
}

/// Encrypts and decrypts secrets with one key; see the module.
pub struct Vault(XChaCha20Poly1305);

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}

fn random<const N: usize>() -> Result<[u8; N], SecretsError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| SecretsError::Key(error.to_string()))?;
    Ok(bytes)
}

fn read_key(text: &str, from: &str) -> Result<[u8; KEY_BYTES], SecretsError> {
    let bytes = BASE64_STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| SecretsError::Key(format!("{from} is not {KEY_BYTES} bytes in base64")))
}

fn associated(tenant: &TenantName, name: &str) -> Vec<u8> {
    format!("gannet secret {tenant}/{name}").into_bytes()
}

/// Checks that a file contains a valid key.
pub fn check_key_file(path: &Path) -> Result<(), SecretsError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| SecretsError::Key(format!("{}: {error}", path.display())))?;
    read_key(&text, &path.display().to_string()).map(drop)
}

impl Vault {
    /// Opens the vault with the configured key, and checks that it decrypts the `stored` secrets. If no key is
    /// configured, uses `secrets.key` in the data folder, and makes it if it is missing and there are no secrets.
    pub fn open<'a>(
        data: &Path,
        file: Option<&PathBuf>,
        stored: impl Iterator<Item = (&'a TenantName, &'a str, &'a SecretRecord)>,
    ) -> Result<Self, SecretsError> {
        let (mut count, mut lost) = (0, Vec::new());
        let vault = Self::existing(data, file)?;
        for (tenant, name, record) in stored {
            count += 1;
            if vault.as_ref().is_none_or(|vault| vault.unseal(tenant, name, &record.sealed).is_err()) {
                lost.push(format!("{name} of {tenant}"));
            }
        }
        if let Some(first) = lost.first() {
            let (lost, first) = (lost.len(), first.clone());
            return Err(SecretsError::OtherKey { is_missing: vault.is_none(), lost, count, first });
        }
        if let Some(vault) = vault {
            return Ok(vault);
        }
        let (path, key) = (data.join(KEY_FILE), random()?);
        let told = |error: io::Error| SecretsError::Key(format!("{}: {error}", path.display()));
        write_durably(&path, format!("{}\n", BASE64_STANDARD.encode(key)).as_bytes(), 0o600).map_err(told)?;
        Ok(Self::with(key))
    }

    /// Opens the vault with the configured key. Returns None if none is configured and `secrets.key` is missing.
    pub fn existing(data: &Path, file: Option<&PathBuf>) -> Result<Option<Self>, SecretsError> {
        if let Ok(text) = std::env::var(KEY_VARIABLE)
            && !text.is_empty()
        {
            return Ok(Some(Self::with(read_key(&text, KEY_VARIABLE)?)));
        }
        let path = file.cloned().unwrap_or_else(|| data.join(KEY_FILE));
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Self::with(read_key(&text, &path.display().to_string())?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => Ok(None),
            Err(error) => Err(SecretsError::Key(format!("{}: {error}", path.display()))),
        }
    }

    fn with(key: [u8; KEY_BYTES]) -> Self {
        Self(XChaCha20Poly1305::new(&Key::from(key)))
    }

    /// Encrypts a value. Returns nonce and ciphertext in base64.
    pub fn seal(&self, tenant: &TenantName, name: &str, value: &[u8]) -> Result<String, SecretsError> {
        let nonce: [u8; NONCE_BYTES] = random()?;
        let payload = Payload { msg: value, aad: &associated(tenant, name) };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| SecretsError::Key("a value could not be encrypted".into()))?;
        Ok(BASE64_STANDARD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// Decrypts a value that [`Vault::seal`] returned for the same tenant and name.
    pub fn unseal(&self, tenant: &TenantName, name: &str, sealed: &str) -> Result<String, SecretsError> {
        let failed = || SecretsError::Sealed { name: name.to_owned() };
        let bytes = BASE64_STANDARD.decode(sealed).map_err(|_| failed())?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES).ok_or_else(failed)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| failed())?;
        let payload = Payload { msg: sealed, aad: &associated(tenant, name) };
        let value = self.0.decrypt(&XNonce::from(nonce), payload).map_err(|_| failed())?;
        String::from_utf8(value).map_err(|_| failed())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_in_its_place_with_its_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let (acme, zoo) = (TenantName::new("acme").unwrap(), TenantName::new("zoo").unwrap());
        let open = |folder: &Path, file| Vault::open(folder, file, std::iter::empty());
        let vault = open(folder.path(), None).unwrap();
        let sealed = vault.seal(&acme, "TOKEN", b"hunter2").unwrap();
        assert_ne!(sealed, vault.seal(&acme, "TOKEN", b"hunter2").unwrap());
        let again = open(folder.path(), None).unwrap();
        assert_eq!(again.unseal(&acme, "TOKEN", &sealed).unwrap(), "hunter2");
        assert!(again.unseal(&zoo, "TOKEN", &sealed).is_err() && again.unseal(&acme, "OTHER", &sealed).is_err());
        let other = tempfile::tempdir().unwrap();
        assert!(open(other.path(), None).unwrap().unseal(&acme, "TOKEN", &sealed).is_err());
        assert!(vault.unseal(&acme, "TOKEN", "AAAA").is_err() && vault.unseal(&acme, "TOKEN", "?").is_err());
        let missing = folder.path().join("missing");
        assert!(open(folder.path(), Some(&missing)).is_err(), "a key that was named is not made");
        let record = SecretRecord { set: jiff::Timestamp::now(), sealed };
        let stored = || std::iter::once((&acme, "TOKEN", &record));
        assert!(Vault::open(folder.path(), None, stored()).is_ok());
        // Neither another key nor a new one replaces the one that secrets need.
        let replaced = Vault::open(other.path(), None, stored());
        assert!(matches!(replaced, Err(SecretsError::OtherKey { is_missing: false, lost: 1, count: 1, .. })));
        std::fs::remove_file(other.path().join(KEY_FILE)).unwrap();
        let removed = Vault::open(other.path(), None, stored());
        assert!(matches!(removed, Err(SecretsError::OtherKey { is_missing: true, .. })));
        assert!(!other.path().join(KEY_FILE).exists());
    }
}
