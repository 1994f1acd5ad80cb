/**
 * Downloaded models, kept in the browser's private file system (OPFS) of the page's origin.
 *
 * An entry is a small file `HASH.json` that names the data file and says where it came from; HASH is the SHA-256 of the
 * URL. An entry whose data file is missing or of another size does not count. The engine worker writes both
 * (store.ts); here they are listed, read and removed. Where there is no such file system (Node, private windows, pages
 * without HTTPS) the cache is always empty.
 */
import { SternaError, messageOf } from "./errors.js";

/** The folder in the origin's private file system. */
const FOLDER = "sterna-models";

/** A model in the cache. */
export interface CacheEntry {
  /** Where it was downloaded from. */
  url: string;
  /** Size of the file in bytes. */
  bytes: number;
  /** When it was downloaded. */
  stored: Date;
}

/** The models that `load` has kept. */
export const cache: {
  /** All models, those last downloaded first. */
  list(): Promise<CacheEntry[]>;
  /** What they take, in bytes. */
  size(): Promise<number>;
  /** Removes a model; false if it was not there. A model in use keeps working. */
  delete(url: string | URL): Promise<boolean>;
  /** Removes all models. */
  clear(): Promise<void>;
} = {
  async list() {
    const found: CacheEntry[] = [];
    const directory = await folder(false);
    if (!directory) return found;
    for (const name of await reading(names(directory))) {
      const entry = name.endsWith(".json") ? await read(directory, name) : undefined;
      if (!entry || !(await data(directory, entry))) continue;
      found.push({ url: entry.url, bytes: entry.bytes, stored: new Date(entry.stored) });
    }
    return found.sort((a, b) => b.stored.getTime() - a.stored.getTime());
  },

  async size() {
    return (await cache.list()).reduce((sum, entry) => sum + entry.bytes, 0);
  },

  async delete(url) {
    const directory = await folder(false);
    if (!directory) return false;
    const name = `${await entryName(cacheKey(String(url)))}.json`;
    const entry = await read(directory, name);
    if (!entry) return false;
    await reading(directory.removeEntry(name));
    await directory.removeEntry(entry.file).catch(() => undefined);
    return true;
  },

  async clear() {
    const directory = await folder(false);
    if (!directory) return;
    // Entries first: without them the data does not count. What a worker is writing stays locked.
    const all = (await reading(names(directory))).sort(
      (a, b) => Number(b.endsWith(".json")) - Number(a.endsWith(".json")),
    );
    for (const name of all) await directory.removeEntry(name).catch(() => undefined);
  },
};

/** An entry as it lies there. @internal */
export interface StoredEntry {
  url: string;
  file: string;
  bytes: number;
  stored: string;
  etag?: string;
  lastModified?: string;
}

/** The model of a URL, or nothing. @internal */
export async function lookUp(url: string): Promise<{ entry: StoredEntry; file: File } | undefined> {
  try {
    const directory = await folder(false);
    const entry = directory && (await read(directory, `${await entryName(url)}.json`));
    const file = entry && (await data(directory, entry));
    return file && entry.url === url ? { entry, file } : undefined;
  } catch {
    return undefined;
  }
}

/** What a URL is kept under: absolute, without its fragment. @internal */
export function cacheKey(url: string): string {
  const absolute = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  absolute.hash = "";
  return absolute.href;
}

/** The folder; undefined where there can be none, or there is none and it is not to be made. @internal */
export async function folder(create: boolean): Promise<FileSystemDirectoryHandle | undefined> {
  try {
    const root = await globalThis.navigator?.storage?.getDirectory?.();
    return await root?.getDirectoryHandle(FOLDER, { create });
  } catch {
    // Not made yet, or forbidden: private windows, sandboxed frames.
    return undefined;
  }
}

/** @internal */
export async function entryName(url: string): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @internal */
export async function names(directory: FileSystemDirectoryHandle): Promise<string[]> {
  const found: string[] = [];
  for await (const name of directory.keys()) found.push(name);
  return found;
}

/** An entry; nothing if it is not there or half written. @internal */
export async function read(directory: FileSystemDirectoryHandle, name: string): Promise<StoredEntry | undefined> {
  try {
    const file = await (await directory.getFileHandle(name)).getFile();
    const entry: unknown = JSON.parse(await file.text());
    return isEntry(entry) ? entry : undefined;
  } catch {
    return undefined;
  }
}

async function data(directory: FileSystemDirectoryHandle, entry: StoredEntry): Promise<File | undefined> {
  try {
    const file = await (await directory.getFileHandle(entry.file)).getFile();
    return file.size === entry.bytes ? file : undefined;
  } catch {
    return undefined;
  }
}

function isEntry(value: unknown): value is StoredEntry {
  if (typeof value !== "object" || value === null) return false;
  const entry = value as Partial<Record<keyof StoredEntry, unknown>>;
  const strings = [entry.url, entry.file, entry.stored].every((text) => typeof text === "string");
  return strings && typeof entry.bytes === "number";
}

async function reading<T>(done: Promise<T>): Promise<T> {
  try {
    return await done;
  } catch (error) {
    throw new SternaError("storage", `the browser's storage cannot be used: ${messageOf(error)}`, { cause: error });
  }
}
