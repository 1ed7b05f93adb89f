/** Films on their way in: a few side by side, each with its own end. */

import { signal } from "@preact/signals";
import { Problem, upload } from "./api";
import { explain, refresh, study, studies } from "./state";
import { go, route, studyHash } from "./route";

export interface Upload {
  id: number;
  name: string;
  state: "waiting" | "sending" | "analysing" | "done" | "failed";
  progress: number;
  problem: Problem | null;
  study: string | null;
  file: File | null;
}

/** Of one upload at a time the network is idle while the film is analysed; many would fill the service's queue. */
const SIDE_BY_SIDE = 3;

export const uploads = signal<Upload[]>([]);
/** Files of a folder that cannot be films by their name. */
export const leftOut = signal(0);

let next = 1;
let running = 0;
let begun = 0;

const FILM = /\.(dcm|dicom|ima|png|jpe?g|tiff?)$/i;
const OTHER = /\.(txt|pdf|docx?|xlsx?|csv|xml|json|html?|zip|7z|rar|gz|exe|dll|ini|md|log|mp4|avi|db|lnk|inf|js|css|py|rentgen)$/i;

/** Return whether a file of a folder may be a film: DICOM files often have no suffix, or end in numbers. */
export function mayBeFilm(name: string): boolean {
  if (name.startsWith(".") || name.toUpperCase() === "DICOMDIR" || name.toLowerCase() === "thumbs.db") return false;
  return FILM.test(name) || !OTHER.test(name);
}

/** Take files. Those of a folder are chosen by name; a single file is always sent, so that its fault is told. */
export function add(files: File[], fromFolder: boolean): void {
  const taken = fromFolder ? files.filter((file) => mayBeFilm(file.name)) : files;
  leftOut.value += files.length - taken.length;
  // By number, so that the films of a folder come in the order of their names.
  taken.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  begun = uploads.value.some((one) => busy(one)) ? begun + taken.length : taken.length;
  uploads.value = [
    ...uploads.value,
    ...taken.map((file) => ({
      id: next++,
      name: file.name,
      state: "waiting" as const,
      progress: 0,
      problem: null,
      study: null,
      file,
    })),
  ];
  pump();
}

const busy = (one: Upload) => one.state === "waiting" || one.state === "sending" || one.state === "analysing";

export function again(id: number): void {
  change(id, { state: "waiting", progress: 0, problem: null });
  pump();
}

/** Return whether sending the same file again may end otherwise. */
export function mayHelp(one: Upload): boolean {
  const code = one.problem?.code ?? "";
  return !["unreadable_film", "unsupported_film", "too_large", "unsupported_type"].includes(code);
}

export function clear(): void {
  uploads.value = uploads.value.filter(busy);
  leftOut.value = 0;
}

function change(id: number, what: Partial<Upload>): void {
  uploads.value = uploads.value.map((one) => (one.id === id ? { ...one, ...what } : one));
}

function pump(): void {
  while (running < SIDE_BY_SIDE) {
    const one = uploads.value.find((item) => item.state === "waiting");
    if (one === undefined) return;
    running += 1;
    change(one.id, { state: "sending" });
    void send(one).finally(() => {
      running -= 1;
      pump();
    });
  }
}

async function send(one: Upload): Promise<void> {
  try {
    const found = await upload(one.file!, (share) =>
      change(one.id, { progress: share, state: share < 1 ? "sending" : "analysing" }),
    );
    const failed = found.failed[0];
    if (failed) throw new Problem(422, failed.code, failed.detail);
    const id = found.studies[0]?.id ?? null;
    change(one.id, { state: "done", progress: 1, study: id, file: null });
    // A single film is what the physician wants to see.
    if (id !== null && begun === 1 && route.peek().name === "list") go(studyHash(id));
    // A further film of the open study.
    const fresh = found.studies.find((item) => item.id === study.peek()?.id);
    if (fresh) study.value = fresh;
  } catch (error) {
    const problem = error instanceof Problem ? error : new Problem(0, "internal", "");
    change(one.id, { state: "failed", problem });
  }
  soon();
}

let planned: ReturnType<typeof setTimeout> | undefined;

/** Fetch the worklist once for several films that end together. */
function soon(): void {
  if (planned !== undefined && studies.peek() !== null) return;
  planned = setTimeout(() => {
    planned = undefined;
    void refresh();
  }, 250);
}

/** Return a sentence for the film that failed, and the service's exact words where they say more. */
export function fault(one: Upload): { sentence: string; detail: string } {
  const sentence = explain(one.problem);
  const detail = one.problem?.detail ?? "";
  const told = ["unreadable_film", "unsupported_film", "invalid_request", "too_large"].includes(one.problem?.code ?? "");
  return { sentence, detail: told && detail !== sentence ? capital(detail) : "" };
}

const capital = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);

/** Return all files of what was dropped, folders and their folders too. */
export async function droppedFiles(transfer: DataTransfer): Promise<{ files: File[]; fromFolder: boolean }> {
  // Entries must be taken before the first await: afterwards the browser has emptied the list.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  if (entries.every((entry) => entry === null)) return { files: [...transfer.files], fromFolder: false };
  const fromFolder = entries.some((entry) => entry?.isDirectory);
  const found = await Promise.all(entries.map((entry) => (entry === null ? [] : walk(entry))));
  return { files: found.flat(), fromFolder };
}

async function walk(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile) {
    return new Promise((resolve) => (entry as FileSystemFileEntry).file((file) => resolve([file]), () => resolve([])));
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: File[] = [];
  for (;;) {
    // A reader gives at most a hundred at a time, and nothing when it is done.
    const some = await new Promise<FileSystemEntry[]>((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (some.length === 0) return found;
    for (const one of some) found.push(...(await walk(one)));
  }
}
