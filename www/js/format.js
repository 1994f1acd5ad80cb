// Numbers as people read them. Sizes are decimal: 1 KB is 1,000 bytes.

const plain = new Intl.NumberFormat('en-GB');

/** A whole number with separators. */
export const count = (n) => plain.format(Math.round(n));

/** Three significant digits, more where the whole part is longer. */
export function number(n) {
  if (!Number.isFinite(n)) return '–';
  const digits = Math.abs(n) >= 100 ? 0 : Math.abs(n) >= 10 ? 1 : 2;
  return n.toLocaleString('en-GB', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** Bytes in the unit that fits. */
export function bytes(n) {
  if (!Number.isFinite(n)) return '–';
  const units = ['bytes', 'KB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (n >= 999.5 && unit < units.length - 1) {
    n /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? n : n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

/** Seconds in the unit that fits. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.1) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1e3)} ms`;
  return seconds < 90 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** A count of weights: 1.7 billion. */
export function weights(n) {
  if (!Number.isFinite(n)) return '–';
  const [size, name] = n >= 1e9 ? [1e9, ' billion'] : n >= 1e6 ? [1e6, ' million'] : n >= 1e3 ? [1e3, ' thousand'] : [1, ''];
  return `${(n / size).toLocaleString('en-GB', { maximumSignificantDigits: 3 })}${name}`;
}

/** A share from 0 to 1 as per cent. */
export const percent = (share) => `${(share * 100).toFixed(1)} %`;

/** `1 thread`, `2 threads`. */
export const many = (n, one) => `${count(n)} ${one}${n === 1 ? '' : 's'}`;
