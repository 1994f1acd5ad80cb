/**
 * The worker's side of the cache: writes a download into the browser's private file system while it is being packed.
 *
 * `cache.ts` says how entries lie there. Data goes to a file of its own name; the entry that names it is written when the
 * model has loaded. Until then the data file is locked, and one that is neither locked nor named by an entry is
 * swept away by the next download. Whatever goes wrong here means that the file is not kept, and nothing else.
 */
import { entryName, folder, names, read } from "./cache.js";
import type { StoreRequest } from "./protocol.js";

/** What browsers give dedicated workers; TypeScript's DOM library has it for workers only. */
interface SyncHandle {
  write(bytes: Uint8Array, options?: { at: number }): number;
  truncate(size: number): void;
  flush(): void;
  close(): void;
}
type Lockable = FileSystemFileHandle & { createSyncAccessHandle?: () => Promise<SyncHandle> };

/** A download on its way into the cache. */
export class Store {
  readonly #request: StoreRequest;
  readonly #directory: FileSystemDirectoryHandle;
  readonly #file: string;
  #handle: SyncHandle | undefined;
  #bytes = 0;

  private constructor(request: StoreRequest, directory: FileSystemDirectoryHandle, file: string, handle: SyncHandle) {
    this.#request = request;
    this.#directory = directory;
    this.#file = file;
    this.#handle = handle;
  }

  /** A place for a download, or none. */
  static async open(request: StoreRequest): Promise<Store | undefined> {
    try {
      const directory = await folder(true);
      if (!directory) return undefined;
      await sweep(directory);
      const file = `${await entryName(request.url)}-${crypto.randomUUID()}.gguf`;
      const handle = await lock(directory, file);
      return handle && new Store(request, directory, file, handle);
    } catch {
      return undefined;
    }
  }

  /** Takes the next bytes. When there is no room for them, what was taken is dropped. */
  write(bytes: Uint8Array): void {
    try {
      const written = this.#handle?.write(bytes, { at: this.#bytes });
      if (written !== undefined && written !== bytes.byteLength) throw new Error("no room");
      this.#bytes += bytes.byteLength;
    } catch {
      void this.discard();
    }
  }

  /** Makes the download count. */
  async commit(): Promise<void> {
    const handle = this.#handle;
    if (!handle) return;
    try {
      handle.flush();
      const name = `${await entryName(this.#request.url)}.json`;
      const before = await read(this.#directory, name);
      const entry = { ...this.#request, file: this.#file, bytes: this.#bytes, stored: new Date().toISOString() };
      const text = new TextEncoder().encode(JSON.stringify(entry));
      const meta = await lock(this.#directory, name);
      if (!meta) throw new Error("no way to write");
      try {
        meta.truncate(0);
        meta.write(text, { at: 0 });
        meta.flush();
      } finally {
        meta.close();
      }
      handle.close();
      this.#handle = undefined;
      if (before) await this.#directory.removeEntry(before.file).catch(() => undefined);
    } catch {
      await this.discard();
    }
  }

  /** Forgets the download. */
  async discard(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    handle?.close();
    await this.#directory.removeEntry(this.#file).catch(() => undefined);
  }
}

async function lock(directory: FileSystemDirectoryHandle, name: string): Promise<SyncHandle | undefined> {
  const file: Lockable = await directory.getFileHandle(name, { create: true });
  return file.createSyncAccessHandle?.();
}

/** Removes data that no entry names; what another worker is writing is locked and stays. */
async function sweep(directory: FileSystemDirectoryHandle): Promise<void> {
  const all = await names(directory);
  const entries = await Promise.all(all.filter((name) => name.endsWith(".json")).map((name) => read(directory, name)));
  const named = new Set(entries.map((entry) => entry?.file));
  const stray = all.filter((name) => name.endsWith(".gguf") && !named.has(name));
  await Promise.all(stray.map((name) => directory.removeEntry(name).catch(() => undefined)));
}
