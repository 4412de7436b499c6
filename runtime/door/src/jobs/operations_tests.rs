//! Checks that the table of all calls and the calls that are found by path and method are the same.

use super::batches::BatchCall;
use super::call::JobCall;
use super::hooks;
use super::named_call::NamedCall;
use super::operations::{JOB_OPERATIONS, JobOperation};
use super::schedules;
use crate::route::{hook_path, job_path};
use http::Method;

/// Returns the call that a path and a method make.
fn found(path: &str, method: &Method) -> Option<JobOperation> {
    if hook_path(path).is_some() {
        return (*method == Method::POST).then_some(JobOperation::PostEvent);
    }
    let path = job_path(path)?;
    match path.call {
        "batches" => BatchCall::find(path.rest, method).ok().map(BatchCall::operation),
        "schedules" => NamedCall::find(path.rest, method, schedules::ACTION).ok().map(schedules::operation),
        "hooks" => NamedCall::find(path.rest, method, hooks::ACTION).ok().map(hooks::operation),
        _ => JobCall::find(&path, method).ok().map(JobCall::operation),
    }
}

#[test]
fn every_call_of_the_job_api_is_in_the_table_with_all_its_methods() {
    let fill = |path: &str| {
        let id = "01890000-0000-7000-8000-000000000000";
        let names = [("{function}", "f"), ("{tenant}", "t"), ("{name}", "n"), ("{token}", "x"), ("{id}", id)];
        names.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value))
    };
    for path in JOB_OPERATIONS.iter().map(|row| row.path) {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let row = JOB_OPERATIONS.iter().find(|row| row.path == path && row.methods.contains(&method.as_str()));
            assert_eq!(found(&fill(path), &method), row.map(|row| row.op), "{method} {path}");
        }
    }
    assert!(JOB_OPERATIONS.iter().all(|row| row.op.name() == row.name));
}
