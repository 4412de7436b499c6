//! Implements `gannet:gpu/submission`: waiting for submissions and taking their reads.

use super::GpuCtxView;
use super::fault::GpuFault;
use super::interfaces::submission::{Clock as WitClock, Host, HostSubmission, Receipt as WitReceipt};
use crate::submission::{Finished, Receipt, Submission};
use crate::usage::Clock;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

impl Host for GpuCtxView<'_> {}

impl From<Receipt> for WitReceipt {
    fn from(receipt: Receipt) -> Self {
        let clock = match receipt.clock {
            Clock::Gpu => WitClock::Gpu,
            Clock::Wall => WitClock::Wall,
        };
        Self { gpu_ns: receipt.gpu_ns, slices: receipt.slices, clock }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Finished {
    async fn ready(&mut self) {
        Finished::ready(self).await;
    }
}

impl HostSubmission for GpuCtxView<'_> {
    async fn wait(&mut self, this: Resource<Submission>) -> Result<WitReceipt, GpuFault> {
        Ok(self.table.get_mut(&this)?.wait().await?.into())
    }

    async fn take_reads(&mut self, this: Resource<Submission>) -> wasmtime::Result<Vec<Vec<u8>>> {
        Ok(self.table.get_mut(&this)?.take_reads().await)
    }

    fn subscribe(&mut self, this: Resource<Submission>) -> wasmtime::Result<Resource<DynPollable>> {
        // The pollable gets an entry of its own in the table, because a guest with garbage-collected handles may drop
        // the submission first.
        let finished = self.table.get(&this)?.finished();
        let own = self.table.push(finished)?;
        subscribe(self.table, own)
    }

    fn drop(&mut self, this: Resource<Submission>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
