/** Model cards, fetched once each. */

import { signal } from "@preact/signals";
import { api } from "./api";
import { models } from "./state";
import type { Card } from "./types";

const cards = signal<Record<string, Card>>({});
const asked = new Set<string>();

/** Return a model's card, or null while it is on its way: whoever reads it is drawn anew when it is here. */
export function cardOf(name: string): Card | null {
  const bundle = models.value.find((one) => one.name === name)?.bundle_id ?? "";
  const key = `${name} ${bundle}`;
  if (!asked.has(key) && bundle !== "") {
    asked.add(key);
    api.card(name).then(
      (card) => (cards.value = { ...cards.value, [key]: whole(card) }),
      () => asked.delete(key),
    );
  }
  return cards.value[key] ?? null;
}

/** Return the card with null for each part that was not measured: a bundle may leave it out, or leave it empty. */
export function whole(card: Card): Card {
  const part = <T>(value: T | null | undefined, key: keyof T): T | null =>
    typeof value === "object" && value !== null && value[key] !== undefined ? value : null;
  return {
    ...card,
    licences: card.licences ?? [],
    counts: card.counts ?? {},
    operating_points: card.operating_points ?? [],
    validation: part(card.validation, "n"),
    test: part(card.test, "n"),
    audit: part(card.audit, "findings"),
    calibration: part(card.calibration, "fitted_on"),
    scope: part(card.scope, "modalities"),
    robustness: part(card.robustness, "rows"),
    shortcuts: part(card.shortcuts, "probes"),
    heat_maps: part(card.heat_maps, "grade"),
  };
}
