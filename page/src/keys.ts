/** One key for what a reading physician does again and again. They can be switched off. */

import { signal } from "@preact/signals";
import { language, t } from "./i18n";
import { reportUrl } from "./api";
import { isModal, openCard, openHelp } from "./parts/dialogs";
import { focusComment, focusCorrection, pressSend } from "./parts/focus";
import { agreeWithAll, findingNames, turn } from "./reading";
import { go, route } from "./route";
import { answer, judge, say, step, study } from "./state";
import * as desk from "./viewer/desk";

const KEPT = "rentgen.keys";

export const keysOn = signal(localStorage.getItem(KEPT) !== "off");

export function setKeysOn(on: boolean): void {
  keysOn.value = on;
  localStorage.setItem(KEPT, on ? "on" : "off");
}

const ALWAYS: Record<string, () => void> = {
  n: () => step(1),
  p: () => step(-1),
  l: () => go("#/"),
};

const ON_A_STUDY: Record<string, () => void> = {
  a: () => agree(),
  c: focusCorrection,
  k: focusComment,
  s: pressSend,
  h: () => desk.setHeatOn(!desk.heatOn.value),
  i: () => (desk.invert.value = !desk.invert.value),
  b: desk.nextPreset,
  f: desk.fitFilm,
  "0": desk.oneToOne,
  r: desk.reset,
  w: () => (desk.tool.value = "window"),
  v: () => (desk.tool.value = "pan"),
  "+": () => desk.zoomMiddle(1.25),
  "=": () => desk.zoomMiddle(1.25),
  "-": () => desk.zoomMiddle(0.8),
  m: () => answer.value && openCard(answer.value.model),
  d: () => study.value && open(reportUrl(study.value.id, language.value), "_blank", "noopener"),
};

/** Agree with an answer that stands. To one that does not there is nothing to agree: the physician names the class. */
export function agree(): void {
  const said = answer.value;
  if (said?.label && said.status === "ok") void (findingNames.value === null ? judge(true, said.label, "") : agreeWithAll(""));
  else if (said) {
    say(t("nothing_to_agree"), "bad");
    focusCorrection();
  }
}

/** Correct to a class; to the model's own class is to agree. */
export function choose(label: string, comment = ""): void {
  void judge(label === answer.value?.label, label, comment);
}

/** Return the key by its letter; by its place, where the keyboard writes another alphabet. */
export function keyOf(event: Pick<KeyboardEvent, "key" | "code">): string {
  const key = event.key.toLowerCase();
  const other = key.length === 1 && !/[\x20-\x7e]/.test(key);
  return other && event.code.startsWith("Key") ? event.code.slice(3).toLowerCase() : key;
}

export function onKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  const writing = target.matches?.("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, [contenteditable]");
  if (writing || event.ctrlKey || event.metaKey || event.altKey || event.repeat || isModal()) return;
  if (!keysOn.value || event.defaultPrevented) return;
  const key = keyOf(event);
  // With Shift a digit's key gives a sign, and each keyboard another; on some it is the digit that needs Shift.
  const signed = event.shiftKey && !/^\d$/.test(key) && /^Digit[1-9]$/.test(event.code);
  const digit = signed ? event.code.slice(5) : key;
  if (key === "?") openHelp();
  else if (ALWAYS[key]) ALWAYS[key]();
  else if (route.value.name !== "study") return;
  else if (ON_A_STUDY[key]) ON_A_STUDY[key]();
  else if (/^[1-9]$/.test(digit)) {
    if (findingNames.value !== null) turn(Number(digit) - 1, signed);
    else {
      const label = Object.keys(answer.value?.probabilities ?? {})[Number(key) - 1];
      if (label === undefined) return;
      choose(label);
    }
  } else return;
  event.preventDefault();
}
