import { percent, t } from "../i18n";
import { Icon, type IconName } from "../parts/Icon";
import { answer } from "../state";
import type { Prediction } from "../types";
import { heatWarning, labelText } from "../words";
import { cardOf } from "../cards";
import * as desk from "./desk";
import { PRESETS } from "./lut";

interface ToolProps {
  icon: IconName;
  label: string;
  title?: string;
  keys?: string;
  pressed?: boolean;
  wide?: boolean;
  onClick: () => void;
}

function Tool({ icon, label, title, keys, pressed, wide, onClick }: ToolProps) {
  const full = `${title ?? label}${keys ? ` (${keys})` : ""}`;
  return (
    <button
      type="button"
      class="tool"
      title={full}
      aria-label={label}
      {...(keys ? { "aria-keyshortcuts": keys } : {})}
      {...(pressed === undefined ? {} : { "aria-pressed": pressed })}
      onClick={onClick}
    >
      <Icon name={icon} />
      {wide ? <span>{label}</span> : null}
    </button>
  );
}

export function ViewBar() {
  const { centre, width } = desk.greyWindow.value;
  const most = desk.levels.value;
  return (
    <div class="tools" role="toolbar" aria-label={t("tools")}>
      <div class="group" role="group" aria-label={t("tool")}>
        <Tool icon="window" label={t("tool_window")} title={t("tool_window_means")} wide pressed={desk.tool.value === "window"} onClick={() => (desk.tool.value = "window")} />
        <Tool icon="hand" label={t("tool_pan")} title={t("tool_pan_means")} wide pressed={desk.tool.value === "pan"} onClick={() => (desk.tool.value = "pan")} />
      </div>
      <div class="group presets" role="group" aria-label={t("presets")}>
        {PRESETS.map((name) => (
          <button type="button" class="tool" key={name} data-preset={name} title={t(`preset_${name}_means`)} aria-pressed={desk.preset.value === name} onClick={() => desk.setPreset(name)}>
            <span>{t(`preset_${name}`)}</span>
          </button>
        ))}
      </div>
      <div class="group sliders">
        <label title={t("width")}>
          <span aria-hidden="true">W</span>
          <input type="range" aria-label={t("width")} min={most / 256} max={most} step={most / 256} value={width} onInput={(event) => desk.setWindow(centre, event.currentTarget.valueAsNumber)} />
        </label>
        <label title={t("level")}>
          <span aria-hidden="true">L</span>
          <input type="range" aria-label={t("level")} min={0} max={most - 1} step={most / 256} value={centre} onInput={(event) => desk.setWindow(event.currentTarget.valueAsNumber, width)} />
        </label>
      </div>
      <div class="group">
        <Tool icon="invert" label={t("invert")} keys="I" pressed={desk.invert.value} onClick={() => (desk.invert.value = !desk.invert.value)} />
        <Tool icon="minus" label={t("zoom_out")} keys="-" onClick={() => desk.zoomMiddle(0.8)} />
        <Tool icon="plus" label={t("zoom_in")} keys="+" onClick={() => desk.zoomMiddle(1.25)} />
        <Tool icon="fit" label={t("fit")} title={t("fit_means")} keys="F" onClick={desk.fitFilm} />
        <Tool icon="native" label={t("native")} title={t("native_means")} keys="0" onClick={desk.oneToOne} />
        <Tool icon="reset" label={t("reset")} title={t("reset_means")} keys="R" onClick={desk.reset} />
      </div>
    </div>
  );
}

export function HeatBar() {
  const said = answer.value;
  if (said === null || said.label === null) return null;
  if (said.heatmap_url === null) return <p class="heat-bar quiet">{t("heat_none")}</p>;
  const on = desk.heatOn.value;
  const warning = heatWarning(cardOf(said.model)?.heat_maps?.grade ?? null);
  const label = desk.heatLabel.value ?? said.label;
  return (
    <div class="heat-bar" role="group" aria-label={t("heat")}>
      <button type="button" class="tool" aria-pressed={on} aria-keyshortcuts="H" title={`${t("heat_show")} (H)`} onClick={() => desk.setHeatOn(!on)}>
        <Icon name="heat" />
        <span>{t("heat_show")}</span>
      </button>
      {on ? <HeatChoice said={said} label={label} /> : null}
      {on && desk.heatState.value === "empty" ? <p class="note">{t("heat_empty", { label: labelText(label) })}</p> : null}
      {on && desk.heatState.value === "failed" ? <p class="note">{t("heat_failed")}</p> : null}
      {warning ? (
        <p class="note warn">
          <Icon name="doubt" /> {warning}
        </p>
      ) : null}
    </div>
  );
}

function HeatChoice({ said, label }: { said: Prediction; label: string }) {
  return (
    <>
      <label class="choice">
        <span>{t("heat_of")}</span>
        <select value={label} onChange={(event) => (desk.heatLabel.value = event.currentTarget.value)}>
          {Object.keys(said.probabilities).map((name) => (
            <option key={name} value={name}>
              {labelText(name)}
            </option>
          ))}
        </select>
      </label>
      <label class="slider">
        <span>{t("heat_opacity")}</span>
        <input type="range" min={0.05} max={1} step={0.05} value={desk.opacity.value} aria-valuetext={percent(desk.opacity.value)} onInput={(event) => desk.setOpacity(event.currentTarget.valueAsNumber)} />
      </label>
      <span class="legend" aria-hidden="true">
        {t("heat_low")} <i /> {t("heat_high")}
      </span>
    </>
  );
}
