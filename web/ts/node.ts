/**
 * What Node has in place of what browsers have: worker threads, and files.
 *
 * Node's modules are asked for by `process.getBuiltinModule`, so that bundlers for browsers find no import of them.
 */
import { messageOf, SternaError } from "./errors.js";
import type { Line, Listener } from "./line.js";
import type { Bytes } from "./protocol.js";

/** Bytes that are read from a file at a time. */
const CHUNK = 1 << 20;

/** A worker thread. It keeps the process alive only while it is asked to. */
export function spawn<Out, In>(script: URL, listener: Listener<In>): Line<Out> {
  const { Worker } = process.getBuiltinModule("node:worker_threads");
  // Flags of the program, such as --input-type, are not the worker's.
  const worker = new Worker(script, { execArgv: [] });
  let over = false;
  worker.on("message", (message: In) => listener.message(message));
  worker.on("error", (error) => listener.failed(messageOf(error)));
  worker.on("messageerror", (error) => listener.failed(messageOf(error)));
  worker.on("exit", (code) => {
    if (!over) listener.failed(`it ended with ${code}`);
  });
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer),
    terminate: () => {
      over = true;
      void worker.terminate();
    },
    hold: (alive) => (alive ? worker.ref() : worker.unref()),
  };
}

/** A whole file of the package. */
export async function bytesOf(url: URL): Promise<Uint8Array<ArrayBuffer>> {
  const { readFile } = process.getBuiltinModule("node:fs/promises");
  return new Uint8Array(await readFile(url));
}

/** A file's size in bytes, and its bytes in pieces. */
export async function openFile(path: string | URL): Promise<{ length: number; chunks: AsyncGenerator<Bytes> }> {
  const { open, stat } = process.getBuiltinModule("node:fs/promises");
  const { size } = await said(stat(path));
  return { length: size, chunks: pieces() };

  async function* pieces(): AsyncGenerator<Bytes> {
    const file = await said(open(path, "r"));
    try {
      for (;;) {
        const bytes = new Uint8Array(CHUNK);
        const { bytesRead } = await said(file.read(bytes, 0, CHUNK));
        if (bytesRead === 0) return;
        yield bytesRead === CHUNK ? bytes : bytes.slice(0, bytesRead);
      }
    } finally {
      await file.close();
    }
  }

  async function said<T>(doing: Promise<T>): Promise<T> {
    try {
      return await doing;
    } catch (error) {
      throw failure(path, error);
    }
  }
}

function failure(path: string | URL, error: unknown): SternaError {
  const missing = typeof error === "object" && error !== null && "code" in error && error.code === "ENOENT";
  const message = missing ? `there is no file ${String(path)}` : `${String(path)} cannot be read: ${messageOf(error)}`;
  return new SternaError(missing ? "not-found" : "storage", message, { cause: error });
}
