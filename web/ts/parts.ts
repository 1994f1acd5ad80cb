/**
 * Split models: which files belong together. Names say it, as core's gguf/shards.rs reads them: NAME-00001-of-00003.gguf is
 * the first of three. Not here: reading them (source.ts, load.ts).
 */
import { invalid, SternaError } from "./errors.js";
import { openSource } from "./source.js";
import type { HubFile, Opened, Source, SourceOptions } from "./source.js";

/** A file of a model. @internal */
export interface Part {
  /** What it is called, where that is known. */
  name: string;
  open(): Promise<Opened>;
}

interface Shard {
  stem: string;
  number: number;
  count: number;
}

const SHARD = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/**
 * The files of a model, in order. An address of one part of a split model stands for all; files must be given together.
 * @internal
 */
export function partsOf(source: Source, options: SourceOptions): Part[] {
  if (Array.isArray(source)) return listed(source as readonly Source[], options);
  const one = source as Exclude<Source, readonly unknown[]>;
  const shard = shardOf(nameOf(one));
  if (!shard) return [part(one, options)];
  if (typeof Blob !== "undefined" && one instanceof Blob) return listed([one], options);
  const siblings = Array.from({ length: shard.count }, (_, i) => sibling(one, { ...shard, number: i + 1 }));
  return siblings.map((each) => part(each, options));
}

function part(source: Source, options: SourceOptions): Part {
  return { name: nameOf(source), open: () => openSource(source, options) };
}

/** Files that were given together, brought into order by their names. Those without names are in order already. */
function listed(sources: readonly Source[], options: SourceOptions): Part[] {
  if (sources.length === 0) return invalid("the list of files is empty");
  const all = sources.map((source) => ({ source, name: nameOf(source), shard: shardOf(nameOf(source)) }));
  const [first] = all;
  if (sources.length === 1 && !first?.shard) return [part(sources[0] as Source, options)];
  if (all.every(({ name }) => name === "")) return sources.map((source) => part(source, options));
  const model = all.find(({ shard }) => shard)?.shard;
  const foreign = all.filter(({ shard }) => shard?.stem !== model?.stem || shard?.count !== model?.count);
  if (!model || foreign.length > 0) {
    const names = (model ? foreign : all).map(({ name }) => name || "a file without name").join(", ");
    return invalid(`the files are not parts of one model (NAME-00001-of-0000N.gguf): ${names}; give one model at a time`);
  }
  return Array.from({ length: model.count }, (_, i) => {
    const found = all.filter(({ shard }) => shard?.number === i + 1);
    const name = shardName({ ...model, number: i + 1 });
    if (found.length > 1) return invalid(`${name} was given more than once`);
    if (!found[0]) {
      const message = `part ${i + 1} of ${model.count} is missing: give ${name} with the others`;
      throw new SternaError("not-found", message);
    }
    return part(found[0].source, options);
  });
}

/** The last part of a path, a URL or a file's name; empty where there is none. */
function nameOf(source: Source): string {
  if (typeof source === "string" || source instanceof URL) {
    const path = /^(data|blob):/.test(String(source)) ? "" : String(source).replace(/[?#].*$/, "");
    const last = path.split(/[/\\]/).at(-1) ?? "";
    try {
      return decodeURIComponent(last);
    } catch {
      return last;
    }
  }
  if (isHubFile(source)) return source.file.split("/").at(-1) ?? "";
  return typeof File !== "undefined" && source instanceof File ? source.name : "";
}

function isHubFile(source: unknown): source is HubFile {
  return typeof source === "object" && source !== null && "file" in source && typeof source.file === "string";
}

/** What a name says, if it is that of a part of several. */
function shardOf(name: string): Shard | undefined {
  const [, stem = "", number = "", count = ""] = SHARD.exec(name) ?? [];
  const shard = { stem, number: Number(number), count: Number(count) };
  return shard.count > 1 && shard.number >= 1 && shard.number <= shard.count ? shard : undefined;
}

function shardName({ stem, number, count }: Shard): string {
  const five = (value: number): string => String(value).padStart(5, "0");
  return `${stem}-${five(number)}-of-${five(count)}.gguf`;
}

/** The same address with another part's name. */
function sibling(source: Source, shard: Shard): Source {
  const renamed = (text: string): string =>
    text.replace(/-\d{5}-of-\d{5}\.gguf(?=$|[?#])/, shardName({ ...shard, stem: "" }));
  if (source instanceof URL) return new URL(renamed(source.href));
  if (isHubFile(source)) return { ...source, file: renamed(source.file) };
  return renamed(source as string);
}
