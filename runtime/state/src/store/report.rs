//! What a builder reported, stored next to the compiled component: the kernels with their sources, and warnings.
//!
//! The file begins with the SHA-256 of the rest, in hex, and a line feed. A damaged one counts as missing, and the
//! component is built anew.

use gannet_base::hop::BundleKernel;
use gannet_base::hop::build::BuildReport;
use gannet_base::records::KernelRecord;
use gannet_gpu_protocol::source_hash;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// A kept report.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredReport {
    /// The binary that made it, and the GPU on which its kernels were tried.
    made_by: String,
    report: BuildReport,
}

fn digest_line(json: &[u8]) -> String {
    format!("{}\n", hex::encode(Sha256::digest(json)))
}

impl StoredReport {
    /// Returns the file's bytes for a report.
    pub fn to_bytes(made_by: String, report: &BuildReport) -> Vec<u8> {
        let stored = Self { made_by, report: report.clone() };
        let json = serde_json::to_vec(&stored).unwrap_or_default();
        [digest_line(&json).into_bytes(), json].concat()
    }

    /// Reads a report. Returns None if it is missing or damaged.
    pub fn read(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let json = bytes.get(digest_line(&[]).len()..)?;
        bytes.starts_with(digest_line(json).as_bytes()).then(|| serde_json::from_slice(json).ok())?
    }

    /// Returns the report, if it was made by `made_by`.
    pub fn report_of(self, made_by: &str) -> Option<BuildReport> {
        (self.made_by == made_by).then_some(self.report)
    }

    /// Returns the kernels with their sources, by name.
    pub fn kernels(self) -> BTreeMap<String, BundleKernel> {
        self.report.kernels
    }
}

/// Returns the kernels of a report as a version's record keeps them.
pub fn kernel_records(kernels: &BTreeMap<String, BundleKernel>) -> BTreeMap<String, KernelRecord> {
    let record = |kernel: &BundleKernel| KernelRecord {
        entry: kernel.entry.clone(),
        source: hex::encode(source_hash(&kernel.wgsl, &kernel.entry)),
    };
    kernels.iter().map(|(name, kernel)| (name.clone(), record(kernel))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_report_counts_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        assert!(StoredReport::read(&path).is_none());
        let report = BuildReport {
            kernels: [("k".to_owned(), BundleKernel { wgsl: "w".into(), entry: "e".into(), hardened: None })].into(),
            warnings: vec!["w".into()],
            snapshot_size: Some(7),
        };
        let bytes = StoredReport::to_bytes("me".into(), &report);
        std::fs::write(&path, &bytes).unwrap();
        assert!(StoredReport::read(&path).unwrap().report_of("you").is_none());
        let read = StoredReport::read(&path).unwrap().report_of("me").unwrap();
        assert_eq!((read.kernels, read.snapshot_size), (report.kernels, Some(7)));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, &damaged).unwrap();
            assert!(StoredReport::read(&path).is_none(), "byte {at}");
        }
    }
}
