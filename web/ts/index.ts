/** Ternary language models in the browser and in Node. docs/javascript.md is the guide. */
export { benchmark } from "./benchmark.js";
export type { BenchmarkOptions, BenchmarkResult } from "./benchmark.js";
export { cache } from "./cache.js";
export type { CacheEntry } from "./cache.js";
export type { Chat, ChatChunk, ChatMessage, ChatOptions } from "./chat.js";
export type { Drawing } from "./drawing.js";
export { SternaError } from "./errors.js";
export type { SternaErrorCode } from "./errors.js";
export type { FinishReason, GenerateOptions, Generation, GenerationStats } from "./generation.js";
export { load } from "./load.js";
export type { LoadOptions } from "./load.js";
export type {
  CallOptions,
  Classification,
  DetokenizeOptions,
  Model,
  ModelCard,
  ModelInfo,
  TokenizeOptions,
} from "./model.js";
export type { HubFile, Progress, Source } from "./source.js";
export { support } from "./variant.js";
export type { Support } from "./variant.js";
