/** Mouse, pen and fingers on the canvas. */

import * as desk from "./desk";

/** Return a function that takes the listeners away again. */
export function listen(canvas: HTMLCanvasElement): () => void {
  const pointers = new Map<number, { x: number; y: number }>();
  const stop = new AbortController();
  const options = { signal: stop.signal };
  let moving = false;
  let space = false;

  const ratio = () => canvas.width / Math.max(canvas.clientWidth, 1);
  const spot = (event: MouseEvent) => {
    const box = canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) * ratio(), y: (event.clientY - box.top) * ratio() };
  };

  canvas.addEventListener(
    "pointerdown",
    (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, spot(event));
      moving = event.button === 1 || event.button === 2 || space || desk.tool.value === "pan";
      if (event.button === 1) event.preventDefault();
    },
    options,
  );

  canvas.addEventListener(
    "pointermove",
    (event) => {
      const before = pointers.get(event.pointerId);
      if (before === undefined) return;
      const now = spot(event);
      const others = [...pointers].filter(([id]) => id !== event.pointerId);
      pointers.set(event.pointerId, now);
      const other = others[0]?.[1];
      if (other !== undefined) return pinch(before, now, other);
      const by = { x: now.x - before.x, y: now.y - before.y };
      if (moving) return desk.move(by);
      // To the right is wider, downwards is brighter, as on a reading station.
      desk.nudgeWindow(-by.y / 400 / ratio(), by.x / 300 / ratio());
    },
    options,
  );

  for (const name of ["pointerup", "pointercancel", "lostpointercapture"] as const) {
    canvas.addEventListener(name, (event) => void pointers.delete(event.pointerId), options);
  }

  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const turn = (event.deltaY || event.deltaX) * (event.deltaMode === 1 ? 30 : 1);
      if (event.shiftKey) desk.nudgeWindow(-turn / 2500, 0);
      else if (event.altKey) desk.nudgeWindow(0, -turn / 2000);
      else desk.zoomAbout(spot(event), Math.exp(-turn / (event.ctrlKey ? 150 : 600)));
    },
    { ...options, passive: false },
  );

  canvas.addEventListener("contextmenu", (event) => event.preventDefault(), options);
  canvas.addEventListener("dblclick", () => desk.fitFilm(), options);
  addEventListener("keydown", (event) => (space ||= event.code === "Space" && event.target === canvas), options);
  addEventListener("keyup", (event) => event.code === "Space" && (space = false), options);
  return () => stop.abort();
}

type At = { x: number; y: number };

/** Two fingers: what lies between them stays between them. */
function pinch(before: At, now: At, other: At): void {
  const length = (a: At, b: At) => Math.hypot(a.x - b.x, a.y - b.y);
  const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
  desk.move({ x: (now.x - before.x) / 2, y: (now.y - before.y) / 2 });
  const was = length(before, other);
  if (was > 10) desk.zoomAbout(middle, length(now, other) / was);
}
