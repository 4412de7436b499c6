//! The table of all calls of the job API: methods, path, arguments, bodies and answers. The OpenAPI document is made of
//! it. Each call names its row by a [`JobOperation`], and each of these has a row, so no call can be missing in the
//! document.

/// The argument of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobArgument {
    /// Milliseconds that a call waits.
    Wait,
    /// The most items in a page.
    Limit,
    /// Where a page begins: the cursor of the page before.
    Cursor,
    /// The state that listed jobs have.
    State,
    /// The state that listed deliveries have.
    Delivery,
    /// The number of the first item.
    From,
    /// The name of a batch, if its inputs are lines.
    Name,
    /// Whether a batch takes more items, if its inputs are lines.
    More,
    /// The address that is told about the end of a batch, if its inputs are lines.
    Webhook,
}

/// The body of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobBody {
    /// None, or one that is not read.
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema, or none.
    MaybeJson(&'static str),
    /// JSON of this schema, or an input a line.
    Lines(&'static str),
    /// Any bytes.
    Any,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct JobRow {
    /// The call.
    pub(crate) op: JobOperation,
    /// Its name in the OpenAPI document and in the audit log.
    pub(crate) name: &'static str,
    /// Its methods, without HEAD. With others than the first, its name ends in `ByPost`.
    pub(crate) methods: &'static [&'static str],
    /// Its path, with names in braces.
    pub(crate) path: &'static str,
    /// What it does.
    pub(crate) summary: &'static str,
    /// The arguments of its query.
    pub(crate) arguments: &'static [JobArgument],
    /// Its body.
    pub(crate) takes: JobBody,
    /// The status and the schema of its successful answer. An empty schema is lines of JSON.
    pub(crate) answer: (u16, &'static str),
}

macro_rules! job_table {
    ($( $op:ident $name:literal $methods:expr, $path:literal $summary:literal $arguments:expr, $takes:expr, $answer:expr; )*) => {
        /// A call of the job API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum JobOperation { $( $op, )* }

        impl JobOperation {
            /// Returns its name in the OpenAPI document and in the audit log.
            pub(crate) fn name(self) -> &'static str {
                match self { $( Self::$op => $name, )* }
            }
        }

        /// All calls.
        pub(crate) const JOB_OPERATIONS: &[JobRow] = &[ $( JobRow {
            op: JobOperation::$op, name: $name, methods: &$methods, path: $path, summary: $summary,
            arguments: &$arguments, takes: $takes, answer: $answer,
        }, )* ];
    };
}

use JobArgument::{Cursor, Delivery, From, Limit, More, Name, State, Wait, Webhook};
use JobBody::{Any, Json, Lines, MaybeJson, Nothing};

job_table! {
    Run "runJob" ["POST"], "/v2/{function}/run" "Submits a job." [], Json("JobRequest"), (200, "JobAccepted");
    RunSync "runJobSync" ["POST"], "/v2/{function}/runsync" "Submits a job and waits for its end."
        [Wait], Json("JobRequest"), (200, "JobStatus");
    Status "getJob" ["GET", "POST"], "/v2/{function}/status/{id}" "Returns a job." [], Nothing, (200, "JobStatus");
    StatusSync "waitForJob" ["GET", "POST"], "/v2/{function}/status-sync/{id}"
        "Returns a job when it has ended, or when the time is over." [Wait], Nothing, (200, "JobStatus");
    Stream "streamJob" ["GET", "POST"], "/v2/{function}/stream/{id}"
        "Returns the parts of a job's stream since the last call." [], Nothing, (200, "JobStream");
    Cancel "cancelJob" ["POST"], "/v2/{function}/cancel/{id}" "Cancels a job." [], Nothing, (200, "JobAccepted");
    Retry "retryJob" ["POST"], "/v2/{function}/retry/{id}" "Puts a failed job into the queue again."
        [], Nothing, (200, "JobAccepted");
    Purge "purgeJobs" ["POST"], "/v2/{function}/purge-queue" "Cancels all jobs that wait." [], Nothing, (200, "JobsPurged");
    Pause "pauseJobs" ["POST"], "/v2/{function}/pause" "Begins no further attempt." [], Nothing, (200, "JobsPaused");
    Resume "resumeJobs" ["POST"], "/v2/{function}/resume" "Lets the queue go on." [], Nothing, (200, "JobsPaused");
    Health "getJobsHealth" ["GET", "POST"], "/v2/{function}/health" "Counts jobs by state, and says why they wait."
        [], Nothing, (200, "JobsHealth");
    List "listJobs" ["GET", "POST"], "/v2/{function}/jobs" "Lists the jobs that are kept, oldest first."
        [Limit, Cursor, State], Nothing, (200, "JobsListed");
    Log "readJobLog" ["GET"], "/v2/{function}/jobs/{id}/logs" "Returns the log lines of all attempts of a job."
        [], Nothing, (200, "LogLines");
    Webhooks "listDeliveries" ["GET"], "/v2/{function}/webhooks"
        "Lists the deliveries that are pending or were given up." [Limit, Cursor, Delivery], Nothing,
        (200, "DeliveriesListed");
    Redeliver "redeliver" ["POST"], "/v2/{function}/webhooks/{id}/redeliver" "Delivers a result now."
        [], Nothing, (200, "Delivery");
    DropWebhook "dropDelivery" ["DELETE"], "/v2/{function}/webhooks/{id}" "Gives up a delivery for good."
        [], Nothing, (200, "DeliveryDropped");
    ListBatches "listBatches" ["GET"], "/v2/{function}/batches" "Lists the batches, oldest first."
        [Limit, Cursor], Nothing, (200, "BatchesListed");
    MakeBatch "makeBatch" ["POST"], "/v2/{function}/batches" "Makes a batch of many inputs."
        [Name, More, Webhook], Lines("BatchRequest"), (200, "Batch");
    GetBatch "getBatch" ["GET"], "/v2/{function}/batches/{id}" "Returns a batch." [], Nothing, (200, "Batch");
    BatchResults "readBatchResults" ["GET"], "/v2/{function}/batches/{id}/results"
        "Returns a line for each item that has ended, in the order of the items." [From], Nothing, (200, "");
    AddItems "addBatchItems" ["POST"], "/v2/{function}/batches/{id}/items" "Adds items to a batch."
        [], Lines("ItemsRequest"), (200, "Batch");
    CloseBatch "closeBatch" ["POST"], "/v2/{function}/batches/{id}/close" "Closes a batch: it takes no more items."
        [], Nothing, (200, "Batch");
    CancelBatch "cancelBatch" ["POST"], "/v2/{function}/batches/{id}/cancel" "Cancels the items of a batch that wait."
        [], Nothing, (200, "Batch");
    RetryBatch "retryBatch" ["POST"], "/v2/{function}/batches/{id}/retry"
        "Puts the failed items of a batch into the queue again." [], Nothing, (200, "BatchRetried");
    ListSchedules "listSchedules" ["GET"], "/v2/{function}/schedules" "Lists the schedules." [], Nothing,
        (200, "SchedulesListed");
    MakeSchedule "makeSchedule" ["POST"], "/v2/{function}/schedules" "Makes a schedule, or changes one that was made here."
        [], Json("ScheduleRequest"), (200, "ScheduleShown");
    RunSchedule "runSchedule" ["POST"], "/v2/{function}/schedules/{name}/run" "Makes the job of a schedule now."
        [], Nothing, (200, "ScheduleStarted");
    DeleteSchedule "deleteSchedule" ["DELETE"], "/v2/{function}/schedules/{name}" "Deletes a schedule that was made here."
        [], Nothing, (200, "JobsDeleted");
    ListHooks "listHooks" ["GET"], "/v2/{function}/hooks" "Lists the hooks, without their URLs." [], Nothing,
        (200, "HooksListed");
    MakeHook "makeHook" ["POST"], "/v2/{function}/hooks"
        "Makes a hook; its URL and its secret are returned only this once." [], Json("NewHook"), (200, "HookMade");
    RotateHook "rotateHook" ["POST"], "/v2/{function}/hooks/{name}/rotate" "Replaces the URL or the secret of a hook."
        [], MaybeJson("RotateHook"), (200, "HookMade");
    DeleteHook "deleteHook" ["DELETE"], "/v2/{function}/hooks/{name}" "Deletes a hook." [], Nothing, (200, "JobsDeleted");
    PostEvent "postEvent" ["POST"], "/hooks/{tenant}/{function}/{name}/{token}"
        "Posts an event to a hook, which makes a job. Needs no key." [], Any, (202, "EventAccepted");
}
