//! What clients ask about schedules, and do to them.

use super::schedules::{Firing, ScheduleKey, ScheduleSource, current, make, wall_clock};
use super::shared::Jobs;
use super::state::Names;
use super::submit::{SubmitError, Submitted};
use crate::job::{JobId, Millis, State};
use crate::keys;
use crate::runner::Runner;
use crate::schedule::{Fired, next_after};
use gannet_base::manifest::Schedule;
use gannet_base::names::{ScheduleName, TenantName};
use gannet_state::records::{Change, Expect};
use std::io;

/// How often a run by hand is tried again if the schedule fires at the same moment.
const RUN_TRIES: u32 = 10;

/// Why a schedule was not made, shown or deleted.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// There is no such schedule.
    #[error("the function has no schedule {name}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// It belongs to the manifest.
    #[error("the schedule {name} is in the function's manifest, and only a deploy changes it")]
    InManifest {
        /// The name.
        name: String,
    },
    /// The tenant has too many.
    #[error("schedules = {limit}; in use: {used}")]
    LimitReached {
        /// The limit.
        limit: u64,
        /// How many there are.
        used: u64,
    },
    /// Its job was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

impl From<io::Error> for ScheduleError {
    fn from(error: io::Error) -> Self {
        Self::Submit(SubmitError::Store(error))
    }
}

/// A schedule, and what became of its times.
#[derive(Debug)]
pub struct ListedSchedule {
    /// Its name.
    pub name: ScheduleName,
    /// Who made it.
    pub source: ScheduleSource,
    /// What it does.
    pub schedule: Schedule,
    /// When it fires next.
    pub next: Option<Millis>,
    /// What became of its times. None: it is new.
    pub fired: Option<Fired>,
}

impl<R: Runner> Jobs<R> {
    async fn listed(&self, key: ScheduleKey, schedule: Schedule, source: ScheduleSource) -> io::Result<ListedSchedule> {
        let ((tenant, function), name) = key;
        let found = self.shared.records.get(&keys::fired(&tenant, &function, &name)).await?;
        let fired = found.map(|entry| serde_json::from_slice::<Fired>(&entry.value)).transpose()?;
        let now = wall_clock();
        let after = fired.clone().map_or(now, |fired| fired.going_on(&schedule, now).after.max(now));
        let next = schedule.check(jiff::Timestamp::now()).ok().and_then(|cron| next_after(&cron, after));
        Ok(ListedSchedule { name, source, schedule, next, fired })
    }

    async fn find(&self, names: &Names, name: &ScheduleName) -> Result<(Schedule, ScheduleSource), ScheduleError> {
        let found = current(&self.shared, Some(&names.0)).await?.remove(&(names.clone(), name.clone()));
        found.ok_or_else(|| ScheduleError::NotFound { name: name.to_string() })
    }

    /// Lists the schedules of a function by name.
    pub async fn schedules(&self, names: &Names) -> Result<Vec<ListedSchedule>, ScheduleError> {
        let mut listed = Vec::new();
        for (key, (schedule, source)) in current(&self.shared, Some(&names.0)).await? {
            if key.0 == *names {
                listed.push(self.listed(key, schedule, source).await?);
            }
        }
        Ok(listed)
    }

    /// Returns how many schedules a tenant has.
    pub async fn schedule_count(&self, tenant: &TenantName) -> io::Result<u64> {
        Ok(current(&self.shared, Some(tenant)).await?.len() as u64)
    }

    /// Makes a schedule, or changes one that a client made. It must have been checked. A tenant may have `limit` of them.
    pub async fn make_schedule(
        &self,
        names: &Names,
        name: &ScheduleName,
        schedule: Schedule,
        limit: u64,
    ) -> Result<ListedSchedule, ScheduleError> {
        let shared = &self.shared;
        let _one = shared.schedules.making.lock().await;
        let all = current(shared, Some(&names.0)).await?;
        let key = (names.clone(), name.clone());
        match all.get(&key) {
            Some((_, ScheduleSource::Manifest)) => return Err(ScheduleError::InManifest { name: name.to_string() }),
            Some(_) => {}
            None => {
                let used = all.len() as u64;
                if used >= limit {
                    return Err(ScheduleError::LimitReached { limit, used });
                }
            }
        }
        let value = serde_json::to_vec(&schedule).map_err(io::Error::other)?;
        let put = Change::Put { key: keys::schedule(&names.0, &names.1, name), value, expect: Expect::Any };
        shared.records.commit(vec![put]).await.map_err(io::Error::other)?;
        shared.schedules.changed.notify_one();
        Ok(self.listed(key, schedule, ScheduleSource::Api).await?)
    }

    /// Deletes a schedule that a client made.
    pub async fn delete_schedule(&self, names: &Names, name: &ScheduleName) -> Result<(), ScheduleError> {
        let _one = self.shared.schedules.making.lock().await;
        if self.find(names, name).await?.1 == ScheduleSource::Manifest {
            return Err(ScheduleError::InManifest { name: name.to_string() });
        }
        let delete = Change::Delete { key: keys::schedule(&names.0, &names.1, name), expect: Expect::Any };
        self.shared.records.commit(vec![delete]).await.map_err(io::Error::other)?;
        self.shared.schedules.changed.notify_one();
        Ok(())
    }

    /// Makes a job of a schedule now, once, whatever its times and its other jobs are.
    pub async fn run_schedule(&self, names: &Names, name: &ScheduleName) -> Result<Submitted, ScheduleError> {
        let shared = &self.shared;
        let (schedule, _) = self.find(names, name).await?;
        let key = (names.clone(), name.clone());
        for _ in 0..RUN_TRIES {
            let now = wall_clock();
            let found = shared.records.get(&keys::fired(&names.0, &names.1, name)).await?;
            let expect = found.as_ref().map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
            let fired = found.map(|entry| serde_json::from_slice::<Fired>(&entry.value));
            let mut fired =
                fired.transpose().map_err(io::Error::other)?.unwrap_or_else(|| Fired::begin(&schedule, now));
            let id = JobId::new();
            // Its times are dealt with as if this had not been.
            (fired.last_fired, fired.last_job) = (Some(now), Some(id));
            let firing = Firing { key: &key, schedule: &schedule, id, time: now, in_turn: false };
            if make(shared, &firing, &fired, expect).await?.is_some() {
                shared.schedules.changed.notify_one();
                return Ok(Submitted { id, state: State::InQueue });
            }
        }
        Err(io::Error::other("the schedule's record was changed again and again").into())
    }
}
