import * as glue from "../wasm/relaxed/sterna.js";
import { serve } from "../engine.js";

serve(glue);
