//! `declare!` puts the sources of kernels into a function's component, each under the name by which `Nn` opens it.

/// Declares kernels of [`nn`](crate::nn) for a function, so that the server checks and compiles them at deploy.
///
/// The arguments are the formats of its weights and the operations that it uses:
///
/// - `f32`, `f16`, `q8_0`, `q4_0`, `q4_1`, `q4_k`, `q6_k`: products with weights, and the gathering of their rows;
/// - `f32_half`, `f16_half` and so on: products in half precision too, for [`Nn::half`](crate::nn::Nn::half);
/// - `norm`, `rope`, `attention`, `activation`, `pool`, `top`, `softmax`: the operations.
///
/// ```
/// gannet_sdk::nn::declare!(q8_0, norm, attention);
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! __nn_declare {
    ($($name:ident),+ $(,)?) => { $( $crate::__nn_one!($name); )+ };
}

/// Declares the kernels of one argument of [`declare!`](crate::nn::declare!).
#[macro_export]
#[doc(hidden)]
macro_rules! __nn_one {
    (f32) => { $crate::__nn_record!("nn.f32.rows" F32_ROWS, "nn.f32.lanes" F32_LANES, "nn.f32.plain" F32_PLAIN, "nn.f32.gather" F32_GATHER); };
    (f16) => { $crate::__nn_record!("nn.f16.rows" F16_ROWS, "nn.f16.lanes" F16_LANES, "nn.f16.plain" F16_PLAIN, "nn.f16.gather" F16_GATHER); };
    (q8_0) => { $crate::__nn_record!("nn.q8_0.rows" Q8_0_ROWS, "nn.q8_0.lanes" Q8_0_LANES, "nn.q8_0.plain" Q8_0_PLAIN, "nn.q8_0.gather" Q8_0_GATHER); };
    (q4_0) => { $crate::__nn_record!("nn.q4_0.rows" Q4_0_ROWS, "nn.q4_0.lanes" Q4_0_LANES, "nn.q4_0.plain" Q4_0_PLAIN, "nn.q4_0.gather" Q4_0_GATHER); };
    (q4_1) => { $crate::__nn_record!("nn.q4_1.rows" Q4_1_ROWS, "nn.q4_1.lanes" Q4_1_LANES, "nn.q4_1.plain" Q4_1_PLAIN, "nn.q4_1.gather" Q4_1_GATHER); };
    (q4_k) => { $crate::__nn_record!("nn.q4_k.rows" Q4_K_ROWS, "nn.q4_k.lanes" Q4_K_LANES, "nn.q4_k.plain" Q4_K_PLAIN, "nn.q4_k.gather" Q4_K_GATHER); };
    (q6_k) => { $crate::__nn_record!("nn.q6_k.rows" Q6_K_ROWS, "nn.q6_k.lanes" Q6_K_LANES, "nn.q6_k.plain" Q6_K_PLAIN, "nn.q6_k.gather" Q6_K_GATHER); };
    (f32_half) => { $crate::__nn_record!("nn.f32.half" F32_HALF); };
    (f16_half) => { $crate::__nn_record!("nn.f16.half" F16_HALF); };
    (q8_0_half) => { $crate::__nn_record!("nn.q8_0.half" Q8_0_HALF); };
    (q4_0_half) => { $crate::__nn_record!("nn.q4_0.half" Q4_0_HALF); };
    (q4_1_half) => { $crate::__nn_record!("nn.q4_1.half" Q4_1_HALF); };
    (q4_k_half) => { $crate::__nn_record!("nn.q4_k.half" Q4_K_HALF); };
    (q6_k_half) => { $crate::__nn_record!("nn.q6_k.half" Q6_K_HALF); };
    (norm) => { $crate::__nn_record!("nn.norm" NORM); };
    (rope) => { $crate::__nn_record!("nn.rope" ROPE); };
    (attention) => { $crate::__nn_record!("nn.attention" ATTENTION, "nn.attention.rows" ATTENTION_ROWS); };
    (activation) => { $crate::__nn_record!("nn.activation" ACTIVATION); };
    (pool) => { $crate::__nn_record!("nn.pool" POOL); };
    (top) => { $crate::__nn_record!("nn.top" TOP); };
    (softmax) => { $crate::__nn_record!("nn.softmax" SOFTMAX); };
}

/// Puts records of kernels, each a name and a source, into the component, as [`kernel!`](crate::gpu::kernel!) does.
#[macro_export]
#[doc(hidden)]
macro_rules! __nn_record {
    ($($name:literal $source:ident),+) => { $(
        const _: () = {
            const WGSL: &str = $crate::nn::wgsl::$source;
            const LENGTH: usize = $crate::gpu::__record_length($name, WGSL);
            #[cfg_attr(target_arch = "wasm32", unsafe(link_section = "gannet:kernel"))]
            #[used]
            static RECORD: [u8; LENGTH] = $crate::gpu::__record::<LENGTH>($name, WGSL);
        };
    )+ };
}
