//! Checks the kernels of a WGSL file as the builder does, but without a device: for what nearly every GPU can do, or for
//! the software driver.

use gannet_host_gpu::check::{self, Abilities, Access, CheckedKernel};
use gannet_host_gpu::harden::BudgetUnit;

pub use gannet_host_gpu::check::SOURCE_BYTES_MAX;

/// What nearly every GPU can do, and more than any of Gannet's own kernels needs.
const USUAL_GPU: Abilities = Abilities {
    f16: true,
    subgroups: true,
    workgroup_memory_max: 32 << 10,
    workgroup_invocations_max: 1024,
    unit: BudgetUnit::Work,
};
/// What Mesa's software driver can do.
const SOFTWARE_DRIVER: Abilities = Abilities { f16: false, unit: BudgetUnit::Iterations, ..USUAL_GPU };

/// A kernel, or why it is refused.
#[derive(Debug)]
pub struct Verdict {
    /// Name of the entry point. None if the file has none, or cannot be read as WGSL.
    pub entry: Option<String>,
    /// The kernel, or why it is refused.
    pub result: Result<Kernel, Refusal>,
}

/// A kernel that would be accepted.
#[derive(Debug)]
pub struct Kernel {
    /// Invocations of a workgroup.
    pub workgroup_size: [u32; 3],
    /// What a dispatch must bind.
    pub bindings: Vec<Binding>,
    /// The lines on which the first loops begin that need a budget.
    pub counted_lines: Vec<u32>,
    /// The WGSL as it will run.
    pub hardened: Option<String>,
}

/// A variable that a dispatch must bind.
#[derive(Debug, serde::Serialize)]
pub struct Binding {
    group: u32,
    binding: u32,
    name: String,
    access: &'static str,
    size_min: u64,
}

/// Why a kernel is refused.
#[derive(Debug)]
pub struct Refusal {
    /// Line and column in the source, if they are known.
    pub place: Option<(usize, usize)>,
    /// The reason of the refusal, in the words of WGSL.
    pub message: String,
    /// The line of the source, and a mark below the column.
    pub excerpt: Option<String>,
}

/// Checks all kernels of a source, with these values of overrides. `software`: for the software driver.
pub fn check_source(wgsl: &str, constants: &[(String, f64)], software: bool) -> Vec<Verdict> {
    let can = if software { SOFTWARE_DRIVER } else { USUAL_GPU };
    let refusal = |error: gannet_host_gpu::Error| Refusal::new(wgsl, &error.to_string());
    let entries = match check::entry_points(wgsl) {
        Ok(entries) => entries,
        Err(error) => return vec![Verdict { entry: None, result: Err(refusal(error)) }],
    };
    if entries.is_empty() {
        let refusal = Refusal::new(wgsl, "the module has no compute entry point");
        return vec![Verdict { entry: None, result: Err(refusal) }];
    }
    let of_entry = |entry: String| {
        let result = check::check(wgsl, &entry, constants, can).map(Kernel::from).map_err(refusal);
        Verdict { entry: Some(entry), result }
    };
    entries.into_iter().map(of_entry).collect()
}

impl From<CheckedKernel> for Kernel {
    fn from(kernel: CheckedKernel) -> Self {
        let hardened = kernel.to_wgsl().ok();
        let bindings = kernel.variables.into_iter().map(|variable| Binding {
            group: variable.group,
            binding: variable.index,
            name: variable.name,
            access: match variable.access {
                Access::Uniform => "uniform",
                Access::Read => "read",
                Access::ReadWrite => "read_write",
            },
            size_min: variable.size_min,
        });
        let bindings = bindings.collect();
        let counted_lines = kernel.report.counted_lines;
        Self { workgroup_size: kernel.workgroup_size, bindings, counted_lines, hardened }
    }
}

impl Refusal {
    /// Takes a message of the form `line:column: text`, or without a place.
    fn new(wgsl: &str, text: &str) -> Self {
        let mut parts = text.splitn(3, ':');
        let place = (|| Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)))();
        let rest = place.and_then(|_| parts.next()).map_or(text, str::trim_start);
        Self { place, message: rest.to_owned(), excerpt: place.and_then(|(line, column)| excerpt(wgsl, line, column)) }
    }
}

/// Returns a line of the source, with a mark below the column.
fn excerpt(wgsl: &str, line: usize, column: usize) -> Option<String> {
    let text = wgsl.lines().nth(line.checked_sub(1)?)?;
    let before: String = text.get(..column.checked_sub(1)?)?.chars().map(|c| if c == '\t' { c } else { ' ' }).collect();
    Some(format!("{line:>5} | {text}\n      | {before}^"))
}
