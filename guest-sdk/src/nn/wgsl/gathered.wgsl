// Sixteen invocations share a row. A subgroup of sixteen or more holds whole rows; one of eight, half of one, and the halves meet
// in workgroup memory.

var<workgroup> partial: array<f32, 64>;

// What the sixteen lanes of a row have found, together.
fn gathered(lane: u32, size: u32, own: f32) -> f32 {
    var sum = own;
    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    sum += subgroupShuffleXor(sum, 4u);
    let half = sum;
    sum += subgroupShuffleXor(half, 8u);
    workgroupBarrier();
    partial[lane] = half;
    workgroupBarrier();
    return select(partial[lane & 48u] + partial[(lane & 48u) + 8u], sum, size >= 16u);
}
