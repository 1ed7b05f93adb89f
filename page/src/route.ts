/** Where the page is, in the address behind `#`: opaque ids only, and never sent to a server. */

import { signal } from "@preact/signals";

export type Route = { name: "list" } | { name: "study"; id: string } | { name: "research" } | { name: "gateway" };

export function parse(hash: string): Route {
  const [, name, id] = hash.replace(/^#/, "").split("/");
  if (name === "study" && id !== undefined && /^[\w-]{8,64}$/.test(id)) return { name: "study", id };
  return name === "research" || name === "gateway" ? { name } : { name: "list" };
}

export const route = signal<Route>(parse(location.hash));

addEventListener("hashchange", () => {
  route.value = parse(location.hash);
});

export function go(target: string): void {
  location.hash = target;
}

export const studyHash = (id: string) => `#/study/${id}`;
