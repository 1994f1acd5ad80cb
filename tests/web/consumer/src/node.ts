// The package in a program for Node.
import { load } from "sterna";

using model = await load(new URL("../public/shakespeare.gguf", import.meta.url), { threads: 1 });
console.log(await model.generate("ROMEO:", { maxTokens: 20, stop: ["\n\n"] }).text());
