/** What the gateway has in hand, as its operator sees it; asked for anew while it is looked at. */

import { signal } from "@preact/signals";
import { Problem, api, locked } from "./api";
import { t } from "./i18n";
import { isForgotten, isSeen } from "./presence";
import { explain, say } from "./state";
import type { Gateway, Letter, Step, StepState } from "./types";

const EVERY_MS = 4000;

export const gateway = signal<Gateway | null>(null);
export const gatewayProblem = signal<Problem | null>(null);
/** Whether the figures are of a while ago, because nobody has touched the page since. */
export const gatewayPaused = signal(false);

export interface Row {
  step: Step;
  destination: string;
  counts: Record<StepState, number>;
}

/** Return a row for each step, and one for each destination, in the order in which a film takes them. */
export function rowsOf(found: Gateway): Row[] {
  const rows = new Map<string, Row>();
  for (const { step, destination, state, count } of found.steps) {
    const key = `${["analyse", "encode", "deliver"].indexOf(step)} ${destination}`;
    const row = rows.get(key) ?? { step, destination, counts: { waiting: 0, leased: 0, done: 0, dead: 0 } };
    row.counts[state] += count;
    rows.set(key, row);
  }
  return [...rows].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, row]) => row);
}

/** Return whether the gateway has ever brought anything that is not cleared away. */
export const isStarted = (found: Gateway) => found.objects + found.open_batches + found.conflicts + found.steps.length > 0;

export async function look(): Promise<void> {
  try {
    gateway.value = await api.gateway();
    gatewayProblem.value = null;
  } catch (error) {
    // Without an answer the head of the page says so already, and the last figures stay.
    if (error instanceof Problem && error.code !== "gone") gatewayProblem.value = error;
  }
}

/** Look every few seconds while the page is seen; the returned function ends it. */
export function watch(): () => void {
  let waiting: ReturnType<typeof setTimeout> | undefined;
  let ended = false;
  const next = async () => {
    clearTimeout(waiting);
    gatewayPaused.value = isForgotten();
    if (isSeen() && !gatewayPaused.value && !locked.value) await look();
    clearTimeout(waiting);
    if (!ended) waiting = setTimeout(() => void next(), EVERY_MS);
  };
  const seen = () => void next();
  document.addEventListener("visibilitychange", seen);
  void next();
  return () => {
    ended = true;
    clearTimeout(waiting);
    document.removeEventListener("visibilitychange", seen);
  };
}

export const stepName = (step: Step, destination: string) => t(`step_${step}`, { destination });

export function tryAgain(letter: Letter): Promise<void> {
  return change(async () => {
    await api.retry({ job_id: letter.job_id });
    return t("gateway_retried", { count: 1 });
  });
}

export function tryAllAgain(destination: string): Promise<void> {
  return change(async () => t("gateway_retried", { count: (await api.retry({ destination })).retried }));
}

export function giveUp(letter: Letter): Promise<void> {
  return change(async () => {
    await api.discard(letter.job_id);
    return t("gateway_discarded");
  });
}

async function change(what: () => Promise<string>): Promise<void> {
  try {
    say(await what());
  } catch (error) {
    say(error instanceof Problem && error.code === "not_found" ? t("gateway_letter_gone") : explain(error), "bad");
  }
  await look();
}
