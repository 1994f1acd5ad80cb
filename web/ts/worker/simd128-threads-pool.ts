import * as glue from "../wasm/simd128-threads/sterna.js";
import { join } from "../pool.js";

join(glue);
