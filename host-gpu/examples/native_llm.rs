//! The work of `functions/chat`, written directly on wgpu, with the same kernels, but without hardening, sandbox, quota
//! or server. It is a baseline of `scripts/bench`. `native_llm FILE.gguf PROMPT TOKENS` reads PROMPT made-up tokens,
//! then generates TOKENS more, always the likeliest, and prints the nanoseconds of both phases, three times.
//!
//! It is a typical hand-written program: the weights are one buffer, pipelines and bind groups are created once, and
//! each token is encoded again, as wgpu requires, and read back.
#![expect(clippy::print_stdout, clippy::unwrap_used, clippy::indexing_slicing, reason = "a program for measuring")]

use gannet_sdk::nn::{DType, Gguf, Rope, Value, wgsl};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::mpsc;
use std::time::Instant;
use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferUsages, ComputePipeline, Device,
    Queue,
};

const CHUNK: usize = 64;

fn wait<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// A device, and the pipelines that were created on it.
struct Gpu {
    device: Device,
    queue: Queue,
    /// Whether to use the `rows` kernels, which are for software drivers.
    rows: bool,
    kernels: RefCell<HashMap<(usize, &'static str), ComputePipeline>>,
}

/// One dispatch.
struct Step {
    pipeline: ComputePipeline,
    group: BindGroup,
    grid: [u32; 2],
}

fn open() -> Gpu {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = wait(instance.enumerate_adapters(wgpu::Backends::all()));
    let adapter = adapters.iter().min_by_key(|a| a.get_info().device_type == wgpu::DeviceType::Cpu).unwrap();
    let (device, queue) = wait(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: wgpu::Features::SUBGROUP,
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    }))
    .unwrap();
    let rows = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
    Gpu { device, queue, rows, kernels: RefCell::default() }
}

impl Gpu {
    fn storage(&self, bytes: u64) -> Buffer {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let size = bytes.next_multiple_of(16);
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    fn words(&self, words: &[u32]) -> Buffer {
        let buffer = self.storage(words.len() as u64 * 4);
        self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
        buffer
    }

    fn step(
        &self,
        (source, entry): (&'static str, &'static str),
        bound: &[BindingResource<'_>],
        grid: [u32; 2],
    ) -> Step {
        let device = &self.device;
        let mut kernels = self.kernels.borrow_mut();
        let pipeline = kernels.entry((source.as_ptr().addr(), entry)).or_insert_with(|| {
            // naga knows the subgroup operations but not yet the directive.
            let source = wgpu::ShaderSource::Wgsl(source.replace("enable subgroups;", "").into());
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: None,
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
        });
        let entries =
            (0u32..).zip(bound).map(|(binding, resource)| BindGroupEntry { binding, resource: resource.clone() });
        let entries: Vec<_> = entries.collect();
        let layout = &pipeline.get_bind_group_layout(0);
        let group = device.create_bind_group(&BindGroupDescriptor { label: None, layout, entries: &entries });
        Step { pipeline: pipeline.clone(), group, grid }
    }
}

fn whole(buffer: &Buffer) -> BindingResource<'_> {
    buffer.as_entire_binding()
}

/// The dimensions of the model, as in functions/chat/src/llama.rs.
struct Shape {
    layers: u32,
    width: u32,
    heads: u32,
    kv_heads: u32,
    middle: u32,
    vocabulary: u32,
    epsilon: f32,
    rope: Rope,
}

/// The dispatches for `tokens` tokens, and the buffers that change from one submission to the next.
struct Recorded {
    steps: Vec<Step>,
    /// Steps after the copy of the last token's row.
    head: Vec<Step>,
    x: Buffer,
    last: Buffer,
    tokens: u32,
    ids: Buffer,
    angles: Buffer,
    places: Buffer,
    spans: Buffer,
    logits: Buffer,
    readback: Buffer,
}

struct Model {
    gpu: Gpu,
    gguf: Gguf,
    weights: Buffer,
    shape: Shape,
    cache: Vec<[Buffer; 2]>,
}

const ADD: u32 = 4;

impl Model {
    fn weight(&self, name: &str) -> (BindingResource<'_>, DType, [u32; 2]) {
        let tensor = self.gguf.tensor(name).unwrap();
        let size = (tensor.range.end - tensor.range.start).next_multiple_of(4);
        let (buffer, offset) = (&self.weights, tensor.range.start);
        let binding = BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: size.try_into().ok() });
        let [rows, inner] = match tensor.shape.as_slice() {
            [rows, inner] => [*rows as u32, *inner as u32],
            _ => [1, tensor.shape[0] as u32],
        };
        (binding, tensor.dtype, [rows, inner])
    }

    fn linear(&self, name: &str, x: &Buffer, y: &Buffer, tokens: u32, flags: u32) -> Step {
        let (weights, dtype, [rows, inner]) = self.weight(name);
        let source = match (dtype, self.gpu.rows) {
            (DType::Q4_1, true) => wgsl::Q4_1_ROWS,
            (DType::Q4_1, false) => wgsl::Q4_1_LANES,
            (DType::Q8_0, true) => wgsl::Q8_0_ROWS,
            (DType::Q8_0, false) => wgsl::Q8_0_LANES,
            other => unreachable!("{other:?} is none of this file's"),
        };
        // The same choice as in the SDK.
        let (entry, at_once) = match (self.gpu.rows, tokens) {
            (_, ..=3) => ("vector", 1),
            (true, _) if tokens.div_ceil(32) * 8 <= tokens.div_ceil(16) * 5 => ("wide", 32),
            (true, _) => ("matrix", 16),
            (false, _) => ("matrix", 8),
        };
        let grid = [rows.div_ceil(if self.gpu.rows { 128 } else { 4 }), tokens.div_ceil(at_once)];
        let (nothing, shape) =
            (self.gpu.words(&[0; 4]), self.gpu.words(&[rows, inner, tokens, inner / 4, rows, flags]));
        let bound = [weights, whole(x), whole(&nothing), whole(&shape), whole(y)];
        self.gpu.step((source, entry), &bound, grid)
    }

    fn norm(&self, name: &str, x: &Buffer, y: &Buffer, tokens: u32) -> Step {
        let shape = self.gpu.words(&[self.shape.width, self.shape.epsilon.to_bits()]);
        let bound = [whole(x), self.weight(name).0, whole(&shape), whole(y)];
        self.gpu.step((wgsl::NORM, "rms"), &bound, [tokens, 1])
    }

    fn record(&self, tokens: u32) -> Recorded {
        let Shape { width, heads, kv_heads, middle, vocabulary, .. } = self.shape;
        let size = width / heads;
        let values = |width: u32| self.gpu.storage(u64::from(tokens) * u64::from(width) * 4);
        let (x, normed, q, found) = (values(width), values(width), values(width), values(width));
        let (k, v) = (values(kv_heads * size), values(kv_heads * size));
        let (gate, up) = (values(middle), values(middle));
        let (last, logits) = (self.gpu.storage(u64::from(width) * 4), self.gpu.storage(u64::from(vocabulary) * 4));
        let (ids, places, spans, angles) = (values(1), values(1), values(2), values(size));

        let (embedding, dtype, [rows, inner]) = self.weight("token_embd.weight");
        assert_eq!(dtype, DType::Q8_0);
        let shape = self.gpu.words(&[rows, inner, tokens, 0]);
        let bound = [embedding, whole(&ids), whole(&shape), whole(&x)];
        let mut steps =
            vec![self.gpu.step((wgsl::Q8_0_GATHER, "gather"), &bound, [(tokens * inner / 32).div_ceil(64), 1])];
        for (n, [keys, kept]) in self.cache.iter().enumerate() {
            let of = |name: &str| format!("blk.{n}.{name}.weight");
            steps.push(self.norm(&of("attn_norm"), &x, &normed, tokens));
            for (name, y) in [("attn_q", &q), ("attn_k", &k), ("attn_v", &v)] {
                steps.push(self.linear(&of(name), &normed, y, tokens, 0));
            }
            let shape = self.gpu.words(&[heads, kv_heads, size, tokens, 0]);
            let bound = [&q, &k, &v, &angles, &places, &shape, keys, kept].map(whole);
            let groups = ((heads + kv_heads) * size / 2).div_ceil(64);
            steps.push(self.gpu.step((wgsl::ROPE, "rotate"), &bound, [groups, tokens]));
            let shape = self.gpu.words(&[heads, kv_heads, size, (1.0 / (size as f32).sqrt()).to_bits(), tokens]);
            let bound = [&q, keys, kept, &spans, &shape, &found].map(whole);
            let (source, grid) = match self.gpu.rows {
                true => (wgsl::ATTENTION_ROWS, [kv_heads, (tokens * heads / kv_heads).div_ceil(8)]),
                false => (wgsl::ATTENTION, [heads, tokens]),
            };
            steps.push(self.gpu.step((source, "attend"), &bound, grid));
            steps.push(self.linear(&of("attn_output"), &found, &x, tokens, ADD));
            steps.push(self.norm(&of("ffn_norm"), &x, &normed, tokens));
            steps.push(self.linear(&of("ffn_gate"), &normed, &gate, tokens, 0));
            steps.push(self.linear(&of("ffn_up"), &normed, &up, tokens, 0));
            let bound = [&gate, &up].map(whole);
            steps.push(self.gpu.step((wgsl::ACTIVATION, "swiglu"), &bound, [(tokens * middle).div_ceil(64), 1]));
            steps.push(self.linear(&of("ffn_down"), &gate, &x, tokens, ADD));
        }
        let head = vec![
            self.norm("output_norm.weight", &last, &normed, 1),
            self.linear("token_embd.weight", &normed, &logits, 1, 0),
        ];
        let readback = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(vocabulary) * 4,
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Recorded { steps, head, x, last, tokens, ids, angles, places, spans, logits, readback }
    }

    /// Reads tokens that follow `read` earlier ones, and returns the likeliest next token.
    fn run(&self, recorded: &Recorded, read: u32, tokens: &[u32]) -> u32 {
        let (queue, size) = (&self.gpu.queue, self.shape.width / self.shape.heads);
        let positions: Vec<u32> = (read..read + recorded.tokens).collect();
        let angles: Vec<[f32; 2]> = positions.iter().flat_map(|at| self.shape.rope.angles(size, *at)).collect();
        let spans: Vec<[u32; 2]> = positions.iter().map(|at| [0, at + 1]).collect();
        queue.write_buffer(&recorded.ids, 0, bytemuck::cast_slice(tokens));
        queue.write_buffer(&recorded.angles, 0, bytemuck::cast_slice(&angles));
        queue.write_buffer(&recorded.places, 0, bytemuck::cast_slice(&positions));
        queue.write_buffer(&recorded.spans, 0, bytemuck::cast_slice(&spans));
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let pass = |encoder: &mut wgpu::CommandEncoder, steps: &[Step]| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for step in steps {
                pass.set_pipeline(&step.pipeline);
                pass.set_bind_group(0, &step.group, &[]);
                pass.dispatch_workgroups(step.grid[0], step.grid[1], 1);
            }
        };
        pass(&mut encoder, &recorded.steps);
        let row = u64::from(self.shape.width) * 4;
        encoder.copy_buffer_to_buffer(&recorded.x, u64::from(recorded.tokens - 1) * row, &recorded.last, 0, row);
        pass(&mut encoder, &recorded.head);
        encoder.copy_buffer_to_buffer(&recorded.logits, 0, &recorded.readback, 0, recorded.readback.size());
        let index = queue.submit([encoder.finish()]);
        let (sender, mapped) = mpsc::channel();
        recorded.readback.map_async(wgpu::MapMode::Read, .., move |result| sender.send(result).unwrap());
        self.gpu.device.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None }).unwrap();
        mapped.recv().unwrap().unwrap();
        let view = recorded.readback.get_mapped_range(..).unwrap();
        let logits: &[f32] = bytemuck::cast_slice(&view);
        let best = logits.iter().zip(0u32..).max_by(|a, b| a.0.total_cmp(b.0)).unwrap().1;
        drop(view);
        recorded.readback.unmap();
        best
    }
}

fn load(path: &str, room: u32) -> Model {
    let gpu = open();
    let length = std::fs::metadata(path).unwrap().len();
    let gguf = Gguf::read(&mut BufReader::new(File::open(path).unwrap()), length).unwrap();
    let weights = gpu.storage(length);
    let (mut file, mut chunk, mut at) = (File::open(path).unwrap(), vec![0; 4 << 20], 0);
    loop {
        let read = file.read(&mut chunk).unwrap();
        if read == 0 {
            break;
        }
        chunk[read..].fill(0);
        gpu.queue.write_buffer(&weights, at, &chunk[..read.next_multiple_of(4)]);
        gpu.queue.submit([]);
        at += read as u64;
    }
    let number = |name: &str| gguf.integer(name).unwrap();
    let float = |name: &str| gguf.get(name).and_then(Value::float).unwrap();
    let shape = Shape {
        layers: number("llama.block_count"),
        width: number("llama.embedding_length"),
        heads: number("llama.attention.head_count"),
        kv_heads: number("llama.attention.head_count_kv"),
        middle: number("llama.feed_forward_length"),
        vocabulary: gguf.tensor("token_embd.weight").unwrap().shape[0] as u32,
        epsilon: float("llama.attention.layer_norm_rms_epsilon") as f32,
        rope: Rope { base: float("llama.rope.freq_base"), halves: false },
    };
    let bytes = u64::from(room) * u64::from(shape.kv_heads * (shape.width / shape.heads)) * 4;
    let cache = (0..shape.layers).map(|_| [gpu.storage(bytes), gpu.storage(bytes)]).collect();
    Model { gpu, gguf, weights, shape, cache }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (prompt, tokens): (usize, usize) = (arguments[2].parse().unwrap(), arguments[3].parse().unwrap());
    let model = load(&arguments[1], (prompt + tokens) as u32);
    let one = model.record(1);
    for round in 0..4 {
        let began = Instant::now();
        let ids: Vec<u32> = (0..prompt as u32).map(|n| 1000 + n * 7).collect();
        let (mut read, mut next) = (0u32, 0);
        for chunk in ids.chunks(CHUNK) {
            let recorded = model.record(chunk.len() as u32);
            next = model.run(&recorded, read, chunk);
            read += chunk.len() as u32;
        }
        let prompt_ns = began.elapsed().as_nanos();
        let began = Instant::now();
        let mut made = vec![next];
        for _ in 1..tokens {
            next = model.run(&one, read, &[next]);
            read += 1;
            made.push(next);
        }
        // The first round is not printed, because it compiles.
        if round > 0 {
            println!("{prompt_ns} {} {made:?}", began.elapsed().as_nanos());
        }
    }
    // Dropping the device would wait for the GPU without a limit, and drivers' exit handlers have crashed.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}
