//! Fuzzes the WGSL front end: any text must be refused, or checked, hardened, validated again and printed as WGSL.
#![no_main]

use gannet_host_gpu::check::{Abilities, check, entry_points, needs_constants};
use gannet_host_gpu::harden::BudgetUnit;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/shaders/mod.rs"]
mod shaders;

fuzz_target!(|bytes: &[u8]| {
    let made;
    let text = match bytes {
        // A marker and a seed make a valid shader, since random texts rarely are valid.
        [0xff, seed @ ..] if seed.len() == 8 => {
            made = shaders::shader(seed.iter().fold(0, |seed, byte| (seed << 8) | u64::from(*byte)));
            made.as_str()
        }
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(_) => return,
        },
    };
    for unit in [BudgetUnit::Work, BudgetUnit::Iterations] {
        let abilities = Abilities {
            f16: true,
            subgroups: true,
            workgroup_memory_max: 32 << 10,
            workgroup_invocations_max: 1024,
            unit,
        };
        let Ok(entries) = entry_points(text) else { return };
        for entry in entries {
            let _ = needs_constants(text, &entry);
            let Ok(checked) = check(text, &entry, &[("scale".to_owned(), 3.0)], abilities) else { continue };
            let Ok(printed) = checked.to_wgsl() else { continue };
            assert!(!printed.is_empty());
        }
    }
});
