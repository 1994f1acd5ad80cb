import * as glue from "../wasm/small-relaxed/sterna.js";
import { serve } from "../engine.js";

serve(glue);
