import { signal } from "@preact/signals";

export type Dialog = { name: "help" } | { name: "card"; model: string } | null;

export const dialog = signal<Dialog>(null);
