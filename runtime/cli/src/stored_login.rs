//! The file that `gannet login` writes: `$XDG_CONFIG_HOME/gannet/login.toml`. It holds a key, so only its owner may
//! read it.

use crate::failure::{Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The contents of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Reads the file. Returns an empty login if there is none.
    pub fn load() -> Result<Self, Failure> {
        let Ok(path) = path() else { return Ok(Self::default()) };
        let wrong = |cause: String| {
            Failure::usage(format!("{}: {cause}", path.display())).hint("`gannet logout` removes the file")
        };
        match std::fs::read_to_string(&path) {
            // Without the line itself, which may contain the key.
            Ok(text) => toml::from_str(&text).map_err(|error| {
                let line =
                    error.span().map_or(1, |span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
                wrong(format!("line {line}: {}", error.message().trim()))
            }),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Self::default()),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Writes the file. Replaces an earlier one.
    pub fn save(&self) -> Outcome {
        let path = path()?;
        let shown = path.display().to_string();
        let failed = |error: std::io::Error| Failure::failed(format!("cannot write {shown}")).because(error);
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
