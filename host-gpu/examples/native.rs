//! The work of `functions/measure` and of `blur`, written directly on wgpu without sandbox, quota or server. It is the
//! baseline of `scripts/bench`. `native NAME ROUNDS` prints the nanoseconds of each round, one per line.
//!
//! It is a typical hand-written program: buffers, pipelines and bind groups are created once, one thread submits and
//! polls, and each submission is timed by timestamps.
#![expect(clippy::print_stdout, clippy::unwrap_used, clippy::indexing_slicing, reason = "a program for measuring")]

use std::sync::mpsc;
use std::time::Instant;
use wgpu::{Buffer, BufferUsages, CommandBuffer, CommandEncoder, ComputePipeline, Device, Queue};

const ADD: &str = include_str!("../../functions/measure/src/add.wgsl");
const MATMUL: &str = include_str!("../../functions/measure/src/matmul.wgsl");
/// Each of 2¹⁶ invocations does 2048 rounds of a multiplication and an addition on each of 8 vec4.
const PEAK: &str = "
@group(0) @binding(0) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.y * groups.x * 64u + id.x;
    let x = vec4<f32>(f32(at) * 1e-9 + 0.999);
    var a = x;
    var b = x * 0.5;
    var c = x * 0.25;
    var d = x * 0.125;
    var e = x * 2.0;
    var f = x * 4.0;
    var g = x * 8.0;
    var h = x * 16.0;
    for (var i = 0u; i < 2048u; i++) {
        a = fma(a, x, x);
        b = fma(b, x, x);
        c = fma(c, x, x);
        d = fma(d, x, x);
        e = fma(e, x, x);
        f = fma(f, x, x);
        g = fma(g, x, x);
        h = fma(h, x, x);
    }
    let all = a + b + c + d + e + f + g + h;
    out[at] = all.x + all.y + all.z + all.w;
}
";
const BLUR: &str = include_str!("../../functions/blur/src/blur.wgsl");

/// Work for the GPU thread: bytes to upload first, the commands, and the channel for the bytes that are read back.
type Job = (Option<Vec<u8>>, CommandBuffer, mpsc::Sender<Vec<u8>>);

struct Bench {
    device: Device,
    jobs: mpsc::Sender<Job>,
    queries: wgpu::QuerySet,
    resolved: Buffer,
    readback: Buffer,
    size: u64,
}

fn wait<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

fn open() -> (Device, Queue) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = wait(instance.enumerate_adapters(wgpu::Backends::all()));
    let adapter = adapters.iter().min_by_key(|a| a.get_info().device_type == wgpu::DeviceType::Cpu).unwrap();
    wait(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS,
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    }))
    .unwrap()
}

fn buffer(device: &Device, size: u64, usage: BufferUsages) -> Buffer {
    device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}

fn storage(device: &Device, size: u64) -> Buffer {
    buffer(device, size, BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST)
}

impl Bench {
    /// `target` receives each job's upload; `size` bytes are read back.
    fn new(device: Device, queue: Queue, target: Buffer, size: u64) -> Self {
        let readback = buffer(&device, 16 + size, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        let resolved = buffer(&device, 16, BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC);
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (polled, mapped) = (device.clone(), readback.clone());
        std::thread::spawn(move || {
            for (upload, commands, done) in inbox {
                if let Some(bytes) = &upload {
                    queue.write_buffer(&target, 0, bytes);
                }
                let index = queue.submit([commands]);
                mapped.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
                polled.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None }).unwrap();
                let bytes = {
                    let view = mapped.get_mapped_range(..).unwrap();
                    let tick = |at: usize| u64::from_le_bytes(view[at..at + 8].try_into().unwrap());
                    assert!(tick(8) > tick(0), "timestamps are there");
                    view[16..].to_vec()
                };
                mapped.unmap();
                done.send(bytes).unwrap();
            }
        });
        Self { device, jobs, queries, resolved, readback, size }
    }

    fn run(&self, upload: Option<Vec<u8>>, result: &Buffer, record: impl FnOnce(&mut CommandEncoder)) -> Vec<u8> {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.write_timestamp(&self.queries, 0);
        record(&mut encoder);
        encoder.copy_buffer_to_buffer(result, 0, &self.readback, 16, self.size);
        encoder.write_timestamp(&self.queries, 1);
        encoder.resolve_query_set(&self.queries, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readback, 0, 16);
        let (done, finished) = mpsc::channel();
        self.jobs.send((upload, encoder.finish(), done)).unwrap();
        finished.recv().unwrap()
    }
}

fn pipeline(device: &Device, wgsl: &str, entry: &str) -> ComputePipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(wgsl.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some(entry),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    })
}

fn group(device: &Device, pipeline: &ComputePipeline, buffers: &[&Buffer]) -> wgpu::BindGroup {
    let entries: Vec<_> = (0u32..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let layout = pipeline.get_bind_group_layout(0);
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
}

type Step<'a> = (&'a ComputePipeline, &'a wgpu::BindGroup, [u32; 3]);

fn dispatch(encoder: &mut CommandEncoder, steps: &[Step<'_>]) {
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    for (pipeline, group, [x, y, z]) in steps {
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, *group, &[]);
        pass.dispatch_workgroups(*x, *y, *z);
    }
}

fn grid(count: u64) -> [u32; 3] {
    let groups = u32::try_from(count.div_ceil(64)).unwrap();
    let x = groups.min(1024);
    [x, groups.div_ceil(x), 1]
}

fn timed(rounds: usize, mut round: impl FnMut()) {
    for _ in 0..rounds {
        let began = Instant::now();
        round();
        println!("{}", began.elapsed().as_nanos());
    }
}

fn transfer(count: u64, rounds: usize) {
    let (device, queue) = open();
    let (source, result) = (storage(&device, count * 4), storage(&device, count * 4));
    let add = pipeline(&device, ADD, "main");
    let bound = group(&device, &add, &[&source, &result]);
    let bench = Bench::new(device, queue, source, count * 4);
    let values = vec![7u32; usize::try_from(count).unwrap()];
    timed(rounds, || {
        let upload = bytemuck::cast_slice(&values).to_vec();
        let back = bench.run(Some(upload), &result, |encoder| dispatch(encoder, &[(&add, &bound, grid(count))]));
        assert_eq!(back[back.len() - 4..], [8, 0, 0, 0]);
    });
}

fn many(rounds: usize) {
    let (device, queue) = open();
    let (one, two) = (storage(&device, 1024), storage(&device, 1024));
    let add = pipeline(&device, ADD, "main");
    let (there, back) = (group(&device, &add, &[&one, &two]), group(&device, &add, &[&two, &one]));
    let bench = Bench::new(device, queue, one.clone(), 1024);
    let steps: Vec<Step<'_>> = (0..300).map(|n| (&add, if n % 2 == 0 { &there } else { &back }, grid(256))).collect();
    timed(rounds, || drop(bench.run(None, &one, |encoder| dispatch(encoder, &steps))));
}

fn matmul(rounds: usize) {
    let (device, queue) = open();
    let bytes = 1024 * 1024 * 4;
    let (a, b, c) = (storage(&device, bytes), storage(&device, bytes), storage(&device, bytes));
    let size = storage(&device, 16);
    queue.write_buffer(&a, 0, bytemuck::cast_slice(&vec![1.0f32; 1024 * 1024]));
    queue.write_buffer(&b, 0, bytemuck::cast_slice(&vec![2.0f32; 1024 * 1024]));
    queue.write_buffer(&size, 0, bytemuck::cast_slice(&[1024u32, 1024, 1024, 0]));
    let multiply = pipeline(&device, MATMUL, "main");
    let bound = group(&device, &multiply, &[&a, &b, &c, &size]);
    let bench = Bench::new(device, queue, a.clone(), bytes);
    timed(rounds, || {
        let back = bench.run(None, &c, |encoder| dispatch(encoder, &[(&multiply, &bound, [64, 64, 1])]));
        assert_eq!(back[back.len() - 4..], 2048.0f32.to_le_bytes());
    });
}

/// Both passes of the blur over 512 × 512 pixels with radius 12.
fn blur(rounds: usize) {
    let (device, queue) = open();
    let bytes = 512 * 512 * 4;
    let (pixels, half) = (storage(&device, bytes), storage(&device, bytes));
    let settings = storage(&device, 16);
    queue.write_buffer(&settings, 0, bytemuck::cast_slice(&[512u32, 512, 12, 6.0f32.to_bits()]));
    let (horizontal, vertical) = (pipeline(&device, BLUR, "horizontal"), pipeline(&device, BLUR, "vertical"));
    let there = group(&device, &horizontal, &[&pixels, &half, &settings]);
    let back = group(&device, &vertical, &[&half, &pixels, &settings]);
    let bench = Bench::new(device, queue, pixels.clone(), bytes);
    let image = vec![100u8; usize::try_from(bytes).unwrap()];
    timed(rounds, || {
        let steps = [(&horizontal, &there, [64, 64, 1]), (&vertical, &back, [64, 64, 1])];
        drop(bench.run(Some(image.clone()), &pixels, |encoder| dispatch(encoder, &steps)));
    });
}

/// Copies a hundred million bytes from host memory to the device through two staging buffers in turn, as assets are
/// uploaded. `fresh`: into a new buffer each time, whose memory the system has not allocated yet.
fn upload(rounds: usize, fresh: bool) {
    const PART: usize = 4 << 20;
    let (device, queue) = open();
    let bytes = vec![7u8; 100_000_000];
    let mut target = storage(&device, bytes.len() as u64);
    let through = [0; 2].map(|_| buffer(&device, PART as u64, BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC));
    let mut sent = [None, None];
    timed(rounds, || {
        if fresh {
            target = storage(&device, bytes.len() as u64);
        }
        for (turn, part) in bytes.chunks(PART).enumerate() {
            let (from, sent) = (&through[turn % 2], &mut sent[turn % 2]);
            if let Some(index) = sent.take() {
                device.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None }).unwrap();
            }
            let (mapped, ready) = mpsc::channel();
            from.map_async(wgpu::MapMode::Write, .., move |result| mapped.send(result).unwrap());
            device.poll(wgpu::PollType::Poll).unwrap();
            ready.recv().unwrap().unwrap();
            from.get_mapped_range_mut(..part.len() as u64).unwrap().slice(..).copy_from_slice(part);
            from.unmap();
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(from, 0, &target, (turn * PART) as u64, part.len() as u64);
            *sent = Some(queue.submit([encoder.finish()]));
        }
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    });
}

/// Copies a hundred million bytes from one buffer of the device to another. Each byte is read and written.
fn copy(rounds: usize) {
    let (device, queue) = open();
    let (one, two) = (storage(&device, 100_000_000), storage(&device, 100_000_000));
    timed(rounds, || {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&one, 0, &two, 0, 100_000_000);
        let index = queue.submit([encoder.finish()]);
        device.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None }).unwrap();
    });
}

/// Multiplications and additions in registers, 2³³ of both together: the peak throughput of the device in f32.
fn peak(rounds: usize) {
    let (device, queue) = open();
    let (out, invocations) = (storage(&device, 4 << 16), 1u64 << 16);
    let fuse = pipeline(&device, PEAK, "main");
    let bound = group(&device, &fuse, &[&out]);
    let bench = Bench::new(device, queue, out.clone(), 4);
    timed(rounds, || drop(bench.run(None, &out, |encoder| dispatch(encoder, &[(&fuse, &bound, grid(invocations))]))));
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments.get(1).map(String::as_str).unwrap_or("small");
    let rounds = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(100);
    match name {
        "small" => transfer(256, rounds),
        "large" => transfer(4 << 20, rounds),
        "many" => many(rounds),
        "matmul" => matmul(rounds),
        "blur" => blur(rounds),
        "upload" => upload(rounds, false),
        "upload-fresh" => upload(rounds, true),
        "copy" => copy(rounds),
        "peak" => peak(rounds),
        other => {
            println!("there are small, large, many, matmul, blur, upload, upload-fresh, copy and peak, not {other}")
        }
    }
    // Dropping the queue would wait without a limit, and drivers' exit handlers have crashed while a thread still
    // polls.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}
