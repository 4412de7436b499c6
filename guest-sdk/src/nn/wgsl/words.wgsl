@group(0) @binding(0) var<storage, read> w: array<u32>;
