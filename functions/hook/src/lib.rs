//! Computes on the events of a hook: a signed event comes in and becomes a job, and the job's result goes out,
//! signed too. The server does all of that; this function only computes.
//!
//! ```text
//!  a source ── POST /hooks/…, signed ──▶ server: verified, once for each delivery ─▶ job ─▶ this function
//!  a receiver ◀── POST, signed with the tenant's secret ── server ◀── the output ─────────────────┘
//! ```
//!
//! An event is `{"sensor": "s1", "readings": [1, 2, …], "width": 2}`; a form or a text of numbers, separated by commas,
//! spaces or lines, is one too. The output has the readings smoothed on the GPU: each is the mean of itself and at most
//! `width` neighbours on either side.

use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result, gpu};
use serde::Deserialize;
use serde_json::{Value, json};

/// The most readings of one event.
const READINGS_MAX: usize = 1 << 20;
/// The most neighbours on either side.
const WIDTH_MAX: u32 = 64;

#[derive(Deserialize)]
struct Job {
    input: Delivery,
}

/// An event, as the server passes it on.
#[derive(Deserialize)]
struct Delivery {
    /// The name of the hook. Missing if a client submitted the job, and no hook made it.
    hook: Option<String>,
    encoding: String,
    body: Value,
}

#[derive(Deserialize)]
struct Event {
    sensor: Option<String>,
    readings: Vec<f32>,
    #[serde(default = "two")]
    width: u32,
}

fn two() -> u32 {
    2
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(400, why)
}

/// Reads an event: JSON, or a text of numbers.
fn event(delivery: Delivery) -> Result<Event> {
    let event = match (delivery.encoding.as_str(), delivery.body) {
        ("json", body) => serde_json::from_value(body).map_err(|error| refused(format!("no event: {error}")))?,
        ("text", Value::String(text)) => {
            let numbers = text.split([',', ' ', '\n', '\r', '\t']).filter(|number| !number.is_empty());
            let read = |number: &str| number.parse().map_err(|_| refused(format!("{number:.40?} is no number")));
            Event { sensor: None, readings: numbers.map(read).collect::<Result<_>>()?, width: two() }
        }
        (other, _) => return Err(refused(format!("a body of {other} is no event"))),
    };
    let (count, width) = (event.readings.len(), event.width);
    if !(1..=READINGS_MAX).contains(&count) {
        return Err(refused(format!("the event has {count} readings; it may have 1 to {READINGS_MAX}")));
    }
    if width > WIDTH_MAX {
        return Err(refused(format!("width = {width}; it may be 0 to {WIDTH_MAX}")));
    }
    Ok(event)
}

fn smooth(readings: &[f32], width: u32) -> Result<Vec<f32>> {
    let count = readings.len() as u32;
    let values = gpu::Buffer::from_slice(readings)?;
    let means = gpu::Buffer::<f32>::zeroed(readings.len())?;
    let params = gpu::uniform(&[count, width, 0, 0]);
    let kernel = gpu::kernel!("smooth.wgsl").open()?;
    let mut batch = gpu::Batch::new();
    batch.dispatch(&kernel, (&values, &means, params), gpu::grid_1d(count, 64))?;
    let read = batch.read(&means)?;
    Ok(batch.submit()?.wait()?.take(&read))
}

#[gannet_sdk::handler]
fn hook(request: Request) -> Result<Response> {
    let job: Job = serde_json::from_slice(request.body()).map_err(|error| refused(error.to_string()))?;
    let source = job.input.hook.clone();
    let event = event(job.input)?;
    let smoothed = smooth(&event.readings, event.width)?;
    let mean = smoothed.iter().map(|value| f64::from(*value)).sum::<f64>() / smoothed.len() as f64;
    println!("{} readings of {:?} from {source:?}", smoothed.len(), event.sensor);
    let output = json!({ "source": source, "sensor": event.sensor, "mean": mean, "smoothed": smoothed });
    Ok(Response::json(output.to_string()))
}
