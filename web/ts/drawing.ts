/** Drawings as canvases have them, to one byte a pixel. */
import { invalid } from "./errors.js";
import type { Canvas } from "./protocol.js";

/** A drawing: an `ImageData`, or pixels of one's own. */
export interface Drawing {
  /** One byte a pixel (grey), or four (red, green, blue, alpha), row by row. */
  data: Uint8Array | Uint8ClampedArray;
  /** Columns. */
  width: number;
  /** Rows. */
  height: number;
  /**
   * What is ink: `dark` pixels on light ground, `light` ones on dark ground, or with RGBA whatever is not transparent
   * (`alpha`). If not given: `alpha` where there is transparency, otherwise `dark`.
   */
  ink?: "dark" | "light" | "alpha";
}

/** One byte a pixel. @internal */
export function greyOf({ data, width, height, ink }: Drawing): Canvas {
  const pixels = width * height;
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) {
    invalid("a drawing's width and height are whole numbers, at least 1");
  }
  if (!(data instanceof Uint8Array) && !(data instanceof Uint8ClampedArray)) {
    invalid("a drawing's data is a Uint8Array or a Uint8ClampedArray");
  }
  if (ink !== undefined && ink !== "dark" && ink !== "light" && ink !== "alpha") {
    invalid("ink must be dark, light or alpha");
  }
  if (data.length === pixels) {
    if (ink === "alpha") invalid("ink can be alpha only where there are four bytes a pixel");
    return { grey: new Uint8Array(data), width, height, dark: ink !== "light" };
  }
  if (data.length !== 4 * pixels) {
    invalid(`a drawing of ${width} x ${height} has ${pixels} bytes, or ${4 * pixels} with colours, not ${data.length}`);
  }
  const grey = new Uint8Array(pixels);
  const at = (index: number): number => data[index] ?? 0;
  const opaque = (): boolean => grey.every((_, i) => at(4 * i + 3) === 255);
  if (ink === "alpha" || (ink === undefined && !opaque())) {
    for (let i = 0; i < pixels; i++) grey[i] = at(4 * i + 3);
    return { grey, width, height, dark: false };
  }
  // Transparent is paper: white under dark ink, black under light.
  const dark = ink !== "light";
  const paper = dark ? 255 : 0;
  for (let i = 0; i < pixels; i++) {
    // Rec. 601's weights of what the eye takes for brightness.
    const luma = 0.299 * at(4 * i) + 0.587 * at(4 * i + 1) + 0.114 * at(4 * i + 2);
    const alpha = at(4 * i + 3) / 255;
    grey[i] = Math.round(luma * alpha + paper * (1 - alpha));
  }
  return { grey, width, height, dark };
}
