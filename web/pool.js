// Starts the workers of the thread pool: stands in for the helper of wasm-bindgen-rayon, which starts them from inside the
// engine's worker. Here the page does it, at the request of that worker, since nested workers hang now and then in Firefox.
//
// The worker sets `globalThis.sternaPool` beforehand. Its `start(threads, module, memory, receiver)` gives a promise that is
// kept when as many workers are about to call `wbg_rayon_start_worker(receiver)` on the same module and memory.

// Workers read from it until they run: it must not be collected.
let kept;

export async function startWorkers(module, memory, builder) {
  kept = builder;
  await globalThis.sternaPool.start(builder.numThreads(), module, memory, builder.receiver());
  kept.build();
}
