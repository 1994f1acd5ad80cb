//! Memory that loading takes, counted by an allocator that counts: whatever a file claims, no more than its size justifies.
//! One test, since the count is the process's.

mod edited;

use edited::{Edited, Tensor, fixture};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use sterna_core::formats::Format;
use sterna_core::gguf::{Array, Gguf, Metadata, ValueType};
use sterna_core::kernels::Serial;
use sterna_core::model::{Logits, Memory};
use sterna_core::tokenizer::Tokenizer;
use sterna_core::{Model, SessionOptions};

/// The system's allocator, with what is held now and the most that was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(more: usize) {
    let held = HELD.fetch_add(more, Ordering::Relaxed) + more;
    PEAK.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: every call is handed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes beyond what is held now that `work` holds at its peak.
fn peak(work: impl FnOnce()) -> usize {
    let before = HELD.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    work();
    PEAK.load(Ordering::SeqCst) - before
}

/// Loads, runs two tokens where it loads, and compares the peak with `times` the file's size. `loads` says what is expected.
fn check(what: &str, bytes: &[u8], loads: bool, times: f64) {
    let start = Instant::now();
    let mut error = None;
    let load = peak(|| match Model::from_gguf(bytes) {
        Ok(_) => {}
        Err(refusal) => error = Some(refusal.to_string()),
    });
    assert_eq!(error.is_none(), loads, "{what}: {error:?}");
    let mut run = 0;
    if loads {
        let model = Model::from_gguf(bytes).unwrap();
        run = peak(|| {
            model.session(SessionOptions::default()).feed(&[0, 1]).unwrap();
        });
    }
    let ratio = |bytes_held: usize| bytes_held as f64 / bytes.len() as f64;
    let seconds = start.elapsed().as_secs_f64();
    println!("{what:40} {:9} bytes, load {:5.2}, run {:5.2}, {seconds:.2} s", bytes.len(), ratio(load), ratio(run));
    // The process's own, the first time something is used.
    let slack = 1 << 16;
    let most = (times * bytes.len() as f64) as usize + slack;
    assert!(load <= most, "{what}: {load} bytes at the peak of loading {}, at most {most} are justified", bytes.len());
    // Two tokens are a fraction of any model.
    let most = bytes.len() + slack;
    assert!(run <= most, "{what}: {run} bytes at the peak of running {}, at most {most} are justified", bytes.len());
    assert!(seconds < 20.0, "{what}: {seconds} s");
}

/// Compares what a header says of a model's memory with what loading and running it really holds.
fn check_needs(what: &str, bytes: &[u8]) {
    let needs = Memory::of(Gguf::parse(bytes).unwrap().header()).unwrap();
    let before = HELD.load(Ordering::SeqCst);
    let mut model = None;
    let peak_of_loading = peak(|| model = Some(Model::from_gguf(bytes).unwrap()));
    let model = model.unwrap();
    let held = HELD.load(Ordering::SeqCst) - before;
    let transformer = model.transformer();
    let weights = transformer.bytes();
    let text = peak_of_loading - weights;
    let mut state = transformer.state(None);
    let tokens = vec![1; 256.min(state.limit())];
    let run = peak(|| drop(transformer.forward(&mut state, &Serial, &tokens, Logits::Last).map(<[f32]>::to_vec)));
    let scratch = run - state.cache_bytes();
    println!(
        "{what:24} weights {weights:8} of {:8}, text {text:7} (held {}) of {:7}, scratch {scratch:8} of {:8} at {}",
        needs.weights,
        held - weights,
        needs.text,
        needs.scratch,
        tokens.len()
    );
    assert_eq!(needs.cache(tokens.len()), state.cache_bytes() as u64, "{what}");
    // Exact, but for the scales of matrices whose rows turn out to have one each.
    let scales = |name: &str| transformer.tensors().iter().find(|tensor| tensor.name == name && tensor.group.is_some());
    let one_a_row: u64 = Gguf::parse(bytes)
        .unwrap()
        .header()
        .tensors
        .iter()
        .filter_map(|info| {
            let group = Format::identify(info).unwrap().group()?;
            let merged = scales(&info.name)?.group == Some(info.cols() as usize);
            merged.then(|| (info.cols() / group as u64 - 1) * 2 * info.rows().next_multiple_of(16))
        })
        .sum();
    assert_eq!(needs.weights, weights as u64 + one_a_row, "{what}");
    // Never less than what is held, and not much more.
    if tokens.len() == 256 {
        assert!((scratch as u64..2 * scratch as u64).contains(&needs.scratch), "{what}");
    }
    assert!((text as u64..3 * text as u64 + (3 << 18)).contains(&needs.text), "{what}");
}

/// A model with another vocabulary than its own.
fn with_vocabulary(metadata: &Metadata) -> Edited {
    let mut file = Edited::of("llama-f16");
    for key in ["merges", "scores", "token_type"] {
        file = file.without(&format!("tokenizer.ggml.{key}"));
    }
    for (key, value) in metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        file = file.set(key, value.clone());
    }
    let tokens = file.metadata.strings("tokenizer.ggml.tokens").unwrap().len();
    let rows = move |t: &mut Tensor| {
        let row = t.bytes.len() / t.dims[1] as usize;
        t.dims[1] = tokens as u64;
        t.bytes = vec![0; tokens * row];
    };
    file.tensor("token_embd.weight", rows).tensor("output.weight", rows)
}

#[test]
fn memory_follows_the_file_and_not_its_claims() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            check_needs(&path.file_stem().unwrap().to_string_lossy(), &std::fs::read(&path).unwrap());
        }
    }
    if let Some(data) = std::env::var_os("STERNA_DATA_DIR") {
        for name in ["gpt-2", "llama-spm", "phi-3"] {
            let path = std::path::Path::new(&data).join(format!("tokenizers/ggml-vocab-{name}.gguf"));
            let bytes = std::fs::read(path).unwrap();
            check_needs(name, &with_vocabulary(&Gguf::parse(&bytes).unwrap().header().metadata).write());
        }
    }
    for name in ["llama-tq2_0", "llama-tq1_0", "llama-q1_0", "llama-f16", "llama-q8_0", "gpt2-f32", "phi3-long-i2_s"] {
        check(name, &fixture(name), true, 4.0);
    }
    let llama = || Edited::of("llama-tq2_0");
    check("a huge context", &llama().set(".context_length", 1u32 << 24).write(), true, 4.0);
    check("a huge window", &llama().set(".attention.sliding_window", 1u32 << 24).write(), true, 4.0);
    check("a huge vocabulary", &llama().set(".vocab_size", u32::MAX).write(), true, 4.0);
    check(
        "a huge original context",
        &llama().set(".rope.scaling.original_context_length", 1u32 << 24).write(),
        true,
        4.0,
    );
    let heads = Edited::of("gpt2-f32").set(".attention.head_count", 64u32).set(".attention.head_count_kv", 64u32);
    check("heads of one", &heads.write(), true, 4.0);
    for key in [".attention.key_length", ".feed_forward_length", ".embedding_length", ".block_count"] {
        check(&format!("a huge {key}"), &llama().set(key, 1u32 << 24).write(), false, 4.0);
    }
    let heads = llama().set(".attention.head_count", 1u32 << 18).set(".attention.head_count_kv", 1u32 << 18);
    check("many heads", &heads.write(), false, 4.0);
    check("a huge matrix", &llama().tensor("blk.0.ffn_up.weight", |t| t.dims[1] = 1 << 40).write(), false, 4.0);

    // A header of very many records, each as small as can be, in a file of their size.
    const MANY: usize = 30_000;
    let many = |name: fn(usize) -> String| {
        let mut file = llama().set("general.alignment", 8u32);
        file.tensors.extend((0..MANY).map(|i| Tensor::f32s(&name(i), &[1.0])));
        file
    };
    check("many foreign tensors", &many(|i| format!("{i}")).write(), false, 16.0);
    let layers = (MANY / 6) as u32;
    check("many layers", &many(|i| format!("{i}")).set(".block_count", layers).write(), false, 16.0);
    let norms = many(|i| format!("blk.{i}.attn_norm.weight{}", if i == 0 { "_" } else { "" }));
    check("many layers, one tensor each", &norms.set(".block_count", layers).write(), false, 16.0);

    let nested = Array::Array(vec![Array::empty(ValueType::U8); 300_000]);
    check("many empty arrays", &llama().set("x", nested).write(), true, 16.0);
    check("many empty strings", &llama().set("x", vec![""; 300_000]).write(), true, 16.0);
    let tokens: Vec<String> = (0..100_000).map(|i| format!("{i}")).collect();
    let scores = vec![0.0f32; tokens.len()];
    let byte_level = || {
        let file = llama().set("tokenizer.ggml.tokens", tokens.clone()).set("tokenizer.ggml.scores", scores.clone());
        let file = file.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.merges", vec![""; 0]);
        file.without("tokenizer.ggml.token_type")
    };
    let sentence_piece = byte_level().set("tokenizer.ggml.model", "llama");
    for (what, file) in [("byte-level", byte_level()), ("SentencePiece", sentence_piece)] {
        let bytes = file.write();
        check(&format!("a large {what} vocabulary"), &bytes, false, 16.0);
        // Refused above, as the embedding is smaller; so the tokenizer alone.
        let held = peak(|| drop(Tokenizer::from_metadata(&file.metadata).unwrap()));
        println!("{:40} {:.2}", "its tokenizer", held as f64 / bytes.len() as f64);
        assert!(held <= 16 * bytes.len(), "{what}: {held} bytes for {}", bytes.len());
    }
}
