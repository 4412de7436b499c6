//! The sources of the kernels. Kernels that read weights are put together from parts: one for the format of the
//! weights, one for the operation, and one for how invocations share the work.

macro_rules! formats {
    ($($rows:ident $lanes:ident $half:ident $plain:ident $gather:ident: $($part:literal),+;)+) => { $(
        #[doc(hidden)]
        pub const $rows: &str = concat!(
            "enable subgroups;\n",
            $(include_str!($part), "\n",)+
            include_str!("wgsl/matmul.wgsl"), "\n",
            include_str!("wgsl/matmul_rows.wgsl"),
        );
        #[doc(hidden)]
        pub const $lanes: &str = concat!(
            "enable subgroups;\n",
            $(include_str!($part), "\n",)+
            include_str!("wgsl/matmul.wgsl"), "\n",
            include_str!("wgsl/gathered.wgsl"), "\n",
            include_str!("wgsl/matmul_lanes.wgsl"),
        );
        #[doc(hidden)]
        pub const $half: &str = concat!(
            "enable subgroups;\nenable f16;\n",
            $(include_str!($part), "\n",)+
            include_str!("wgsl/matmul.wgsl"), "\n",
            include_str!("wgsl/gathered.wgsl"), "\n",
            include_str!("wgsl/matmul_half.wgsl"),
        );
        #[doc(hidden)]
        pub const $plain: &str = concat!(
            $(include_str!($part), "\n",)+
            include_str!("wgsl/matmul.wgsl"), "\n",
            include_str!("wgsl/matmul_plain.wgsl"),
        );
        #[doc(hidden)]
        pub const $gather: &str = concat!($(include_str!($part), "\n",)+ include_str!("wgsl/gather.wgsl"));
    )+ };
}

formats! {
    F32_ROWS F32_LANES F32_HALF F32_PLAIN F32_GATHER: "wgsl/f32.wgsl";
    F16_ROWS F16_LANES F16_HALF F16_PLAIN F16_GATHER: "wgsl/words.wgsl", "wgsl/f16.wgsl";
    Q8_0_ROWS Q8_0_LANES Q8_0_HALF Q8_0_PLAIN Q8_0_GATHER: "wgsl/words.wgsl", "wgsl/bytes.wgsl", "wgsl/q8_0.wgsl";
    Q4_0_ROWS Q4_0_LANES Q4_0_HALF Q4_0_PLAIN Q4_0_GATHER: "wgsl/words.wgsl", "wgsl/bytes.wgsl", "wgsl/nibbles.wgsl", "wgsl/q4_0.wgsl";
    Q4_1_ROWS Q4_1_LANES Q4_1_HALF Q4_1_PLAIN Q4_1_GATHER: "wgsl/words.wgsl", "wgsl/nibbles.wgsl", "wgsl/q4_1.wgsl";
    Q4_K_ROWS Q4_K_LANES Q4_K_HALF Q4_K_PLAIN Q4_K_GATHER: "wgsl/words.wgsl", "wgsl/nibbles.wgsl", "wgsl/q4_k.wgsl";
    Q6_K_ROWS Q6_K_LANES Q6_K_HALF Q6_K_PLAIN Q6_K_GATHER: "wgsl/words.wgsl", "wgsl/bytes.wgsl", "wgsl/nibbles.wgsl", "wgsl/q6_k.wgsl";
}

#[doc(hidden)]
pub const ATTENTION_ROWS: &str = concat!("enable subgroups;\n", include_str!("wgsl/attention_rows.wgsl"));

macro_rules! sources {
    ($($name:ident $path:literal;)+) => { $(
        #[doc(hidden)]
        pub const $name: &str = include_str!($path);
    )+ };
}

sources! {
    NORM "wgsl/norm.wgsl";
    ROPE "wgsl/rope.wgsl";
    ATTENTION "wgsl/attention.wgsl";
    ACTIVATION "wgsl/activation.wgsl";
    POOL "wgsl/pool.wgsl";
    TOP "wgsl/top.wgsl";
    SOFTMAX "wgsl/softmax.wgsl";
}
