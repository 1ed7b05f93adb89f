/** The interface's words in both languages; the sentences of results are in `words.ts`. */

import { computed, signal } from "@preact/signals";
import en from "./words/en.json";
import uk from "./words/uk.json";

export type Language = "en" | "uk";
export type Key = keyof typeof en;
type Values = Record<string, string | number>;

const tables: Record<Language, Partial<Record<string, string>>> = { en, uk };
const KEPT = "rentgen.language";

function first(): Language {
  const kept = localStorage.getItem(KEPT);
  if (kept === "en" || kept === "uk") return kept;
  return navigator.language.startsWith("uk") ? "uk" : "en";
}

export const language = signal<Language>(first());
const plural = computed(() => new Intl.PluralRules(language.value));

export function setLanguage(chosen: Language): void {
  language.value = chosen;
  localStorage.setItem(KEPT, chosen);
}

/** Return a text of the interface; `{name}` stands for a value, and `count` chooses among `key_one`, `key_few` and so on. */
export function t(key: Key | PluralKey, values: Values = {}): string {
  const table = tables[language.value];
  const count = values["count"];
  const name = typeof count === "number" ? `${key}_${plural.value.select(count)}` : key;
  return fill(table[name] ?? table[`${key}_other`] ?? table[key] ?? en[key as Key] ?? key, values);
}

type Plural<K> = K extends `${infer Stem}_other` ? Stem : never;
export type PluralKey = Plural<Key>;

export function fill(text: string, values: Values): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name];
    return typeof value === "number" ? number(value) : (value ?? whole);
  });
}

export function number(value: number, digits = 0): string {
  return value.toLocaleString(language.value, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** Return a share in percent; never "100 %" or "0 %" of what is not quite so. */
export function percent(share: number, digits = 0): string {
  const most = 1 - 0.5 * 10 ** (-digits - 2);
  if (share < 1 && share >= most) return `>\u2009${number(100 - 10 ** -digits, digits)}\u00a0%`;
  if (share > 0 && share <= 1 - most) return `<\u2009${number(10 ** -digits, digits)}\u00a0%`;
  return `${number(share * 100, digits)}\u00a0%`;
}

export function when(time: string): string {
  return new Date(time).toLocaleString(language.value, { dateStyle: "medium", timeStyle: "short" });
}

/** Return how long something takes, in the one unit that tells most. */
export function duration(seconds: number): string {
  const [unit, length] = ([["day", 86_400], ["hour", 3_600], ["minute", 60]] as const).find(([, one]) => seconds >= one) ?? (["second", 1] as const);
  return new Intl.NumberFormat(language.value, { style: "unit", unit, maximumFractionDigits: 0 }).format(Math.floor(seconds / length));
}

/** Return how long ago, shortly. */
export function ago(time: string, now: number): string {
  const minutes = Math.round((now - Date.parse(time)) / 60_000);
  const format = new Intl.RelativeTimeFormat(language.value, { style: "short", numeric: "auto" });
  if (minutes < 1) return t("just_now");
  if (minutes < 60) return format.format(-minutes, "minute");
  if (minutes < 60 * 24) return format.format(-Math.round(minutes / 60), "hour");
  return format.format(-Math.round(minutes / 1440), "day");
}
