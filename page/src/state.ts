/** What the page knows: who is here, the models, the worklist, the open study. */

import { batch, computed, effect, signal } from "@preact/signals";
import { Problem, api, link, locked, setCsrf } from "./api";
import { t } from "./i18n";
import { isForgotten, isSeen } from "./presence";
import { go, parse, route, studyHash } from "./route";
import type { Health, Model, Prediction, Study, Who } from "./types";
import { labelText } from "./words";

export type Filter = "waiting" | "read" | "all";

export const who = signal<Who | null>(null);
export const health = signal<Health | null>(null);
export const models = signal<Model[]>([]);
export const filter = signal<Filter>("waiting");
export const studies = signal<Study[] | null>(null);
export const cursor = signal<string | null>(null);
export const study = signal<Study | null>(null);
export const filmId = signal<string | null>(null);
export const modelName = signal<string | null>(null);
export const studyProblem = signal<Problem | null>(null);
export const now = signal(Date.now());
/** What a screen reader says and the foot of the page shows for a while. */
export const notice = signal<{ text: string; tone: "good" | "bad" } | null>(null);

export const film = computed(() => {
  const images = study.value?.images ?? [];
  return images.find((image) => image.id === filmId.value) ?? images[0] ?? null;
});

/** The film's answers: one a model, newest first. */
export const answers = computed<Prediction[]>(() => {
  const seen = new Set<string>();
  return (study.value?.predictions ?? []).filter((one) => {
    if (one.image_id !== film.value?.id || seen.has(one.model)) return false;
    seen.add(one.model);
    return true;
  });
});

export const answer = computed<Prediction | null>(
  () => answers.value.find((one) => one.model === modelName.value) ?? answers.value[0] ?? null,
);

export const mayRead = computed(() => who.value !== null && who.value.role !== "reader");
export const isAdmin = computed(() => who.value?.role === "admin");

let fading: ReturnType<typeof setTimeout> | undefined;

export function say(text: string, tone: "good" | "bad" = "good"): void {
  notice.value = { text, tone };
  clearTimeout(fading);
  fading = setTimeout(() => (notice.value = null), tone === "good" ? 6000 : 15000);
}

/** Return a sentence for whatever went wrong; the service's own words where it has exact ones. */
export function explain(error: unknown): string {
  if (!(error instanceof Problem)) return t("problem_internal");
  const known = {
    gone: t("problem_gone"),
    short: t("problem_gone"),
    busy: t("problem_busy"),
    rate_limited: t("problem_busy"),
    loading: t("problem_loading"),
    draining: t("problem_draining"),
    forbidden: t("problem_forbidden"),
    unauthorised: t("problem_unauthorised"),
    film_gone: t("problem_film_gone"),
    too_large: t("problem_too_large"),
    unreadable_film: t("problem_unreadable"),
    unsupported_film: t("problem_unsupported"),
    unsupported_type: t("problem_unsupported"),
    store_failed: t("problem_store"),
    not_found: t("problem_not_found"),
  }[error.code];
  return known ?? (error.detail || t("problem_internal"));
}

export async function start(): Promise<void> {
  addEventListener("online", () => void beat());
  setInterval(() => (now.value = Date.now()), 30_000);
  effect(() => {
    const at = route.value;
    if (at.name === "study") void openStudy(at.id);
    else batch(() => [(study.value = null), (studyProblem.value = null)]);
  });
  await enter();
  void beat();
}

/** Find out who is here; where nobody is known, the page asks for a key. */
export async function enter(): Promise<void> {
  try {
    const found = await api.whoami();
    setCsrf(found.csrf);
    batch(() => {
      who.value = found;
      locked.value = false;
    });
    await Promise.all([refresh(), loadModels()]);
    const at = route.value;
    if (at.name === "study" && study.value === null) await openStudy(at.id);
  } catch (error) {
    if (error instanceof Problem && error.status === 401) locked.value = true;
  }
}

export async function leave(): Promise<void> {
  await api.logOut().catch(() => undefined);
  setCsrf(null);
  batch(() => {
    who.value = null;
    studies.value = null;
    study.value = null;
    locked.value = true;
  });
  go("#/");
}

async function loadModels(): Promise<void> {
  models.value = await api.models();
}

/** Ask how the service is, often while it is not well. */
async function beat(): Promise<void> {
  clearTimeout(beating);
  const before = link.value;
  try {
    const found = await api.health();
    health.value = found;
    link.value = found.status === "ready" ? (found.queue.waiting >= found.queue.limit ? "busy" : "ok") : found.status;
  } catch (error) {
    link.value = error instanceof Problem && error.code === "loading" ? "loading" : "gone";
  }
  if (before !== link.value && link.value === "ok" && !locked.value) void (who.value === null ? enter() : recover());
  else if (link.value === "ok" && isListIdle()) void refresh();
  beating = setTimeout(() => void beat(), link.value === "ok" ? 15_000 : 2_000);
}

/** Films of the gateway come unasked: the list takes them in while nobody works through it, and has not opened more of it. */
function isListIdle(): boolean {
  return route.peek().name === "list" && isSeen() && !isForgotten() && (studies.peek()?.length ?? 51) <= 50;
}

let beating: ReturnType<typeof setTimeout> | undefined;

async function recover(): Promise<void> {
  await Promise.all([refresh(), loadModels()]).catch(() => undefined);
}

/** Fetch the worklist anew; as many studies as were shown. */
export async function refresh(): Promise<void> {
  if (locked.value) return;
  const asked = filter.value;
  try {
    const found = await api.worklist(asked, null);
    if (asked !== filter.value) return;
    batch(() => {
      studies.value = found.studies;
      cursor.value = found.next;
    });
  } catch (error) {
    if (studies.value === null && error instanceof Problem && error.status === 404) studies.value = [];
  }
}

export async function more(): Promise<void> {
  if (cursor.value === null) return;
  const found = await api.worklist(filter.value, cursor.value);
  const known = new Set((studies.value ?? []).map((one) => one.id));
  batch(() => {
    studies.value = [...(studies.value ?? []), ...found.studies.filter((one) => !known.has(one.id))];
    cursor.value = found.next;
  });
}

export function choose(value: Filter): void {
  filter.value = value;
  studies.value = null;
  void refresh();
}

export async function openStudy(id: string): Promise<void> {
  if (study.value?.id === id) return;
  batch(() => {
    studyProblem.value = null;
    // What the list knows is shown at once.
    study.value = studies.value?.find((one) => one.id === id) ?? null;
    filmId.value = null;
    modelName.value = null;
  });
  await reload(id);
}

async function reload(id: string): Promise<void> {
  try {
    const found = await api.study(id);
    if (route.value.name === "study" && route.value.id === id) study.value = found;
  } catch (error) {
    const current = route.value.name === "study" && route.value.id === id;
    if (current && study.value === null && error instanceof Problem && error.status !== 401) studyProblem.value = error;
  }
}

/** Open the study that comes after, or before, the open one in the worklist. */
export function step(by: 1 | -1): void {
  const list = studies.value ?? [];
  // The address, not the study: that one is still on its way when a key follows quickly.
  const shown = parse(location.hash);
  const here = shown.name === "study" ? shown.id : study.value?.id;
  const at = list.findIndex((one) => one.id === here);
  const next = at < 0 ? list[by === 1 ? 0 : list.length - 1] : list[at + by];
  if (next) go(studyHash(next.id));
  else say(t(by === 1 ? "no_next" : "no_previous"));
}

/** Say that the model is right, or what is right instead: a class, or, of several, each finding. */
export async function judge(agree: boolean, label: string | null, comment: string, findings: Record<string, boolean> | null = null): Promise<void> {
  const [image, said, open] = [film.value, answer.value, study.value];
  if (image === null || open === null) return;
  if (!mayRead.value) return say(t("problem_forbidden"), "bad");
  try {
    await api.feedback(image.id, {
      agree,
      ...(label === null ? {} : { label }),
      ...(findings === null ? {} : { findings }),
      ...(comment.trim() === "" ? {} : { comment: comment.trim() }),
      ...(said === null ? {} : { prediction_id: said.prediction_id }),
    });
    const named = { label: label === null ? "" : labelText(label) };
    if (findings !== null && !agree) say(t("said_findings"));
    else if (agree) say(label === null ? t("said_agree_all") : t("said_agree", named));
    else say(label ? t("said_correct", named) : t("said_comment"));
    await reload(open.id);
    // The list keeps its order while it is worked through; only the mark of this study changes.
    const fresh = study.value;
    if (fresh?.id === open.id) studies.value = (studies.value ?? []).map((one) => (one.id === fresh.id ? fresh : one));
  } catch (error) {
    say(explain(error), "bad");
  }
}

export async function putBack(read: boolean): Promise<void> {
  const open = study.value;
  if (open === null) return;
  try {
    await api.markRead(open.id, read);
    await reload(open.id);
    void refresh();
  } catch (error) {
    say(explain(error), "bad");
  }
}
