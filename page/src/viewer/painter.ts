/**
 * Paints a film at the screen's resolution: what a large film costs is what the screen shows of it.
 *
 * A move costs a resampling of 16-bit grey; a change of window, inversion or opacity only a look-up.
 */

import { type FilmShape, type Size, type View } from "./geometry";
import { type HeatTable, type Window, heatTable, windowTable } from "./lut";
import { type Level, type Part, coveredPart, pyramid, resample } from "./pyramid";

export interface Picture {
  rows: number;
  columns: number;
  bits: 8 | 16;
  pixels: Uint8Array | Uint16Array;
}

export interface Look {
  view: View;
  window: Window;
  invert: boolean;
  /** 0 hides the heat map. */
  opacity: number;
}

const BACKGROUND = 0xff000000;

export class Painter {
  readonly shape: FilmShape;
  readonly levels: number;
  private readonly film: Level[];
  private heat: Level[] | null = null;
  private grey: Uint8Array | Uint16Array = new Uint8Array(0);
  private warmth = new Uint8Array(0);
  private image: ImageData | null = null;
  private part: Part = { left: 0, top: 0, right: 0, bottom: 0 };
  private placed = "";
  private warmed = "";

  constructor(
    readonly picture: Picture,
    aspect: number,
  ) {
    this.shape = { rows: picture.rows, columns: picture.columns, aspect };
    this.levels = picture.bits === 16 ? 65536 : 256;
    this.film = pyramid(picture.pixels, picture.rows, picture.columns);
  }

  /** Take a heat map, 8-bit grey over the whole film, or none. */
  setHeat(pixels: Uint8Array | null, rows: number, columns: number): void {
    this.heat = pixels === null ? null : pyramid(pixels, rows, columns);
    this.warmed = "";
  }

  paint(context: CanvasRenderingContext2D, look: Look): void {
    const canvas = { width: context.canvas.width, height: context.canvas.height };
    if (canvas.width < 1 || canvas.height < 1) return;
    this.place(context, canvas, look);
    const image = this.image!;
    const screen = new Uint32Array(image.data.buffer);
    const table = windowTable(this.levels, look.window, look.invert);
    const heated = this.heat !== null && look.opacity > 0;
    if (heated) this.blend(screen, canvas, table, heatTable(look.opacity));
    else this.plain(screen, canvas, table);
    context.putImageData(image, 0, 0);
  }

  /** Resample what moved. */
  private place(context: CanvasRenderingContext2D, canvas: Size, look: Look): void {
    const { view } = look;
    const key = `${canvas.width},${canvas.height},${view.scale},${view.x},${view.y}`;
    if (key !== this.placed) {
      const count = canvas.width * canvas.height;
      if (this.image === null || this.image.width !== canvas.width || this.image.height !== canvas.height) {
        this.image = context.createImageData(canvas.width, canvas.height);
        this.grey = this.levels > 256 ? new Uint16Array(count) : new Uint8Array(count);
        this.warmth = new Uint8Array(count);
      }
      new Uint32Array(this.image.data.buffer).fill(BACKGROUND);
      this.part = coveredPart(view, canvas, this.shape);
      resample(this.film, view, canvas, this.shape, this.part, this.grey);
      this.placed = key;
      this.warmed = "";
    }
    if (this.heat !== null && look.opacity > 0 && this.warmed !== key) {
      resample(this.heat, view, canvas, this.shape, this.part, this.warmth);
      this.warmed = key;
    }
  }

  private plain(screen: Uint32Array, canvas: Size, table: Uint8ClampedArray): void {
    const { left, top, right, bottom } = this.part;
    const { grey } = this;
    for (let row = top; row < bottom; row += 1) {
      const end = row * canvas.width + right;
      for (let at = row * canvas.width + left; at < end; at += 1) {
        screen[at] = 0xff000000 | (table[grey[at]!]! * 0x010101);
      }
    }
  }

  private blend(screen: Uint32Array, canvas: Size, table: Uint8ClampedArray, heat: HeatTable): void {
    const { left, top, right, bottom } = this.part;
    const { grey, warmth } = this;
    const { red, green, blue, alpha } = heat;
    for (let row = top; row < bottom; row += 1) {
      const end = row * canvas.width + right;
      for (let at = row * canvas.width + left; at < end; at += 1) {
        const shade = table[grey[at]!]!;
        const warm = warmth[at]!;
        const share = alpha[warm]!;
        if (share === 0) {
          screen[at] = 0xff000000 | (shade * 0x010101);
          continue;
        }
        const r = (shade + (red[warm]! - shade) * share + 0.5) | 0;
        const g = (shade + (green[warm]! - shade) * share + 0.5) | 0;
        const b = (shade + (blue[warm]! - shade) * share + 0.5) | 0;
        screen[at] = 0xff000000 | (b << 16) | (g << 8) | r;
      }
    }
  }
}
