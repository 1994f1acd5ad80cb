/** The inside of a pool worker: joins an engine worker's pool of threads with its module and memory, and computes. */
import { plain } from "./errors.js";
import type { Glue } from "./glue.js";
import type { FromPool, ToPool } from "./protocol.js";
import { ownPort } from "./worker-port.js";

/** Waits for the one message that there is. */
export function join(glue: Pick<Glue, "default" | "wbg_rayon_start_worker">): void {
  const port = ownPort<ToPool, FromPool>();
  port.listen(({ module, memory, receiver }) => {
    glue.default({ module_or_path: module, memory }).then(
      () => {
        port.post({ type: "ready" });
        // Blocks for as long as the pool lives.
        glue.wbg_rayon_start_worker?.(receiver);
      },
      (error: unknown) => port.post({ type: "fatal", error: plain(error, "crashed") }),
    );
  });
}
