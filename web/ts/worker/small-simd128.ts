import * as glue from "../wasm/small-simd128/sterna.js";
import { serve } from "../engine.js";

serve(glue);
