//! Reads the kernels of a component from its custom sections, and names them by their entry points. The format is
//! documented in [`gannet_base::kernel_section`].

use gannet_base::hop::BundleKernel;
use gannet_base::hop::build::{RejectCode, Rejected};
use gannet_host_gpu::kernel::declare;
use std::collections::BTreeMap;

/// The kernels of a component, by name.
pub type Kernels = BTreeMap<String, BundleKernel>;

/// Limit on the source bytes of all kernels of one component.
const WGSL_BYTES_MAX: usize = 4 << 20;
/// Limit on the number of kernel sources in one component.
const SOURCES_MAX: usize = 256;
/// Limit on the number of kernels in one component. Each has a name and a hash in the version's record.
const KERNELS_MAX: usize = 1024;
/// Limit on the length of a kernel's full name, with its entry point.
const NAME_BYTES_MAX: usize = 256;

fn rejected(detail: impl Into<String>) -> Rejected {
    Rejected { code: RejectCode::KernelRejected, detail: detail.into() }
}

/// Takes a text from the front: its length as four bytes, little-endian, then UTF-8.
fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (text, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

/// Reads the records of all sections and names their kernels. The same name with the same text may
/// appear twice, as it does when a crate is linked twice.
pub fn decode(sections: &[Vec<u8>]) -> Result<Kernels, Rejected> {
    let mut sources: BTreeMap<&str, &str> = BTreeMap::new();
    for section in sections {
        let mut rest = section.as_slice();
        while !rest.is_empty() {
            let record = take_text(&mut rest).and_then(|name| Some((name, take_text(&mut rest)?)));
            let (name, wgsl) = record.ok_or_else(|| rejected("the kernel section is malformed"))?;
            if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
                return Err(rejected(format!(
                    "the kernel name {:?} is empty, too long or unprintable",
                    name.chars().take(130).collect::<String>()
                )));
            }
            if sources.insert(name, wgsl).is_some_and(|earlier| earlier != wgsl) {
                return Err(rejected(format!("two different kernels are named {name:?}")));
            }
        }
    }
    if sources.len() > SOURCES_MAX {
        return Err(rejected(format!("{} kernel sources; the limit is {SOURCES_MAX}", sources.len())));
    }
    let mut kernels = Kernels::new();
    let mut total = 0;
    for (name, wgsl) in sources {
        let declared = declare(name, wgsl).map_err(|error| rejected(format!("kernel {name:?}: {error}")))?;
        for (full, kernel) in declared {
            // Each entry point is stored with the source of its whole module, so a module with many counts many times.
            total += kernel.wgsl.len();
            if total > WGSL_BYTES_MAX {
                return Err(rejected(format!(
                    "the kernels have more than {WGSL_BYTES_MAX} bytes of source (a module counts once for each entry point)"
                )));
            }
            if full.len() > NAME_BYTES_MAX {
                let shown: String = full.chars().take(64).collect();
                let size = full.len();
                return Err(rejected(format!("the name {shown:?}… has {size} bytes; the limit is {NAME_BYTES_MAX}")));
            }
            if kernels.len() >= KERNELS_MAX {
                return Err(rejected(format!("more than {KERNELS_MAX} kernels (each entry point is one)")));
            }
            kernels.insert(full, BundleKernel { wgsl: kernel.wgsl.to_string(), entry: kernel.entry, hardened: None });
        }
    }
    Ok(kernels)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::kernel_section::encode;

    const ONE: &str = "@compute @workgroup_size(1) fn main() {}";
    const TWO: &str = "@compute @workgroup_size(1) fn a() {} @compute @workgroup_size(1) fn b() {}";

    #[test]
    fn joined_records_are_read_and_named_by_entry_point() {
        let section = [encode("one", ONE), encode("two", TWO), encode("one", ONE)].concat();
        let kernels = decode(&[section]).unwrap();
        assert_eq!(kernels.keys().collect::<Vec<_>>(), ["one", "two/a", "two/b"]);
    }

    #[test]
    fn two_texts_for_one_name_and_cut_records_are_refused() {
        assert!(decode(&[encode("x", ONE), encode("x", TWO)]).unwrap_err().detail.contains("two different"));
        let mut cut = encode("x", ONE);
        cut.pop();
        assert!(decode(&[cut]).unwrap_err().detail.contains("malformed"));
    }

    #[test]
    fn kernels_are_bounded_in_number_and_in_the_length_of_their_names() {
        let text: String = (0..60).map(|i| format!("@compute @workgroup_size(1) fn f{i}() {{}}\n")).collect();
        let sections = |count: usize| (0..count).map(|i| encode(&format!("m{i}"), &text)).collect::<Vec<_>>();
        assert_eq!(decode(&sections(17)).unwrap().len(), 1020);
        assert!(decode(&sections(18)).unwrap_err().detail.contains("more than 1024 kernels"));
        let long = format!("@compute @workgroup_size(1) fn {}() {{}} {ONE}", "f".repeat(300));
        assert!(decode(&[encode("x", &long)]).unwrap_err().detail.contains("has 302 bytes; the limit is 256"));
    }

    proptest::proptest! {
        #[test]
        fn any_section_is_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = decode(&[bytes]);
        }
    }
}
