@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var stack: array<u32, 8>;
    var top = 0u;
    var pc = 0u;
    var fuel = 60u;
    loop {
        if fuel == 0u || top > 6u { break; }
        fuel--;
        let code = (input[(pc + at) % 256u] ^ at) % 5u;
        pc++;
        switch code {
            case 0u, 1u: { stack[top] = pc * at; top++; continue; }
            case 2u: { if top < 2u { continue; } top--; stack[top - 1u] += stack[top]; }
            case 3u: { if top == 0u { break; } stack[top - 1u] *= 3u; }
            default: { if top > 3u { top = 1u; } }
        }
        continuing { break if pc > 90u; }
    }
    output[at] = stack[0] + top * 7u + pc;
}
