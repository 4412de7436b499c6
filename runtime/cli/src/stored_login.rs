//! The file that `gannet login` writes: `$XDG_CONFIG_HOME/gannet/login.toml`. It holds a key, so only its owner may
//! read it.

use crate::failure::{Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The contents of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StoredLogin {
    /// The server's URL.
    pub server: Option<String>,
    /// The key for that server.
    pub key: Option<String>,
    /// The tenant to act for.
    pub tenant: Option<String>,
    /// The file with the CA certificates to trust for that server.
    pub ca_file: Option<PathBuf>,
}

impl StoredLogin {
    /// Reads the file. Returns an empty login if there is no valid file.
    pub fn load() -> Self {
        let text = path().ok().and_then(|path| std::fs::read_to_string(path).ok());
        text.and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
    }

    /// Writes the file. Replaces an earlier one.
    pub fn save(&self) -> Outcome {
        let failed = |error: std::io::Error| Failure::failed("the login could not be saved").because(error);
        let path = path()?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let text =
            toml::to_string(self).map_err(|error| Failure::failed("the login cannot be written").because(error))?;
        // An existing file may be readable by others. A new file gets the mode below.
        let _ = std::fs::remove_file(&path);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)
    }

    /// Removes the file. Returns whether there was one.
    pub fn remove() -> Result<bool, Failure> {
        Ok(std::fs::remove_file(path()?).is_ok())
    }
}

fn path() -> Result<PathBuf, Failure> {
    let of_variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = of_variable("XDG_CONFIG_HOME").or_else(|| Some(of_variable("HOME")?.join(".config")));
    let folder = folder.ok_or_else(|| Failure::usage("neither XDG_CONFIG_HOME nor HOME is set"))?;
    Ok(folder.join("gannet").join("login.toml"))
}
