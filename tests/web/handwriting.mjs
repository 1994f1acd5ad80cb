// Digits as a person with a mouse draws them: corners of strokes, in units of the pad's side, not smoothed. They are not
// those that the page's own buttons draw.

/** Corners on an ellipse, angles in degrees from the right, clockwise on the screen. */
const bow = (x, y, across, down, from, to, corners = 12) =>
  Array.from({ length: corners + 1 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / corners) * Math.PI) / 180;
    return [x + across * Math.cos(angle), y + down * Math.sin(angle)];
  });

/** Strokes of each digit. */
export const HANDWRITING = [
  [bow(0.46, 0.48, 0.17, 0.27, -80, 285)],
  [[[0.5, 0.2], [0.48, 0.5], [0.47, 0.78]]],
  [[...bow(0.5, 0.38, 0.18, 0.18, 190, 380), [0.55, 0.6], [0.3, 0.82], [0.5, 0.8], [0.72, 0.82]]],
  [[...bow(0.45, 0.34, 0.17, 0.15, 215, 440), ...bow(0.45, 0.66, 0.2, 0.18, -75, 145)]],
  [[[0.34, 0.2], [0.3, 0.5], [0.5, 0.52], [0.72, 0.5]], [[0.62, 0.2], [0.6, 0.5], [0.6, 0.84]]],
  [[[0.38, 0.22], [0.36, 0.46], ...bow(0.46, 0.62, 0.19, 0.18, 235, 500)], [[0.38, 0.22], [0.68, 0.2]]],
  [[[0.62, 0.16], [0.48, 0.28], [0.38, 0.48], ...bow(0.5, 0.66, 0.14, 0.16, 185, -170)]],
  [[[0.28, 0.26], [0.5, 0.25], [0.7, 0.24], [0.56, 0.5], [0.44, 0.84]]],
  [[...bow(0.5, 0.34, 0.14, 0.14, -40, -270), ...bow(0.5, 0.64, 0.17, 0.16, -90, 270), ...bow(0.5, 0.34, 0.14, 0.14, 90, -40)]],
  [[...bow(0.46, 0.34, 0.15, 0.15, 0, -350), [0.62, 0.5], [0.58, 0.84]]],
];
