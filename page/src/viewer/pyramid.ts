/** A picture at halves of its size, and what of it falls on the screen. */

import type { FilmShape, Size, View } from "./geometry";

export type Grey = Uint8Array | Uint16Array;

export interface Level {
  pixels: Grey;
  rows: number;
  columns: number;
  /** Pixels of this level per pixel of the first; an odd last row is dropped, so that it is not the ratio of rows. */
  share: number;
}

/** Return the picture and its halves, down to about 256 pixels: shrinking by skipping would drop thin lines. */
export function pyramid(pixels: Grey, rows: number, columns: number): Level[] {
  const levels: Level[] = [{ pixels, rows, columns, share: 1 }];
  for (let last = levels[0]!; Math.max(last.rows, last.columns) > 512 && Math.min(last.rows, last.columns) > 1; ) {
    last = half(last);
    levels.push(last);
  }
  return levels;
}

function half(level: Level): Level {
  const rows = level.rows >> 1;
  const columns = level.columns >> 1;
  const { pixels, columns: stride } = level;
  const out = pixels instanceof Uint16Array ? new Uint16Array(rows * columns) : new Uint8Array(rows * columns);
  for (let row = 0, to = 0; row < rows; row += 1) {
    let at = 2 * row * stride;
    for (let column = 0; column < columns; column += 1, at += 2, to += 1) {
      out[to] = (pixels[at]! + pixels[at + 1]! + pixels[at + stride]! + pixels[at + stride + 1]! + 2) >> 2;
    }
  }
  return { pixels: out, rows, columns, share: level.share / 2 };
}

/** The part of the canvas that the film covers: first and last, in canvas pixels, the last one excluded. */
export interface Part {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** Return which canvas pixels have their middle on the film. */
export function coveredPart(view: View, canvas: Size, film: FilmShape): Part {
  const across = view.scale;
  const down = view.scale * film.aspect;
  const first = (middle: number, at: number, scale: number) => Math.ceil(middle - at * scale - 0.5);
  const last = (middle: number, at: number, scale: number, length: number) =>
    Math.ceil(middle + (length - at) * scale - 0.5);
  const clip = (value: number, most: number) => Math.min(Math.max(value, 0), most);
  return {
    left: clip(first(canvas.width / 2, view.x, across), canvas.width),
    top: clip(first(canvas.height / 2, view.y, down), canvas.height),
    right: clip(last(canvas.width / 2, view.x, across, film.columns), canvas.width),
    bottom: clip(last(canvas.height / 2, view.y, down, film.rows), canvas.height),
  };
}

/**
 * Write the picture as the canvas shows it into `out`, (canvas height, canvas width), bilinear, from the level that is
 * least larger than the screen needs. Only the covered part is written.
 *
 * The picture may have another size than the film: it covers the whole of it.
 */
export function resample(levels: Level[], view: View, canvas: Size, film: FilmShape, part: Part, out: Grey): void {
  const level = chooseLevel(levels, view, film);
  const across = (level.share * levels[0]!.columns) / film.columns;
  const down = (level.share * levels[0]!.rows) / film.rows;
  const columns = taps(part.left, part.right, canvas.width / 2, view.x, view.scale, across, level.columns);
  const rows = taps(part.top, part.bottom, canvas.height / 2, view.y, view.scale * film.aspect, down, level.rows);
  const { pixels, columns: stride } = level;
  const width = part.right - part.left;
  for (let row = part.top, j = 0; row < part.bottom; row += 1, j += 1) {
    const upper = rows.first[j]! * stride;
    const lower = rows.second[j]! * stride;
    const below = rows.weight[j]!;
    let to = row * canvas.width + part.left;
    for (let i = 0; i < width; i += 1, to += 1) {
      const left = columns.first[i]!;
      const right = columns.second[i]!;
      const beside = columns.weight[i]!;
      const above = pixels[upper + left]! * (256 - beside) + pixels[upper + right]! * beside;
      const under = pixels[lower + left]! * (256 - beside) + pixels[lower + right]! * beside;
      out[to] = (above * (256 - below) + under * below + 32768) / 65536;
    }
  }
}

function chooseLevel(levels: Level[], view: View, film: FilmShape): Level {
  const needed = Math.max(film.columns * view.scale, 1);
  let chosen = levels[0]!;
  for (const level of levels) if (level.columns >= needed) chosen = level;
  return chosen;
}

interface Taps {
  first: Int32Array;
  second: Int32Array;
  /** Of the second, of 256. */
  weight: Int32Array;
}

function taps(from: number, to: number, middle: number, at: number, scale: number, ratio: number, count: number): Taps {
  const length = Math.max(to - from, 0);
  const found = { first: new Int32Array(length), second: new Int32Array(length), weight: new Int32Array(length) };
  for (let i = 0; i < length; i += 1) {
    // The middle of a canvas pixel, in the level's own pixels, whose middles lie at halves.
    const place = (at + (from + i + 0.5 - middle) / scale) * ratio - 0.5;
    const floor = Math.floor(place);
    found.first[i] = Math.min(Math.max(floor, 0), count - 1);
    found.second[i] = Math.min(Math.max(floor + 1, 0), count - 1);
    found.weight[i] = Math.round((place - floor) * 256);
  }
  return found;
}
