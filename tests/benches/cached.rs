//! Models that are in the cache: a look at each, and no byte of them read.
//!
//! The files are sparse, 20 GB in all. They are brought into the cache by its own `obtain`, whose download says a digest
//! without computing one, so nobody has to hash them. A hit that did would read them, and every byte that this process reads is
//! counted by the system.

use std::fs::File;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use worker_files::{ModelCache, Partial, Received, WantedFile};

use crate::{median, us};

const FILES: u8 = 4;
const SIZE: u64 = 5_000_000_000;
const HITS: usize = 1000;

pub(crate) async fn measure() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cache = ModelCache::open(dir.path()).expect("a cache");
    let models: Vec<WantedFile> = (0..FILES).map(wanted).collect();
    for model in &models {
        assert!(obtain(&cache, model).await, "the first brings it");
    }
    let (before, mut times) = (read_so_far(), Vec::new());
    for _ in 0..HITS {
        let started = Instant::now();
        for model in &models {
            assert!(!obtain(&cache, model).await, "it is there");
        }
        times.push(started.elapsed());
    }
    let read = (read_so_far() - before) / HITS as u64;
    let took: Duration = median(times);
    println!(
        "{}  a hit on 20 GB in {FILES} models, for which {read} bytes are read (under 1 ms, and no hashing)",
        us(took)
    );
}

fn wanted(number: u8) -> WantedFile {
    WantedFile {
        url: format!("https://models.example/{number}"),
        sha256: Some([number; 32]),
        name: format!("{number}.gguf"),
        model: "model".to_owned(),
        approx_bytes: None,
    }
}

/// Whether it had to be brought.
async fn obtain(cache: &ModelCache, model: &WantedFile) -> bool {
    let mut brought = false;
    let download = |partial: Partial| {
        brought = true;
        async move {
            File::create(partial.path())?.set_len(SIZE)?;
            Ok::<_, std::io::Error>(Received {
                sha256: model.sha256.expect("a digest"),
                bytes: SIZE,
                validator: None,
            })
        }
    };
    let never = CancellationToken::new();
    let file = cache.obtain(model, &never, || {}, download).await;
    assert_eq!(file.expect("the file").size, SIZE);
    brought
}

/// Bytes that this process has read by any call.
fn read_so_far() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("the system's counters");
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|number| number.parse().ok())
        .expect("a number")
}
