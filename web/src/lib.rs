//! sterna-web: the bindings that the npm package's worker calls. TypeScript above them (web/ts) brings streams, caches and
//! workers; core below them computes.
//!
//! Everything is synchronous and blocks, so it belongs into a worker. Values that go out are numbers, texts and arrays;
//! compound ones are JSON. What is thrown is an `Error` with a `code` (see `error.rs`).

mod bench;
mod card;
mod error;
mod loader;
mod model;
mod options;
mod threads;

#[cfg(all(test, target_arch = "wasm32"))]
#[path = "../tests/all.rs"]
mod tests;

use wasm_bindgen::prelude::*;

use error::Result;
use sterna_core::image::{self, Ink};
use sterna_core::kernels;

#[cfg(feature = "threads")]
pub use wasm_bindgen_rayon::init_thread_pool;

/// Runs once, when the module is instantiated: a panic, which is a defect of ours, is told before it traps.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|info| {
        let text = format!("sterna: {info}");
        web_sys::console::error_1(&text.as_str().into());
        // For the worker, which sees no more than a trap.
        let _ = js_sys::Reflect::set(&js_sys::global(), &"sternaPanic".into(), &text.into());
    }));
}

/// The kernels of this build, the fastest first.
#[wasm_bindgen]
pub fn kernels() -> Vec<String> {
    kernels::available().iter().map(|kernel| kernel.name().to_owned()).collect()
}

/// Threads that compute.
#[wasm_bindgen]
pub fn threads() -> usize {
    threads::count()
}

/// The drawing on a grey canvas, `[height, width]`, as digit classifiers know it, `[28, 28]`; with `dark`, 0 is ink and 255
/// paper.
///
/// # Errors
/// `invalid-argument` if nothing is drawn, or the size is not that of the canvas.
#[wasm_bindgen]
pub fn centre(canvas: &[u8], width: usize, height: usize, dark: bool) -> Result<Vec<u8>> {
    let ink = if dark { Ink::Dark } else { Ink::Light };
    Ok(image::centre(canvas, width, height, ink)?.to_vec())
}
