import * as glue from "../wasm/relaxed-threads/sterna.js";
import { serve } from "../engine.js";

serve(glue);
