import { effect, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { link } from "../api";
import { number, t } from "../i18n";
import { Icon } from "../parts/Icon";
import { explain, film, answer, study } from "../state";
import { decidingPoint } from "../words";
import * as desk from "./desk";
import { FilmStrip } from "./FilmStrip";
import { scaleBar } from "./geometry";
import { listen } from "./gestures";
import { HeatBar, ViewBar } from "./Toolbar";

/** A screen with more pixels is painted at fewer: the eye does not see it, and dragging stays smooth. */
const MOST_PIXELS = 3_000_000;

export function Viewer() {
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);

  useSignalEffect(() => {
    const shown = film.value;
    // When the server is back, what failed is asked for again.
    if (link.value !== "gone") void desk.showFilm(shown);
  });
  useSignalEffect(() => {
    const said = answer.value;
    // Where a finding made the film urgent, its evidence is what the physician looks for.
    const urgent = said?.urgency === "urgent" ? decidingPoint(said)?.label : undefined;
    desk.heatLabel.value = urgent ?? said?.label ?? null;
    desk.restoreHeat(said?.status === "ok");
  });
  useSignalEffect(() => {
    if (desk.painter.value !== null) void desk.showHeat(answer.value, desk.heatLabel.value);
  });

  useEffect(() => {
    const element = canvas.current!;
    // Every painting puts pixels that were made here: a canvas in the processor's memory takes them soonest.
    const context = element.getContext("2d", { alpha: false, willReadFrequently: true })!;
    const observer = new ResizeObserver(() => {
      if (box.current === null) return;
      const { clientWidth: width, clientHeight: height } = box.current;
      const dense = Math.min(devicePixelRatio, Math.sqrt(MOST_PIXELS / Math.max(width * height, 1)));
      element.width = Math.round(width * dense);
      element.height = Math.round(height * dense);
      desk.canvasSize.value = { width: element.width, height: element.height };
      if (desk.fitted.value) desk.fitFilm();
    });
    observer.observe(box.current!);
    let planned = 0;
    const paint = () => {
      planned = 0;
      const painter = desk.painter.peek();
      if (painter === null) {
        context.fillRect(0, 0, element.width, element.height);
        return;
      }
      const view = desk.view.peek();
      const opacity = desk.heatOn.peek() && desk.heatState.peek() === "shown" ? desk.opacity.peek() : 0;
      painter.paint(context, { view, window: desk.greyWindow.peek(), invert: desk.invert.peek(), opacity });
      Object.assign(element.dataset, { scale: view.scale, x: view.x, y: view.y, heat: String(opacity), painted: "yes" });
    };
    const forget = effect(() => {
      // Each of these, when it changes, asks for one painting in the next frame.
      const { painter, view, greyWindow, invert, heatOn, heatState, opacity, canvasSize } = desk;
      [painter, view, greyWindow, invert, heatOn, heatState, opacity, canvasSize].forEach((one) => one.value);
      if (painter.value === null) element.dataset["painted"] = "no";
      planned ||= requestAnimationFrame(paint);
    });
    const deafen = listen(element);
    return () => {
      observer.disconnect();
      forget();
      deafen();
      cancelAnimationFrame(planned);
      void desk.showFilm(null);
    };
  }, []);

  return (
    <section class="viewer" aria-label={t("film")}>
      <ViewBar />
      <div class="stage" ref={box}>
        <canvas
          ref={canvas}
          tabIndex={0}
          role="img"
          class={desk.tool.value === "pan" ? "moves" : "windows"}
          aria-label={t("film_picture", { name: film.value?.name || t("unknown_film") })}
          onKeyDown={onKey}
        />
        <Over />
      </div>
      <Strip />
      <HeatBar />
    </section>
  );
}

/** What lies over the film: how it is shown, how long things are, or why there is none. */
function Over() {
  const failed = desk.problem.value;
  if (failed !== null) {
    return (
      <div class="over message" role="alert">
        <Icon name="film" />
        <p>{explain(failed)}</p>
      </div>
    );
  }
  const share = desk.loading.value;
  if (share !== null) {
    return (
      <div class="over message">
        <p>{t("film_loading")}</p>
        <progress value={share} max={1} aria-label={t("film_loading")} />
      </div>
    );
  }
  if (desk.painter.value === null) return null;
  const bits = film.value?.bits;
  return (
    <>
      <p class="over corner" aria-hidden="true">
        W {number(Math.round(desk.greyWindow.value.width))} &nbsp; L {number(Math.round(desk.greyWindow.value.centre))}
        {bits ? ` · ${t("bits", { bits })}` : ""}
        <br />
        {number(Math.round(desk.view.value.scale * 100))} %{desk.invert.value ? ` · ${t("invert")}` : ""}
      </p>
      <Bar />
    </>
  );
}

function Bar() {
  const spacing = film.value?.spacing_mm;
  if (!spacing) return null;
  const { width } = desk.canvasSize.value;
  const found = scaleBar(desk.view.value, spacing[1], width / 3);
  if (found === null || width === 0) return null;
  const share = found.length / width;
  return (
    <p class="over bar" title={t("bar_means")}>
      <span style={{ width: `${(share * 100).toFixed(3)}%` }} />
      {t("bar_cm", { length: number(found.mm / 10, found.mm < 10 ? 1 : 0) })}
    </p>
  );
}

/** The films of a study that has several. */
function Strip() {
  const images = study.value?.images ?? [];
  if (images.length < 2) return null;
  return <FilmStrip images={images} />;
}

function onKey(event: KeyboardEvent): void {
  const far = 40;
  const ways: Record<string, [number, number]> = {
    ArrowLeft: [-1, 0],
    ArrowRight: [1, 0],
    ArrowUp: [0, -1],
    ArrowDown: [0, 1],
  };
  const way = ways[event.key];
  if (way !== undefined && !event.ctrlKey && !event.metaKey && !event.altKey) {
    if (event.shiftKey) desk.nudgeWindow(-way[1] * 0.04, way[0] * 0.05);
    else desk.move({ x: -way[0] * far, y: -way[1] * far });
  } else if (event.key === "+" || event.key === "=") desk.zoomMiddle(1.25);
  else if (event.key === "-") desk.zoomMiddle(0.8);
  else if (event.key !== " ") return;
  event.preventDefault();
  event.stopPropagation();
}
