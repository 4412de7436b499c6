//! Reads an upload as bytes, before anything compiles it: checks that it is a valid component and extracts its kernels.
//!
//! It must stay safe code, because it runs before the builder's last layer of confinement is active.

use gannet_base::hop::build::{RejectCode, Rejected};
use gannet_base::kernel_section;
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

/// Makes a rejection with the code `ComponentInvalid`.
pub(super) fn invalid(detail: impl Into<String>) -> Rejected {
    Rejected { code: RejectCode::ComponentInvalid, detail: detail.into() }
}

/// Checks that the bytes are a valid component.
pub fn validate(bytes: &[u8]) -> Result<(), Rejected> {
    if !bytes.starts_with(b"\0asm") {
        let first: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        return Err(invalid(format!("not WebAssembly: it starts with [{}], not [00 61 73 6d]", first.join(" "))));
    }
    if Parser::is_core_wasm(bytes) {
        return Err(invalid("a core module, not a component"));
    }
    let mut validator = Validator::new_with_features(WasmFeatures::default() | WasmFeatures::COMPONENT_MODEL);
    match validator.validate_all(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(invalid(format!("not valid at byte {}: {}", error.offset(), error.message()))),
    }
}

/// Returns the contents of all kernel sections. The bytes must be a valid component.
pub fn kernel_sections(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Rejected> {
    let mut sections = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| invalid(error.message().to_owned()))? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => {}
            Payload::CustomSection(section) if section.name() == kernel_section::NAME => {
                sections.push(section.data().to_vec())
            }
            _ => {}
        }
    }
    Ok(sections)
}

/// Whether a valid component exports the handler of `wasi:http/service` 0.3.
pub(super) fn is_service_0_3(bytes: &[u8]) -> bool {
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        match payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentExportSection(section) if depth == 1 => {
                let named =
                    |export: wasmparser::ComponentExport<'_>| export.name.name.starts_with("wasi:http/handler@0.3");
                if section.into_iter().map_while(Result::ok).any(named) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_wrong_upload_is_told_apart() {
        for (bytes, part) in [
            (b"<html>".as_slice(), "not WebAssembly: it starts with [3c 68 74 6d]"),
            (b"", "not WebAssembly"),
            (b"\0asm\x01\0\0\0", "a core module"),
            (b"\0asm\x0d\0\x01\0 this is a text", "not valid at byte"),
            (b"\0asm", "not valid at byte"),
        ] {
            let error = validate(bytes).unwrap_err();
            assert!(error.detail.contains(part), "{}", error.detail);
        }
        assert!(validate(b"\0asm\x0d\0\x01\0").is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let bytes = [b"\0asm\x0d\0\x01\0".as_slice(), &tail].concat();
            if validate(&bytes).is_ok() {
                kernel_sections(&bytes).unwrap();
            }
        }
    }
}
