//! Figures of the store, printed. Run with `--release --ignored --nocapture`; FOLDER is on the disk of `TMPDIR`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use super::LocalStore;
use crate::records::{Change, Expect, RecordStore};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 400;

fn put(key: String) -> Change {
    let value = format!("{{\"state\":\"queued\",\"pad\":\"{}\"}}", "x".repeat(VALUE_BYTES - 27)).into_bytes();
    Change::Put { key, value, expect: Expect::Any }
}

fn key(n: u64) -> String {
    // Keys of 40 bytes, in no order.
    format!("jobs/{:032x}/ab", u128::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
}

fn memory_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

#[test]
#[ignore = "it only prints"]
fn the_disk_alone() {
    let folder = tempfile::tempdir().unwrap();
    for preallocated in [false, true] {
        let file = File::create(folder.path().join(format!("{preallocated}"))).unwrap();
        if preallocated {
            file.write_all_at(&vec![0; 4 << 20], 0).unwrap();
            file.sync_all().unwrap();
        }
        let mut times: Vec<Duration> = (0..1_000)
            .map(|n| {
                let begun = Instant::now();
                file.write_all_at(&[b'x'; 480], n * 480).unwrap();
                file.sync_data().unwrap();
                begun.elapsed()
            })
            .collect();
        let total: Duration = times.iter().sum();
        let rate = 1_000.0 / total.as_secs_f64();
        let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
        println!("append of 480 bytes and sync, preallocated {preallocated}: {rate:.0}/s, p50 {p50:?}, p99 {p99:?}");
    }
}

#[test]
#[ignore = "it only prints"]
fn commits_each_second() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for committers in [1_u64, 16, 128, 1024] {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(folder.path()).unwrap());
        let (begun, lasts) = (Instant::now(), Duration::from_secs(4));
        let committer = move |store: Arc<LocalStore>, committer: u64| async move {
            let (mut times, mut n) = (Vec::new(), 0);
            while begun.elapsed() < lasts {
                let at = Instant::now();
                store.commit(vec![put(key(committer * 1_000_000 + n))]).await.unwrap();
                times.push(at.elapsed());
                n += 1;
            }
            times
        };
        let tasks: Vec<_> = (0..committers).map(|n| runtime.spawn(committer(Arc::clone(&store), n))).collect();
        let mut times: Vec<Duration> = tasks.into_iter().flat_map(|task| runtime.block_on(task).unwrap()).collect();
        let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
        let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
        println!("{committers} committers: {rate:.0} commits/s, p50 {p50:?}, p99 {p99:?}");
    }
}

#[test]
#[ignore = "it only prints"]
fn overwriting_with_compaction() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(folder.path()).unwrap());
    let (begun, lasts) = (Instant::now(), Duration::from_secs(15));
    let committer = move |store: Arc<LocalStore>, committer: u64| async move {
        let (mut times, mut n) = (Vec::new(), committer);
        while begun.elapsed() < lasts {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = Instant::now();
            store.commit((0..4).map(|k| put(key((n >> 33) % 20_000 * 4 + k))).collect()).await.unwrap();
            times.push(at.elapsed());
        }
        times
    };
    let tasks: Vec<_> = (0..256).map(|n| runtime.spawn(committer(Arc::clone(&store), n))).collect();
    let mut times: Vec<Duration> = tasks.into_iter().flat_map(|task| runtime.block_on(task).unwrap()).collect();
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    let written = times.len() * 4 * 470 / (1 << 20);
    let (bytes, segments) = {
        let index = store.shared.read();
        (index.segments.values().map(|segment| segment.bytes).sum::<u64>(), index.segments.len())
    };
    println!("256 committers overwriting 80,000 records, 4 a commit: {rate:.0} commits/s, p50 {p50:?}, p99 {p99:?}");
    println!("{written} MiB written, {} MiB in {segments} segments", bytes >> 20);
}

#[test]
#[ignore = "it only prints"]
fn a_million_records() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    for group in 0..1_000 {
        let waiting: Vec<_> = (0..1_000).map(|n| store.commit(vec![put(key(group * 1_000 + n))])).collect();
        runtime.block_on(async {
            for commit in waiting {
                commit.await.unwrap();
            }
        });
    }
    drop(store);
    println!("{} segments", std::fs::read_dir(folder.path()).unwrap().count());
    // What the allocator keeps from before would hide what the index takes, so another process opens the store.
    let (before, begun) = (memory_bytes(), Instant::now());
    let store = LocalStore::open(folder.path()).unwrap();
    let took = begun.elapsed();
    let count = store.shared.read().len();
    println!("{count} records opened in {took:?}, {} more bytes a record", (memory_bytes() - before) / count);
    if let Ok(keep) = std::env::var("RECORDS_KEEP") {
        drop(store);
        println!("kept: {}", folder.keep().display());
        drop(keep);
    }
}

#[test]
#[ignore = "it only prints"]
fn open_what_is_there() {
    let Ok(folder) = std::env::var("RECORDS_FOLDER") else { return };
    let (before, begun) = (memory_bytes(), Instant::now());
    let store = LocalStore::open(folder.as_ref()).unwrap();
    let took = begun.elapsed();
    let count = store.shared.read().len();
    println!("{count} records opened in {took:?}, {} more bytes a record", (memory_bytes() - before) / count);
}
