/** The generated modules are not there yet when this is compiled; worker entries hold them to `Glue`. */
declare module "*/sterna.js" {
  import type { Glue } from "../glue.js";
  const init: Glue["default"];
  export default init;
  export const initThreadPool: NonNullable<Glue["initThreadPool"]>;
  export const wbg_rayon_start_worker: NonNullable<Glue["wbg_rayon_start_worker"]>;
  export const kernels: Glue["kernels"];
  export const threads: Glue["threads"];
  export const centre: Glue["centre"];
  export const benchKernel: Glue["benchKernel"];
  export const Loader: Glue["Loader"];
}
