import * as glue from "../wasm/simd128/sterna.js";
import { serve } from "../engine.js";

serve(glue);
