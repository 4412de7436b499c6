//! Scopes: what a key allows.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// The scopes of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Scopes {
    /// Call functions.
    pub invoke: bool,
    /// See functions, receipts, logs and usage.
    pub read: bool,
    /// Deploy and delete functions.
    pub deploy: bool,
    /// Everything else in the tenant: keys, secrets, the audit log.
    pub admin: bool,
}

impl Scopes {
    /// All scopes.
    pub const FULL: Self = Self { invoke: true, read: true, deploy: true, admin: true };

    /// Returns the scopes with these names.
    pub fn of(names: &[ScopeName]) -> Self {
        let has = |name| names.contains(&name);
        Self {
            invoke: has(ScopeName::Invoke),
            read: has(ScopeName::Read),
            deploy: has(ScopeName::Deploy),
            admin: has(ScopeName::Admin),
        }
    }

    /// Returns the names of the scopes.
    pub fn names(self) -> Vec<ScopeName> {
        let all = [
            (self.invoke, ScopeName::Invoke),
            (self.read, ScopeName::Read),
            (self.deploy, ScopeName::Deploy),
            (self.admin, ScopeName::Admin),
        ];
        all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
    }

    /// Returns whether these scopes allow everything that `other` allows.
    pub fn include(self, other: Self) -> bool {
        (self.invoke || !other.invoke)
            && (self.read || !other.read)
            && (self.deploy || !other.deploy)
            && (self.admin || !other.admin)
    }
}

/// A scope, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ScopeName {
    /// Call functions.
    Invoke,
    /// See functions, receipts, logs and usage.
    Read,
    /// Deploy and delete functions.
    Deploy,
    /// Everything else in the tenant: keys, secrets, the audit log.
    Admin,
}

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invoke => "invoke",
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Admin => "admin",
        })
    }
}
