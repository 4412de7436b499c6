//! A session that is made when the guest first uses the GPU.

use crate::error::Error;
use crate::session::{Session, SessionLimits};

/// A session that is made when the guest first uses the GPU: most requests of a function without
/// kernels never do.
pub struct LazySession {
    make: Box<dyn Fn() -> Result<Session, Error> + Send>,
    session: Option<Session>,
}

impl std::fmt::Debug for LazySession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LazySession").field("session", &self.session).finish_non_exhaustive()
    }
}

impl LazySession {
    /// Makes a lazy session that calls `make` at the first use.
    pub fn new(make: impl Fn() -> Result<Session, Error> + Send + 'static) -> Self {
        Self { make: Box::new(make), session: None }
    }

    /// The session, if the guest has used the GPU.
    pub fn get(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Prepares for another request, which has these limits. If there is a session, it begins again
    /// ([`Session::begin_again`]) and is returned. If there is none, `make` will make it.
    pub fn begin_again(
        &mut self,
        make: impl Fn() -> Result<Session, Error> + Send + 'static,
        limits: SessionLimits,
    ) -> Option<&Session> {
        self.make = Box::new(make);
        let session = self.session.as_mut()?;
        session.begin_again(limits);
        Some(session)
    }

    /// Returns the session, and makes it first if there is none.
    pub fn open(&mut self) -> Result<&mut Session, Error> {
        if self.session.is_none() {
            self.session = Some((self.make)()?);
        }
        self.session.as_mut().ok_or_else(Error::lost)
    }
}
