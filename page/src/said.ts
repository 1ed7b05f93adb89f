/** What may be said of several findings at once. */

import { denies, isNothing } from "./words";

/** A finding is present, absent, or (null) nobody can tell. */
export type Said = Record<string, boolean | null>;

/** Return a reading with one finding changed; `No Finding` and a disease are never both there. */
export function changed(said: Said, name: string, value: boolean | null): Said {
  const others = Object.entries(said).filter(([other]) => value === true && ((isNothing(name) && denies(other)) || (denies(name) && isNothing(other))));
  return { ...said, ...Object.fromEntries(others.map(([other, there]) => [other, there === true ? false : there])), [name]: value };
}

/** Whether a reading says all that the model says for sure. */
export function agreesWith(said: Said, model: Said): boolean {
  return Object.entries(model).every(([name, there]) => there === null || said[name] === there);
}
