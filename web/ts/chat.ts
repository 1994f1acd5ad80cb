/** Conversations, in the shape of OpenAI's API. */
import { invalid } from "./errors.js";
import { Generation, startOptions } from "./generation.js";
import type { FinishReason, GenerateOptions, GenerationStats } from "./generation.js";
import type { Host } from "./host.js";

/** A message of a conversation. Templates may look at more than role and content (`tool_calls`, `name`, ...). */
export interface ChatMessage {
  /** `system`, `user`, `assistant` or `tool`. */
  role: string;
  /** The text. */
  content: string;
  [attribute: string]: unknown;
}

/** How a conversation is answered. */
export interface ChatOptions extends GenerateOptions {
  /** What else the chat template may look at: `{ tools: [...] }`, `{ enable_thinking: false }`. */
  template?: Record<string, unknown>;
}

/** A piece of the answer. */
export interface ChatChunk {
  /** The same for all chunks of an answer. */
  id: string;
  object: "chat.completion.chunk";
  /** Seconds since 1970. */
  created: number;
  /** The model's name. */
  model: string;
  choices: {
    index: 0;
    /** `role` comes in the first chunk, `content` in all others but the last. */
    delta: { role?: "assistant"; content?: string };
    /** In the last chunk: `stop`, or `length` when `maxTokens` or the context's end was reached. */
    finish_reason: "stop" | "length" | null;
  }[];
  /** In the last chunk. */
  usage?: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
}

/** An answer on its way: read it once, chunk by chunk with `for await`, or whole with `text()`. */
export class Chat implements AsyncIterable<ChatChunk> {
  readonly #generation: Generation;
  readonly #name: string;

  /** @internal */
  constructor(model: { info: { name: string } }, host: Host, messages: readonly ChatMessage[], options: ChatOptions) {
    const start = startOptions(options);
    const prompt = { messages: JSON.stringify(checked(messages)), extras: extras(options.template) };
    this.#generation = new Generation(model, host, prompt, start, options.signal);
    this.#name = model.info.name;
  }

  /** The seed in use. */
  get seed(): number {
    return this.#generation.seed;
  }

  /** Counts and times. */
  get stats(): GenerationStats {
    return this.#generation.stats;
  }

  /** Why it ended; undefined until then, and when it was stopped from here. */
  get finishReason(): FinishReason | undefined {
    return this.#generation.finishReason;
  }

  /** The whole answer. */
  text(): Promise<string> {
    return this.#generation.text();
  }

  /** Chunks as they come. */
  async *[Symbol.asyncIterator](): AsyncGenerator<ChatChunk, undefined, undefined> {
    const id = `chatcmpl-${Array.from(crypto.getRandomValues(new Uint32Array(3)), (word) => word.toString(36)).join("")}`;
    const created = Math.floor(Date.now() / 1000);
    const chunk = (
      delta: ChatChunk["choices"][number]["delta"],
      finish_reason: "stop" | "length" | null = null,
    ): ChatChunk => ({
      id,
      object: "chat.completion.chunk",
      created,
      model: this.#name,
      choices: [{ index: 0, delta, finish_reason }],
    });
    let first = true;
    for await (const piece of this.#generation) {
      if (first) yield chunk({ role: "assistant" });
      first = false;
      yield chunk({ content: piece });
    }
    if (first) yield chunk({ role: "assistant" });
    const { promptTokens: prompt_tokens, tokens: completion_tokens } = this.stats;
    const usage = { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
    yield { ...chunk({}, this.finishReason === "stop" ? "stop" : "length"), usage };
    return undefined;
  }
}

function checked(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  if (!Array.isArray(messages) || messages.length === 0) invalid("chat takes a list of messages");
  for (const message of messages as unknown[]) {
    const { role, content } = (message ?? {}) as Partial<ChatMessage>;
    const fine = typeof role === "string" && role !== "" && typeof content === "string";
    if (!fine) invalid('a message looks like { role: "user", content: "text" }');
  }
  return messages;
}

function extras(template: Record<string, unknown> | undefined): string {
  if (template === undefined) return "{}";
  if (typeof template !== "object" || template === null) invalid("template must be an object");
  try {
    return JSON.stringify(template);
  } catch {
    return invalid("template must be what JSON can hold");
  }
}
