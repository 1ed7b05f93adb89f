/** What a physician says of each of several findings, before it is sent. */

import { batch, computed, signal } from "@preact/signals";
import { t } from "./i18n";
import { agreesWith, changed, type Said } from "./said";
import { answer, film, judge, models, say, study } from "./state";
import { isSeveral, labelText, presenceOf } from "./words";

const draft = signal<{ of: string; said: Said } | null>(null);

/** The findings that are asked for; null where the film has one class. */
export const findingNames = computed<string[] | null>(() => {
  const said = answer.value;
  const model = models.value.find((one) => (said === null ? one.default : one.bundle_id === said.bundle_id));
  if (!(said !== null && isSeveral(said)) && model?.task !== "multilabel") return null;
  const names = Object.keys(said?.probabilities ?? {});
  return names.length > 0 ? names : (model?.classes ?? null);
});

/** What the model says of each finding, where its answer stands. */
export const modelSays = computed<Said>(() => {
  const said = answer.value;
  const stands = said?.status === "ok";
  const of = (name: string) => (said && stands ? presenceOf(said, name).presence : "unjudged");
  return Object.fromEntries((findingNames.value ?? []).map((name) => [name, { present: true, absent: false, undetermined: null, unjudged: null }[of(name)]]));
});

const last = computed(() => (study.value?.feedback ?? []).find((one) => one.image_id === film.value?.id && one.prediction_id === (answer.value?.prediction_id ?? null)));

/** Whose draft it is: another film, another answer and a newer word begin a new one. */
const key = computed(() => `${film.value?.id} ${answer.value?.prediction_id} ${last.value?.id}`);

/** What the form shows: what was chosen, or said before, or else what the model says. */
export const reading = computed<Said>(() => {
  if (draft.value?.of === key.value) return draft.value.said;
  const before = last.value?.findings;
  if (!before) return modelSays.value;
  return Object.fromEntries((findingNames.value ?? []).map((name) => [name, before[name] ?? null]));
});

export function setFinding(name: string, value: boolean | null): void {
  draft.value = { of: key.value, said: changed(reading.value, name, value) };
}

/** Turn a finding by its number: present or absent; or, where told so, to what cannot be told. */
export function turn(at: number, unknown: boolean): void {
  const name = findingNames.value?.[at];
  if (name === undefined) return;
  setFinding(name, unknown ? null : reading.value[name] !== true);
  say(t("reading_now", { label: labelText(name), state: stateText(reading.value[name] ?? null) }));
}

export const stateText = (value: boolean | null) => t(value === null ? "reading_unknown" : value ? "reading_present" : "reading_absent");

/** Keep the reading: that it agrees is told by what it says. */
export async function sendReading(comment: string): Promise<void> {
  const said = reading.value;
  const stands = answer.value?.status === "ok";
  const told = Object.fromEntries(Object.entries(said).filter((one): one is [string, boolean] => one[1] !== null));
  await judge(stands && agreesWith(said, modelSays.value), null, comment, told);
}

/** Keep the model's own findings. */
export async function agreeWithAll(comment: string): Promise<void> {
  batch(() => (draft.value = null));
  await judge(true, null, comment);
}
