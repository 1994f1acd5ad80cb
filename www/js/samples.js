// The ten digits as strokes, for the buttons that draw one.

/** Points on an ellipse, angles in turns from the right, clockwise on the screen. */
function arc(x, y, across, down, from, to, points = 28) {
  return Array.from({ length: points + 1 }, (_, i) => {
    const angle = 2 * Math.PI * (from + ((to - from) * i) / points);
    return [x + across * Math.cos(angle), y + down * Math.sin(angle)];
  });
}

/** Points on straight lines between corners. */
function line(...corners) {
  return corners.flatMap(([x, y], i) => {
    if (i === 0) return [[x, y]];
    const [fromX, fromY] = corners[i - 1];
    return Array.from({ length: 10 }, (_, step) => [fromX + ((x - fromX) * (step + 1)) / 10, fromY + ((y - fromY) * (step + 1)) / 10]);
  });
}

/** Strokes of each digit, in units of the pad's side. */
export const DIGITS = [
  [arc(0.5, 0.5, 0.19, 0.3, -0.25, 0.77, 44)],
  [line([0.54, 0.2], [0.46, 0.8])],
  [[...arc(0.49, 0.36, 0.17, 0.16, -0.46, 0.07), ...line([0.6, 0.5], [0.32, 0.79]), ...line([0.35, 0.79], [0.72, 0.77])]],
  [[...arc(0.47, 0.35, 0.16, 0.14, -0.42, 0.24), ...arc(0.47, 0.64, 0.19, 0.16, -0.22, 0.42)]],
  [line([0.36, 0.2], [0.31, 0.54], [0.7, 0.52]), line([0.61, 0.24], [0.58, 0.82])],
  [[...line([0.67, 0.21], [0.41, 0.22], [0.38, 0.46]), ...arc(0.47, 0.61, 0.19, 0.18, -0.3, 0.4)]],
  [[...line([0.6, 0.18], [0.47, 0.3], [0.37, 0.5]), ...arc(0.5, 0.65, 0.15, 0.16, 0.5, -0.52, 36)]],
  [line([0.31, 0.23], [0.69, 0.22], [0.46, 0.82])],
  [Array.from({ length: 49 }, (_, i) => [0.5 - 0.16 * Math.sin((2 * Math.PI * 2 * i) / 48), 0.5 - 0.3 * Math.cos((2 * Math.PI * i) / 48)])],
  [[...arc(0.48, 0.36, 0.15, 0.15, -0.02, -1.02, 36), ...line([0.63, 0.38], [0.61, 0.58], [0.56, 0.82])]],
];
