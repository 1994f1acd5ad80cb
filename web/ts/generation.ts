/** A text on its way. */
import { aborted, invalid, SternaError } from "./errors.js";
import type { Host } from "./host.js";
import type { Give, Prompt, StartOptions, Stats } from "./protocol.js";

/** How the next tokens are chosen, and when to stop. */
export interface GenerateOptions {
  /** Tokens to generate at most; until the model ends or the context is full, if not given. */
  maxTokens?: number;
  /** Divides the logits; 0 takes the most likely token always; 0.8 if not given. */
  temperature?: number;
  /** Chooses among the so many most likely tokens; 0 is all; 40 if not given. */
  topK?: number;
  /** Chooses among the likeliest tokens that together have this probability; 1 is all; 0.95 if not given. */
  topP?: number;
  /** Leaves out tokens less likely than this share of the likeliest; 0 is none; 0.05 if not given. */
  minP?: number;
  /** Divides the score of recent tokens; 1, which is off, if not given. */
  repeatPenalty?: number;
  /** Is subtracted from the score of a recent token, once for each time it occurs; 0, which is off, if not given. */
  frequencyPenalty?: number;
  /** Is subtracted once from the score of each recent token; 0, which is off, if not given. */
  presencePenalty?: number;
  /** How many tokens are recent, for these three; 0 turns them off; 64 if not given. */
  repeatLastN?: number;
  /** What is added to the scores of single tokens, by token id; -Infinity forbids a token. */
  logitBias?: Readonly<Record<number, number>>;
  /** A whole number from 0 to 2^53 - 1: the same seed gives the same text, everywhere. Drawn if not given. */
  seed?: number;
  /** Texts at which to stop; they are not given out. */
  stop?: string | readonly string[];
  /** When the context is full, forgets its older half and goes on. */
  slide?: boolean;
  /** So many tokens at the beginning of the text are never forgotten so; 0 if not given. */
  keep?: number;
  /** Goes on when the model ends the text. */
  ignoreEos?: boolean;
  /** Stops the worker when it fires; reading then throws `aborted`. */
  signal?: AbortSignal;
}

/** Why a text ended: the model ended it or a stop text came, `maxTokens` are there, or the context is full. */
export type FinishReason = "stop" | "length" | "context";

/** Counts and times of a generation, up to date with every batch that was read. */
export interface GenerationStats {
  /** Tokens of the prompt. */
  promptTokens: number;
  /** Those of them that were in the KV cache from before. */
  cachedTokens: number;
  /** Tokens generated. */
  tokens: number;
  /** Seconds for reading the prompt. */
  promptSeconds: number;
  /** Seconds until the first piece of text, the prompt's among them. */
  secondsToFirst: number;
  /** Seconds in all, up to now. Waiting for the reader counts. */
  seconds: number;
  /** Generated tokens in each second after the prompt. */
  tokensPerSecond: number;
}

/** A text on its way: read it once, piece by piece with `for await`, whole with `text()`, or as `ids()`. */
export class Generation implements AsyncIterable<string> {
  /** The seed in use. */
  readonly seed: number;
  #stats: Stats = { promptTokens: 0, cachedTokens: 0, tokens: 0, promptSeconds: 0, secondsToFirst: 0, seconds: 0 };
  #finish: FinishReason | undefined;
  #begun = false;
  readonly #model: object;
  readonly #host: Host;
  readonly #prompt: Prompt;
  readonly #options: StartOptions;
  readonly #signal: AbortSignal | undefined;

  /** @internal */
  constructor(model: object, host: Host, prompt: Prompt, options: StartOptions, signal: AbortSignal | undefined) {
    this.#model = model;
    this.#host = host;
    this.#prompt = prompt;
    this.#options = options;
    this.#signal = signal;
    this.seed = options.seed;
  }

  /** Counts and times. */
  get stats(): GenerationStats {
    const { tokens, seconds, promptSeconds } = this.#stats;
    const generating = seconds - promptSeconds;
    return { ...this.#stats, tokensPerSecond: tokens > 0 && generating > 0 ? tokens / generating : 0 };
  }

  /** Why it ended; undefined until then, and when it was stopped from here. */
  get finishReason(): FinishReason | undefined {
    return this.#finish;
  }

  /** The whole text. */
  async text(): Promise<string> {
    let text = "";
    for await (const piece of this) text += piece;
    return text;
  }

  /** Pieces of text as they come, most of them a token long. */
  [Symbol.asyncIterator](): AsyncGenerator<string, undefined, undefined> {
    return this.#read("text") as AsyncGenerator<string, undefined, undefined>;
  }

  /** Token ids as they come, in place of text: for models that have no tokenizer. */
  ids(): AsyncGenerator<number, undefined, undefined> {
    return this.#read("ids") as AsyncGenerator<number, undefined, undefined>;
  }

  async *#read(give: Give): AsyncGenerator<string | number, undefined, undefined> {
    if (this.#begun)
      throw new SternaError("invalid-argument", "a generation can be read only once; call generate again");
    this.#begun = true;
    const signal = this.#signal;
    if (signal?.aborted) throw aborted(signal, "the generation");
    const stream = this.#host.generate(this.#prompt, this.#options, give);
    const abort = (): void => stream.cancel(signal && aborted(signal, "the generation"));
    signal?.addEventListener("abort", abort);
    try {
      for (let batch = await stream.next(); batch; batch = await stream.next()) {
        this.#stats = batch.stats;
        for (const piece of batch.pieces) {
          yield piece;
          if (signal?.aborted) throw aborted(signal, "the generation");
        }
        stream.credit();
      }
      if (stream.result) {
        this.#stats = stream.result.stats;
        this.#finish = stream.result.finish;
      }
      return undefined;
    } finally {
      signal?.removeEventListener("abort", abort);
      stream.cancel();
      // The model's worker must not be ended as dropped while this is being read.
      void this.#model;
    }
  }
}

/** Checks options and completes them. @internal */
export function startOptions(options: GenerateOptions): StartOptions {
  const { stop, seed = drawn() } = options;
  const { maxTokens, topK, repeatLastN, keep } = options;
  const whole = { maxTokens, topK, repeatLastN, keep };
  for (const [name, value] of Object.entries(whole)) {
    const fine = value === undefined || (Number.isInteger(value) && value >= 0 && value < 2 ** 32);
    if (!fine) invalid(`${name} must be a whole number, at least 0`);
  }
  const shares = { topP: options.topP, minP: options.minP };
  for (const [name, value] of Object.entries(shares)) {
    if (value !== undefined && !(value >= 0 && value <= 1)) invalid(`${name} must be a number from 0 to 1`);
  }
  const { temperature, repeatPenalty } = options;
  if (temperature !== undefined && !(temperature >= 0 && Number.isFinite(temperature))) {
    invalid("temperature must be a number, at least 0");
  }
  if (repeatPenalty !== undefined && !(repeatPenalty > 0 && Number.isFinite(repeatPenalty))) {
    invalid("repeatPenalty must be a number above 0");
  }
  const penalties = { frequencyPenalty: options.frequencyPenalty, presencePenalty: options.presencePenalty };
  for (const [name, value] of Object.entries(penalties)) {
    if (value !== undefined && !Number.isFinite(value)) invalid(`${name} must be a number`);
  }
  const logitBias = options.logitBias === undefined ? undefined : biases(options.logitBias);
  if (!Number.isSafeInteger(seed) || seed < 0) invalid("seed must be a whole number from 0 to 2^53 - 1");
  const stops = stop === undefined ? undefined : typeof stop === "string" ? [stop] : [...(list(stop) ?? [])];
  if (stops?.some((text) => typeof text !== "string" || text === "")) invalid("stop must be texts that are not empty");
  const flags = { slide: options.slide, ignoreEos: options.ignoreEos };
  for (const [name, value] of Object.entries(flags)) {
    if (value !== undefined && typeof value !== "boolean") invalid(`${name} must be true or false`);
  }
  const all = { ...whole, ...shares, ...penalties, ...flags, temperature, repeatPenalty, logitBias, stop: stops };
  const given = Object.entries(all).filter(([, value]) => value !== undefined);
  return { ...(Object.fromEntries(given) as Partial<StartOptions>), seed };
}

function biases(given: unknown): [number, number | null][] {
  if (typeof given !== "object" || given === null) invalid("logitBias must be an object: numbers by token id");
  return Object.entries(given as Record<string, unknown>).map(([id, bias]) => {
    const token = Number(id);
    if (!/^\d+$/.test(id) || token >= 2 ** 32) invalid(`logitBias: ${id} is not a token id`);
    if (typeof bias !== "number" || !(bias < Infinity)) invalid(`logitBias of token ${id} must be a number or -Infinity`);
    return [token, bias === -Infinity ? null : bias];
  });
}

function list(stop: unknown): readonly string[] {
  return Array.isArray(stop) ? (stop as string[]) : invalid("stop must be a text or a list of texts");
}

/** A seed that fits into 32 bits, so that it is easily noted down. */
function drawn(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
}
