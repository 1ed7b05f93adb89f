/**
 * Where the film lies on the canvas.
 *
 * Native coordinates are continuous: 0 is the outer edge of the first row or column, pixel n covers n to n + 1.
 * Canvas coordinates are device pixels, likewise. `aspect` is the height of a native pixel over its width.
 */

export interface Size {
  width: number;
  height: number;
}

export interface FilmShape {
  rows: number;
  columns: number;
  aspect: number;
}

export interface View {
  /** Canvas pixels per native column. */
  scale: number;
  /** Native column at the canvas' middle. */
  x: number;
  /** Native row at the canvas' middle. */
  y: number;
}

export interface Spot {
  x: number;
  y: number;
}

const MAX_SCALE = 32;

/** Return the view in which the whole film is as large as it can be. */
export function fit(canvas: Size, film: FilmShape): View {
  const scale = Math.min(canvas.width / film.columns, canvas.height / (film.rows * film.aspect));
  return { scale, x: film.columns / 2, y: film.rows / 2 };
}

/** Return the native place under a spot of the canvas. */
export function toNative(view: View, canvas: Size, film: FilmShape, spot: Spot): Spot {
  return {
    x: view.x + (spot.x - canvas.width / 2) / view.scale,
    y: view.y + (spot.y - canvas.height / 2) / (view.scale * film.aspect),
  };
}

/** Return the spot of the canvas over a native place. */
export function toCanvas(view: View, canvas: Size, film: FilmShape, place: Spot): Spot {
  return {
    x: canvas.width / 2 + (place.x - view.x) * view.scale,
    y: canvas.height / 2 + (place.y - view.y) * view.scale * film.aspect,
  };
}

/** Return the view with its middle on the film and its scale between a quarter of `fit` and 32. */
export function bound(view: View, canvas: Size, film: FilmShape): View {
  const least = fit(canvas, film).scale / 4;
  return {
    scale: clamp(view.scale, least, Math.max(MAX_SCALE, least)),
    x: clamp(view.x, 0, film.columns),
    y: clamp(view.y, 0, film.rows),
  };
}

/** Return the view scaled by a factor about a spot of the canvas, which keeps its native place. */
export function zoom(view: View, canvas: Size, film: FilmShape, spot: Spot, factor: number): View {
  const place = toNative(view, canvas, film, spot);
  const scale = bound({ ...view, scale: view.scale * factor }, canvas, film).scale;
  const moved = {
    scale,
    x: place.x - (spot.x - canvas.width / 2) / scale,
    y: place.y - (spot.y - canvas.height / 2) / (scale * film.aspect),
  };
  return bound(moved, canvas, film);
}

/** Return the view after the film was dragged by canvas pixels. */
export function pan(view: View, canvas: Size, film: FilmShape, by: Spot): View {
  return bound(
    { scale: view.scale, x: view.x - by.x / view.scale, y: view.y - by.y / (view.scale * film.aspect) },
    canvas,
    film,
  );
}

/** Return a round length in mm whose bar is at most `room` canvas pixels long, and the bar's length. */
export function scaleBar(view: View, columnSpacingMm: number, room: number): { mm: number; length: number } | null {
  const perMm = view.scale / columnSpacingMm;
  for (const mm of [200, 100, 50, 20, 10, 5, 2, 1]) {
    if (mm * perMm <= room) return { mm, length: mm * perMm };
  }
  return null;
}

export function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high);
}
