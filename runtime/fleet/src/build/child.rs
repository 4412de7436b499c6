//! One builder process, from its start to its report.

use super::error::{BuildError, Failure, blame};
use super::stage::{StageClock, Times};
use crate::arbiter::turns::Health;
use crate::arbiter::{Arbiter, MemberLink};
use crate::gpus::SlotId;
use gannet_base::hop::build::{BuildReport, BuildSpec, BuildStage, Rejected};
use gannet_base::names::TenantName;
use gannet_process::channel::{Channel, frame_pair};
use gannet_process::child::{EXIT_DEVICE_LOST, Role};
use gannet_process::spawn::{ChildSpec, Process, Spawner};
use gannet_state::store::files::Files;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a builder may take to exit after it reported that it is done, or was killed.
const EXIT_MAX: Duration = Duration::from_secs(5);
/// How often the CPU time of a builder is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Size limit of a report, which may contain many kernels of 256 KiB each.
const REPORT_BYTES_MAX: u64 = 32 << 20;

/// What every builder needs of the server.
pub(super) struct Environment<'a> {
    pub(super) spawner: &'a Spawner,
    pub(super) arbiter: &'a Arc<Arbiter>,
    pub(super) files: &'a Files,
    /// CPU time that a build may use.
    pub(super) cpu_max: Duration,
}

/// What one builder gets.
pub(super) struct BuilderInput {
    pub(super) spec: BuildSpec,
    pub(super) component: File,
    pub(super) assets: Vec<File>,
    /// Where it writes the compiled code.
    pub(super) output: File,
}

/// How a builder ended: its report, and the process, whose folder has the driver's cache.
type BuilderResult = Result<(BuildReport, Process), BuildError>;

/// Runs a builder to its end. Also returns the CPU time that it used. With a `slot`, it tries kernels on that GPU.
pub(super) async fn run(
    environment: &Environment<'_>,
    tenant: &TenantName,
    slot: Option<SlotId>,
    input: BuilderInput,
) -> (BuilderResult, Duration) {
    match start(environment, tenant, slot, input).await {
        Ok((builder, membership)) => builder.finish(environment, slot, membership).await,
        Err(error) => (Err(error.into()), Duration::ZERO),
    }
}

type Membership = crate::arbiter::Membership;

/// A builder that runs.
struct Builder {
    process: Process,
    control: Channel,
    report: File,
}

async fn start(
    environment: &Environment<'_>,
    tenant: &TenantName,
    slot: Option<SlotId>,
    input: BuilderInput,
) -> io::Result<(Builder, Option<Membership>)> {
    let spec_file = memfd(&serde_json::to_vec(&input.spec).unwrap_or_default())?;
    let report = memfd(&[])?;
    let report_file = File::from(rustix::io::fcntl_dupfd_cloexec(&report, 0)?);
    let (control, theirs) = frame_pair()?;
    let home = environment.files.child_home("builder")?;
    let (socket, leases) = frame_pair()?;
    let notes = memfd(&[])?;
    let link = MemberLink { socket, notes: notes.try_clone()?.into() };
    let mut descriptors = vec![theirs, spec_file, input.component.into(), input.output.into(), report, leases, notes];
    descriptors.extend(input.assets.into_iter().map(OwnedFd::from));
    let control = Channel::new(control)?;
    let spec = ChildSpec { role: Role::Builder, arguments: Vec::new(), home, descriptors };
    let process = environment.spawner.spawn(spec).await?;
    // Its kernel trials need a lease like all other GPU work of the tenant.
    let membership = slot.map(|slot| environment.arbiter.join(slot, tenant, 1, link, process.clone()));
    Ok((Builder { process, control, report: report_file }, membership))
}

impl Builder {
    async fn finish(
        self,
        environment: &Environment<'_>,
        slot: Option<SlotId>,
        membership: Option<Membership>,
    ) -> (BuilderResult, Duration) {
        let (mut stage, began) = (BuildStage::Component, Instant::now());
        let followed = self.follow(&mut stage, environment.cpu_max).await;
        if !matches!(followed, Followed::Done) {
            self.process.kill();
        }
        // A builder that reports that it is done but does not exit would keep its permit.
        let exited = tokio::time::timeout(EXIT_MAX, self.process.ended()).await;
        let ending = match exited {
            Ok(ending) => ending,
            Err(_) => {
                self.process.kill();
                self.process.ended().await
            }
        };
        if let Some(membership) = &membership {
            membership.left(ending.code == Some(EXIT_DEVICE_LOST));
        }
        // Where the system hides the CPU time, the wall time takes its place.
        let cpu_time = ending.cpu_time.unwrap_or_else(|| began.elapsed());
        if stage == BuildStage::Done && ending.code == Some(0) {
            return (self.read_report(), cpu_time);
        }
        let lost_turn = slot.is_some_and(|slot| environment.arbiter.health(slot) == Some(Health::Cordoned));
        let failure = match (&membership, followed) {
            (Some(membership), _) if membership.overstayed() => {
                Failure::Ended("did not release the gpu in time".to_owned())
            }
            // Its kernel waited for a GPU that others have broken.
            (_, Followed::Ended) if ending.code.is_none() && lost_turn => return (Err(BuildError::NoGpu), cpu_time),
            (_, Followed::Overran(overrun)) => Failure::Overran(overrun),
            _ => Failure::Ended(format!("ended with {ending}")),
        };
        (Err(blame(&stage, &failure, environment.cpu_max)), cpu_time)
    }

    fn read_report(mut self) -> BuilderResult {
        let mut text = String::new();
        self.report.rewind()?;
        (&mut self.report).take(REPORT_BYTES_MAX).read_to_string(&mut text)?;
        let report: Result<BuildReport, Rejected> =
            serde_json::from_str(&text).map_err(|error| BuildError::Failed(format!("invalid report: {error}")))?;
        Ok((report?, self.process))
    }

    /// Reads the child's stages into `stage`, until it reports that it is done, stops reporting, or passes a limit.
    async fn follow(&self, stage: &mut BuildStage, cpu_max: Duration) -> Followed {
        let (began, mut clock) = (Instant::now(), StageClock::new(cpu_max));
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            let used = || {
                let wall = began.elapsed();
                Times { cpu: self.process.cpu_time().unwrap_or(wall), wall }
            };
            tokio::select! {
                received = self.control.receive::<BuildStage>() => match received {
                    Ok((BuildStage::Done, _)) => {
                        *stage = BuildStage::Done;
                        return Followed::Done;
                    }
                    Ok((next, _)) => {
                        *stage = next;
                        clock.enter(used());
                    }
                    Err(_) => return Followed::Ended,
                },
                _ = looks.tick() => if let Some(overrun) = clock.overrun(stage, used()) {
                    return Followed::Overran(overrun);
                },
            }
        }
    }
}

/// How following a builder ended.
enum Followed {
    /// It reported that it is done.
    Done,
    /// It stopped reporting.
    Ended,
    /// It passed a limit.
    Overran(super::stage::Overrun),
}

fn memfd(bytes: &[u8]) -> io::Result<OwnedFd> {
    let descriptor = rustix::fs::memfd_create("gannet", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(descriptor);
    io::Write::write_all(&mut file, bytes)?;
    file.rewind()?;
    Ok(file.into())
}
