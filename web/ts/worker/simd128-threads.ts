import * as glue from "../wasm/simd128-threads/sterna.js";
import { serve } from "../engine.js";

serve(glue);
