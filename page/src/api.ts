/** Talks to the service: one way to ask, errors as problem documents, polite when it is busy. */

import { signal } from "@preact/signals";
import type { Added, Card, Compared, Feedback, Gateway, Health, Model, Study, Who, Worklist } from "./types";

/** What went wrong: a stable code, and words of the service where it gave any. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
    readonly retryAfterS: number | null = null,
  ) {
    super(detail || code);
  }
}

export type Link = "ok" | "loading" | "busy" | "draining" | "gone";

/** How the service is, as far as the page knows. */
export const link = signal<Link>("ok");
/** Whether the service asks who is there. */
export const locked = signal(false);

let csrf: string | null = null;

export function setCsrf(token: string | null): void {
  csrf = token;
}

const TRIES = 6;
const pause = (seconds: number) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

interface Ask {
  method?: string;
  json?: unknown;
  /** Ask again where the service is busy or loading. */
  patient?: boolean;
}

async function ask(path: string, { method = "GET", json, patient = true }: Ask = {}): Promise<Response> {
  for (let attempt = 1; ; attempt += 1) {
    let response: Response;
    try {
      response = await fetch(path, {
        method,
        credentials: "same-origin",
        headers: headers(method, json !== undefined),
        ...(json === undefined ? {} : { body: JSON.stringify(json) }),
      });
    } catch {
      link.value = "gone";
      throw new Problem(0, "gone", "");
    }
    if (link.peek() === "gone") link.value = "ok";
    if (response.ok) return response;
    const problem = await readProblem(response);
    if (problem.status === 401) locked.value = true;
    if (!patient || problem.retryAfterS === null || attempt >= TRIES) throw problem;
    await pause(waitFor(problem.retryAfterS, attempt));
  }
}

/** Return seconds to wait: what the service asked for, longer each time, and not in step with others. */
export function waitFor(retryAfterS: number, attempt: number, chance: number = Math.random()): number {
  return Math.min(retryAfterS * 1.5 ** (attempt - 1), 30) * (1 + 0.3 * chance);
}

function headers(method: string, json: boolean): Record<string, string> {
  return {
    Accept: "application/json",
    ...(json ? { "Content-Type": "application/json" } : {}),
    ...(method !== "GET" && csrf !== null ? { "X-CSRF-Token": csrf } : {}),
  };
}

async function readProblem(response: Response): Promise<Problem> {
  const text = await response.text().catch(() => "");
  return problemOf(response.status, text, response.headers.get("Retry-After"));
}

/** Return what a body says of an error; a proxy in front may answer with anything. */
export function problemOf(status: number, text: string, retryAfter: string | null): Problem {
  let code = "";
  let detail = "";
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === "object" && body !== null) {
      if ("code" in body && typeof body.code === "string") code = body.code;
      if ("detail" in body && typeof body.detail === "string") detail = body.detail;
    }
  } catch {
    detail = "";
  }
  const usual: Record<number, string> = { 401: "unauthorised", 403: "forbidden", 404: "not_found", 413: "too_large" };
  const seconds = retryAfter === null ? Number.NaN : Number(retryAfter);
  const mayRetry = status === 429 || status === 503;
  const after = mayRetry ? (Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0.2), 30) : 2) : null;
  return new Problem(status, code || (usual[status] ?? "internal"), detail, after);
}

async function json<T>(path: string, options?: Ask): Promise<T> {
  return (await (await ask(path, options)).json()) as T;
}

const enc = encodeURIComponent;

export const api = {
  health: () => json<Health>("/v1/health", { patient: false }),
  whoami: () => json<Who>("/v1/whoami", { patient: false }),
  logIn: (key: string) => json<{ csrf: string }>("/v1/session", { method: "POST", json: { key }, patient: false }),
  logOut: () => ask("/v1/session", { method: "DELETE" }),
  worklist: (state: string, cursor: string | null) =>
    json<Worklist>(`/v1/studies?state=${state}&limit=50${cursor === null ? "" : `&cursor=${enc(cursor)}`}`),
  study: (id: string) => json<Study>(`/v1/studies/${enc(id)}`),
  markRead: (id: string, read: boolean) => json<unknown>(`/v1/studies/${enc(id)}/read`, { method: "PUT", json: { read } }),
  feedback: (image: string, said: { agree: boolean; label?: string; findings?: Record<string, boolean>; comment?: string; prediction_id?: string }) =>
    json<Feedback>(`/v1/images/${enc(image)}/feedback`, { method: "POST", json: said }),
  models: async () => (await json<{ models: Model[] }>("/v1/models")).models,
  gateway: () => json<Gateway>("/v1/gateway", { patient: false }),
  retry: (which: { job_id: number } | { destination: string }) => json<{ retried: number }>("/v1/gateway/retry", { method: "POST", json: which }),
  discard: (job_id: number) => json<{ discarded: number }>("/v1/gateway/discard", { method: "POST", json: { job_id } }),
  card: async (name: string) => (await json<{ card: Card }>(`/v1/models/${enc(name)}`)).card,
  sets: () => json<unknown>("/v1/sets"),
  reports: () => json<unknown>("/v1/reports"),
  compare: (old: string, fresh: string, set: string) =>
    json<{ id: string }>("/v1/comparisons", { method: "POST", json: { old, new: fresh, set } }),
  comparison: (id: string) => json<Record<string, unknown> & Partial<Compared>>(`/v1/comparisons/${enc(id)}`),
  bytes: async (path: string, progress?: (share: number) => void, signal?: AbortSignal) =>
    readBytes(path, progress, signal),
};

export const thumbnailUrl = (image: string, side = 160) => `/v1/images/${enc(image)}/thumbnail.png?side=${side}`;
export const reportUrl = (study: string, language: string) => `/v1/studies/${enc(study)}/report.pdf?language=${language}`;
export const heatmapUrl = (image: string, model: string, label: string) =>
  `/v1/images/${enc(image)}/heatmap.png?model=${enc(model)}&label=${enc(label)}`;
export const pixelsUrl = (image: string) => `/v1/images/${enc(image)}/pixels`;

async function readBytes(
  path: string,
  progress?: (share: number) => void,
  signal?: AbortSignal,
): Promise<{ headers: Headers; bytes: ArrayBuffer }> {
  const response = await fetch(path, { credentials: "same-origin", signal: signal ?? null });
  if (!response.ok) throw await readProblem(response);
  const expected =
    Number(response.headers.get("X-Rows")) *
    Number(response.headers.get("X-Columns")) *
    (Number(response.headers.get("X-Bits-Allocated")) / 8);
  if (!progress || !expected || response.body === null) return { headers: response.headers, bytes: await response.arrayBuffer() };
  const all = new Uint8Array(expected);
  let at = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > expected) throw new Problem(0, "short", "");
    all.set(value, at);
    at += value.length;
    progress(at / expected);
  }
  if (at !== expected) throw new Problem(0, "short", "");
  return { headers: response.headers, bytes: all.buffer };
}

/** Send one film; the promise is of what became of it. Not `fetch`, which does not tell how far an upload is. */
export async function upload(file: File, progress: (share: number) => void): Promise<Added> {
  for (let attempt = 1; ; attempt += 1) {
    const answer = await send(file, progress);
    if (!(answer instanceof Problem)) return answer;
    if (answer.status === 401) locked.value = true;
    if (answer.retryAfterS === null || attempt >= 20) throw answer;
    progress(0);
    await pause(waitFor(answer.retryAfterS, Math.min(attempt, 5)));
  }
}

function send(file: File, progress: (share: number) => void): Promise<Added | Problem> {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/studies");
    request.setRequestHeader("Accept", "application/json");
    if (csrf !== null) request.setRequestHeader("X-CSRF-Token", csrf);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) resolve(JSON.parse(request.responseText) as Added);
      else resolve(problemOf(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => resolve(new Problem(0, "gone", ""));
    request.ontimeout = request.onerror;
    const form = new FormData();
    form.append("films", file, file.name);
    request.send(form);
  });
}
