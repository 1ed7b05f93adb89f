/** The state of the viewer and what can be done to it; buttons, keys and gestures all come through here. */

import { batch, computed, signal } from "@preact/signals";
import { Problem, api, heatmapUrl, pixelsUrl } from "../api";
import type { Film, Prediction } from "../types";
import { type FilmShape, type Size, type Spot, type View, clamp, fit, pan, zoom } from "./geometry";
import { PRESETS, type Preset, type Window, histogram, presetWindow } from "./lut";
import { Painter, type Picture } from "./painter";

export type Tool = "window" | "pan";

const KEPT = "rentgen.heat";

interface Kept {
  on: boolean;
  opacity: number;
}

function kept(): Kept {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEPT) ?? "null");
    if (typeof found === "object" && found !== null && "on" in found && "opacity" in found) {
      return { on: found.on !== false, opacity: clamp(Number(found.opacity) || 0.45, 0.05, 1) };
    }
  } catch {
    // Something else was kept under this name; the defaults do.
  }
  return { on: true, opacity: 0.45 };
}

export const painter = signal<Painter | null>(null);
export const loading = signal<number | null>(null);
export const problem = signal<Problem | null>(null);
export const canvasSize = signal<Size>({ width: 0, height: 0 });
export const view = signal<View>({ scale: 1, x: 0, y: 0 });
/** Whether the film is to stay fitted when the canvas changes its size. */
export const fitted = signal(true);
export const greyWindow = signal<Window>({ centre: 128, width: 255 });
export const preset = signal<Preset | null>("auto");
export const invert = signal(false);
export const tool = signal<Tool>("window");
export const heatOn = signal(kept().on);
export const opacity = signal(kept().opacity);
export const heatLabel = signal<string | null>(null);
export type HeatState = "none" | "loading" | "shown" | "empty" | "failed";
export const heatState = signal<HeatState>("none");

export const levels = computed(() => painter.value?.levels ?? 256);
const shape = computed<FilmShape | null>(() => painter.value?.shape ?? null);

let counts = new Uint32Array(1024);

/** Films that were looked at last, so that going back and forth costs nothing. */
const seen = new Map<string, Picture>();
const SEEN_BYTES = 120_000_000;

function remember(id: string, picture: Picture): void {
  seen.delete(id);
  seen.set(id, picture);
  let bytes = [...seen.values()].reduce((sum, one) => sum + one.pixels.byteLength, 0);
  for (const [old, one] of seen) {
    if (bytes <= SEEN_BYTES || old === id) break;
    seen.delete(old);
    bytes -= one.pixels.byteLength;
  }
}

let current = "";
let abort = new AbortController();

/** Show a film as it opens: fitted, windowed by its own range. */
export async function showFilm(film: Film | null): Promise<void> {
  const id = film?.id ?? "";
  // Peeked at: an effect that calls this must not begin anew because it failed.
  if (id === current && problem.peek() === null) return;
  current = id;
  abort.abort();
  abort = new AbortController();
  const { signal: leaving } = abort;
  batch(() => {
    painter.value = null;
    problem.value = null;
    heatState.value = "none";
    loading.value = film === null ? null : 0;
  });
  if (film === null) return;
  try {
    const picture = seen.get(id) ?? (await fetchPicture(id, leaving));
    if (leaving.aborted) return;
    remember(id, picture);
    const aspect = film.spacing_mm ? film.spacing_mm[0] / film.spacing_mm[1] : 1;
    counts = histogram(picture.pixels, picture.bits === 16 ? 65536 : 256) as Uint32Array<ArrayBuffer>;
    batch(() => {
      painter.value = new Painter(picture, aspect > 0.2 && aspect < 5 ? aspect : 1);
      loading.value = null;
      reset();
    });
  } catch (error) {
    if (leaving.aborted) return;
    batch(() => {
      loading.value = null;
      problem.value = error instanceof Problem ? error : new Problem(0, "gone", "");
    });
  }
}

async function fetchPicture(id: string, leaving: AbortSignal): Promise<Picture> {
  const { headers, bytes } = await api.bytes(pixelsUrl(id), (share) => (loading.value = share), leaving);
  const rows = Number(headers.get("X-Rows"));
  const columns = Number(headers.get("X-Columns"));
  const bits = headers.get("X-Bits-Allocated") === "16" ? 16 : 8;
  if (!(rows > 0 && columns > 0) || bytes.byteLength !== (rows * columns * bits) / 8) throw new Problem(0, "short", "");
  // Every processor that runs a browser is little endian, as the bytes are.
  return { rows, columns, bits, pixels: bits === 16 ? new Uint16Array(bytes) : new Uint8Array(bytes) };
}

/** A heat map is smooth: it was drawn up from a coarse grid, so that a megapixel of it is plenty. */
const HEAT_SIDE = 1024;

/** Fetch a class's heat map and hand it to the painter. */
export async function showHeat(answer: Prediction | null, label: string | null): Promise<void> {
  const on = painter.peek();
  if (on === null) return;
  const { signal: leaving } = abort;
  if (answer === null || answer.heatmap_url === null || label === null) {
    on.setHeat(null, 0, 0);
    heatState.value = "none";
    return;
  }
  heatState.value = "loading";
  try {
    const { bytes } = await api.bytes(heatmapUrl(answer.image_id, answer.model, label), undefined, leaving);
    const heat = await decode(bytes);
    if (leaving.aborted || painter.value !== on || heatLabel.value !== label) return;
    on.setHeat(heat.pixels, heat.rows, heat.columns);
    heatState.value = heat.pixels.some((value) => value > 0) ? "shown" : "empty";
  } catch {
    if (leaving.aborted || painter.value !== on) return;
    on.setHeat(null, 0, 0);
    heatState.value = "failed";
  }
}

async function decode(bytes: ArrayBuffer): Promise<{ pixels: Uint8Array; rows: number; columns: number }> {
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const share = Math.min(1, HEAT_SIDE / Math.max(bitmap.width, bitmap.height));
  const columns = Math.max(1, Math.round(bitmap.width * share));
  const rows = Math.max(1, Math.round(bitmap.height * share));
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, columns, rows);
  bitmap.close();
  const { data } = context.getImageData(0, 0, columns, rows);
  const pixels = new Uint8Array(rows * columns);
  for (let at = 0; at < pixels.length; at += 1) pixels[at] = data[4 * at]!;
  return { pixels, rows, columns };
}

export function setHeatOn(on: boolean, keep = true): void {
  heatOn.value = on;
  if (keep) localStorage.setItem(KEPT, JSON.stringify({ on, opacity: opacity.value }));
}

/** Show the heat map as it was last wished for; but never unasked over a film whose answer is in doubt. */
export function restoreHeat(trusted: boolean): void {
  heatOn.value = trusted && kept().on;
}

export function setOpacity(value: number): void {
  opacity.value = clamp(value, 0.05, 1);
  localStorage.setItem(KEPT, JSON.stringify({ on: heatOn.value, opacity: opacity.value }));
}

export function setPreset(chosen: Preset): void {
  preset.value = chosen;
  greyWindow.value = presetWindow(chosen, counts, levels.value);
}

export function nextPreset(): void {
  const at = preset.value === null ? -1 : PRESETS.indexOf(preset.value);
  setPreset(PRESETS[(at + 1) % PRESETS.length]!);
}

export function setWindow(centre: number, width: number): void {
  preset.value = null;
  const most = levels.value;
  greyWindow.value = { centre: clamp(centre, 0, most - 1), width: clamp(width, most / 256, 2 * most) };
}

/** Move level and width by shares of what the window spans now, so that a drag is as fine as the window is. */
export function nudgeWindow(level: number, width: number): void {
  const { centre, width: wide } = greyWindow.value;
  const span = Math.max(wide, levels.value / 32);
  setWindow(centre + level * span, wide + width * span);
}

export function fitFilm(): void {
  if (shape.value === null) return;
  fitted.value = true;
  view.value = fit(canvasSize.value, shape.value);
}

export function oneToOne(): void {
  if (shape.value === null) return;
  const middle = { x: canvasSize.value.width / 2, y: canvasSize.value.height / 2 };
  zoomAbout(middle, 1 / view.value.scale);
}

export function zoomAbout(spot: Spot, factor: number): void {
  if (shape.value === null) return;
  fitted.value = false;
  view.value = zoom(view.value, canvasSize.value, shape.value, spot, factor);
}

export function zoomMiddle(factor: number): void {
  zoomAbout({ x: canvasSize.value.width / 2, y: canvasSize.value.height / 2 }, factor);
}

export function move(by: Spot): void {
  if (shape.value === null) return;
  fitted.value = false;
  view.value = pan(view.value, canvasSize.value, shape.value, by);
}

export function reset(): void {
  batch(() => {
    invert.value = false;
    setPreset("auto");
    fitFilm();
  });
}
