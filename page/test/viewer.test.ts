import { describe, expect, it } from "vitest";
import { bound, fit, pan, scaleBar, toCanvas, toNative, zoom } from "../src/viewer/geometry";
import { heatColour, heatTable, histogram, presetWindow, windowTable } from "../src/viewer/lut";
import { coveredPart, pyramid, resample } from "../src/viewer/pyramid";

const canvas = { width: 800, height: 600 };
const film = { rows: 2500, columns: 3000, aspect: 1 };

describe("geometry", () => {
  it("fits the whole film into the middle", () => {
    const view = fit(canvas, film);
    expect(view.scale).toBeCloseTo(0.24);
    expect(toCanvas(view, canvas, film, { x: 1500, y: 1250 })).toEqual({ x: 400, y: 300 });
  });
  it("maps there and back, also with pixels that are not square", () => {
    const tall = { rows: 400, columns: 300, aspect: 1.7 };
    const view = { scale: 1.3, x: 120, y: 77 };
    const place = toNative(view, canvas, tall, { x: 13, y: 555 });
    const spot = toCanvas(view, canvas, tall, place);
    expect(spot.x).toBeCloseTo(13);
    expect(spot.y).toBeCloseTo(555);
  });
  it("zooms about a spot that stays where it is", () => {
    const view = fit(canvas, film);
    const spot = { x: 300, y: 200 };
    const before = toNative(view, canvas, film, spot);
    const after = toNative(zoom(view, canvas, film, spot, 3), canvas, film, spot);
    expect(after.x).toBeCloseTo(before.x);
    expect(after.y).toBeCloseTo(before.y);
  });
  it("never loses the film", () => {
    const view = pan(fit(canvas, film), canvas, film, { x: 1e6, y: -1e6 });
    expect(view).toMatchObject({ x: 0, y: 2500 });
    expect(bound({ scale: 1e9, x: 0, y: 0 }, canvas, film).scale).toBe(32);
  });
  it("offers a round length that fits", () => {
    expect(scaleBar({ scale: 0.24, x: 0, y: 0 }, 0.15, 200)).toEqual({ mm: 100, length: 160 });
    expect(scaleBar({ scale: 1e6, x: 0, y: 0 }, 0.15, 200)).toBeNull();
  });
});

describe("grey", () => {
  it("spreads the window over the screen", () => {
    const table = windowTable(65536, { centre: 30000, width: 20000 }, false);
    expect([table[0], table[20000], table[25000], table[40000], table[65535]]).toEqual([0, 0, 64, 255, 255]);
    const inverted = windowTable(65536, { centre: 30000, width: 20000 }, true);
    expect([inverted[0], inverted[40000]]).toEqual([255, 0]);
  });
  it("finds windows from the film itself", () => {
    const pixels = Uint16Array.from({ length: 10000 }, (_, i) => 20000 + i);
    const counts = histogram(pixels, 65536);
    const auto = presetWindow("auto", counts, 65536);
    expect(auto.centre).toBeGreaterThan(24000);
    expect(auto.centre).toBeLessThan(26000);
    expect(auto.width).toBeLessThan(10500);
    const lungs = presetWindow("lungs", counts, 65536);
    const dense = presetWindow("dense", counts, 65536);
    expect(lungs.centre).toBeLessThan(dense.centre);
    expect(presetWindow("auto", histogram(new Uint8Array(100), 256), 256).width).toBeGreaterThan(0);
  });
});

describe("colour", () => {
  it("grows lighter with activation, and leaves cold places alone", () => {
    const lightness = Array.from({ length: 11 }, (_, i) => {
      const [red, green, blue] = heatColour(i / 10);
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    });
    for (let i = 1; i < lightness.length; i += 1) expect(lightness[i]).toBeGreaterThan(lightness[i - 1]!);
    const table = heatTable(0.5);
    expect(table.alpha[20]).toBe(0);
    expect(table.alpha[255]).toBeCloseTo(0.5);
  });
});

describe("pyramid", () => {
  it("keeps a bright square where it is, at any scale", () => {
    const rows = 1200;
    const columns = 900;
    const pixels = new Uint16Array(rows * columns).fill(1000);
    for (let row = 300; row < 340; row += 1) pixels.fill(60000, row * columns + 600, row * columns + 640);
    const shape = { rows, columns, aspect: 1 };
    const levels = pyramid(pixels, rows, columns);
    expect(levels.length).toBeGreaterThan(1);
    for (const view of [fit(canvas, shape), { scale: 1, x: 620, y: 320 }, { scale: 3.3, x: 600, y: 330 }]) {
      const out = new Uint16Array(canvas.width * canvas.height);
      resample(levels, view, canvas, shape, coveredPart(view, canvas, shape), out);
      let sum = 0;
      let x = 0;
      let y = 0;
      out.forEach((value, at) => {
        if (value < 50000) return;
        sum += 1;
        x += (at % canvas.width) + 0.5;
        y += Math.floor(at / canvas.width) + 0.5;
      });
      const place = toNative(view, canvas, shape, { x: x / sum, y: y / sum });
      expect(Math.abs(place.x - 620)).toBeLessThan(1);
      expect(Math.abs(place.y - 320)).toBeLessThan(1);
    }
  });
  it("covers no more of the canvas than the film does", () => {
    const view = fit(canvas, film);
    expect(coveredPart(view, canvas, film)).toEqual({ left: 40, top: 0, right: 760, bottom: 600 });
  });
});
