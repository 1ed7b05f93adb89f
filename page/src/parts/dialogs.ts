import { signal } from "@preact/signals";

export interface Question {
  title: string;
  text: string;
  yes: string;
  act: () => void;
}

export type Dialog = ({ name: "help" } | { name: "card"; model: string } | ({ name: "confirm" } & Question)) & { id: number };

/** The dialog that is open. */
export const dialog = signal<Dialog | null>(null);

let opened = 0;

export function openHelp(): void {
  dialog.value = { name: "help", id: (opened += 1) };
}

export function openCard(model: string): void {
  dialog.value = { name: "card", model, id: (opened += 1) };
}

/** Ask before something that cannot be taken back. */
export function confirm(question: Question): void {
  dialog.value = { name: "confirm", ...question, id: (opened += 1) };
}

/** Whether what is behind a dialog cannot be reached. The browser tells: it closes one before it says so. */
export const isModal = () => document.querySelector("dialog[open]") !== null;
