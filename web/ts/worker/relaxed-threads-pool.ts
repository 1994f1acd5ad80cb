import * as glue from "../wasm/relaxed-threads/sterna.js";
import { join } from "../pool.js";

join(glue);
