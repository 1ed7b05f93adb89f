/** From stored grey to the screen's grey, and from activation to colour. */

export interface Window {
  /** In stored values. */
  centre: number;
  width: number;
}

/** Return the screen's grey, 0 to 255, of every stored value. */
export function windowTable(levels: number, window: Window, invert: boolean): Uint8ClampedArray {
  const table = new Uint8ClampedArray(levels);
  const low = window.centre - window.width / 2;
  const slope = 255 / Math.max(window.width, 1e-6);
  for (let value = 0; value < levels; value += 1) {
    const grey = (value - low) * slope;
    table[value] = invert ? 255 - Math.min(Math.max(grey, 0), 255) : grey;
  }
  return table;
}

export type Preset = "full" | "auto" | "lungs" | "dense";

/** Shares of the film's pixels below the window's two ends; air is dark, so lungs lie low and bone lies high. */
const ENDS: Record<Exclude<Preset, "full">, [number, number]> = {
  auto: [0.01, 0.995],
  lungs: [0.02, 0.72],
  dense: [0.45, 0.999],
};

export const PRESETS: readonly Preset[] = ["full", "auto", "lungs", "dense"];

/** Return how often each of 1024 equal steps of the range occurs; every pixel of a small film, a sample of a large one. */
export function histogram(pixels: Uint8Array | Uint16Array, levels: number): Uint32Array {
  const counts = new Uint32Array(1024);
  const shift = levels / 1024;
  const step = Math.max(1, Math.floor(pixels.length / 400_000));
  for (let at = 0; at < pixels.length; at += step) {
    const bin = Math.floor((pixels[at] ?? 0) / shift);
    counts[bin] = (counts[bin] ?? 0) + 1;
  }
  return counts;
}

/** Return a preset's window for a film with this histogram. Pure black and white, mostly masks, do not count. */
export function presetWindow(preset: Preset, counts: Uint32Array, levels: number): Window {
  if (preset === "full") return { centre: (levels - 1) / 2, width: levels - 1 };
  const inner = counts.slice(1, -1);
  const total = inner.reduce((sum, count) => sum + count, 0);
  const [first, last] = ENDS[preset];
  const step = levels / counts.length;
  const low = (1 + quantile(inner, total * first)) * step;
  const high = (2 + quantile(inner, total * last)) * step;
  // A film of one shade still needs a window.
  const width = Math.max(high - low, levels / 64);
  return { centre: (low + high) / 2, width };
}

function quantile(counts: Uint32Array, target: number): number {
  let sum = 0;
  for (let bin = 0; bin < counts.length; bin += 1) {
    sum += counts[bin] ?? 0;
    if (sum > target) return bin;
  }
  return counts.length - 1;
}

/** The same anchors as the package's own overlays: lightness rises all the way, so that order shows without hue. */
const ANCHORS: readonly (readonly [number, readonly [number, number, number]])[] = [
  [0.0, [76, 14, 108]],
  [0.2, [128, 31, 108]],
  [0.4, [188, 55, 84]],
  [0.6, [232, 97, 45]],
  [0.8, [250, 160, 20]],
  [1.0, [252, 240, 120]],
];

/** Activation, relative to the maximum, up to which the film shows untouched. */
const COLD = 0.08;

export interface HeatTable {
  red: Float32Array;
  green: Float32Array;
  blue: Float32Array;
  /** 0 where the film shows untouched. */
  alpha: Float32Array;
}

/** Return colour and density of every activation 0 to 255. */
export function heatTable(opacity: number): HeatTable {
  const channel = () => new Float32Array(256);
  const table: HeatTable = { red: channel(), green: channel(), blue: channel(), alpha: channel() };
  for (let value = 0; value < 256; value += 1) {
    const heat = value / 255;
    const [red, green, blue] = heatColour(heat);
    table.red[value] = red;
    table.green[value] = green;
    table.blue[value] = blue;
    const rise = Math.min(Math.max((heat - COLD) / (0.6 - COLD), 0), 1);
    table.alpha[value] = opacity * rise * (2 - rise);
  }
  return table;
}

/** Return the colour of an activation in [0, 1]. */
export function heatColour(heat: number): [number, number, number] {
  for (let at = 1; at < ANCHORS.length; at += 1) {
    const [end, to] = ANCHORS[at]!;
    const [begin, from] = ANCHORS[at - 1]!;
    if (heat <= end) {
      const share = (heat - begin) / (end - begin);
      return [0, 1, 2].map((i) => from[i]! + (to[i]! - from[i]!) * share) as [number, number, number];
    }
  }
  return [...ANCHORS[ANCHORS.length - 1]![1]] as [number, number, number];
}
