/** The sentences of results. They come from the same file as those of the PDF, so that the two cannot drift. */

import shared from "../../src/rentgen/outputs/words.json";
import { fill, language, number, percent, t } from "./i18n";
import type { Feedback, Interval, Point, Prediction, Status, Urgency } from "./types";

const table = () => shared[language.value];

export const disclaimer = () => table().disclaimer;
export const urgencyText = (urgency: Urgency) => table().urgency[urgency];
export const statusText = (status: Status) => table().status[status];

export function doubtText(status: Status): string {
  return (table().doubt as Partial<Record<Status, string>>)[status] ?? "";
}

/** Return a class as people call it; as the bundle has it, where no better word is known. */
export function labelText(label: string): string {
  const plain = label.replaceAll("_", " ").trim();
  return (table().classes as Record<string, string>)[plain.toLowerCase()] ?? plain;
}

/** Return a reason for doubt in the page's language; as it came, where no pattern fits. */
export function reasonText(reason: string): string {
  for (const [pattern, words] of table().reasons as [string, string][]) {
    const found = new RegExp(pattern).exec(reason);
    if (found) return capital(words.replace(/\{(\d)\}/g, (_, at: string) => found[Number(at)] ?? ""));
  }
  return capital(reason);
}

export function isTranslated(reason: string): boolean {
  return language.value === "en" || (table().reasons as [string, string][]).some(([pattern]) => new RegExp(pattern).test(reason));
}

export function pointName(name: string): string {
  return capital((table().points as Record<string, string>)[name] ?? name.replaceAll("_", " "));
}

/** Classes that say that there is nothing to find; the service decides on urgency without them. */
const UNREMARKABLE = ["normal", "no finding", "healthy", "negative"];
const isFinding = (label: string) => !isNothing(label);

const plainly = (label: string) => label.replaceAll("_", " ").trim().toLowerCase();
/** Whether a finding says that there is none. */
export const isNothing = (label: string) => UNREMARKABLE.includes(plainly(label));
/** Whether a finding cannot be there beside one that says that there is none; a pacemaker can. */
export const denies = (label: string) => !isNothing(label) && !shared.no_diseases.includes(plainly(label));

/** Return the point that decides: of those set to find disease, the one that calls most films positive. */
export function decidingPoint(said: Prediction): Point | null {
  const able = said.points.filter((point) => shared.deciding_points.includes(point.name) && isFinding(point.label));
  const least = (points: Point[]) =>
    points.reduce<Point | null>((first, point) => (first && first.threshold <= point.threshold ? first : point), null);
  const own = able.filter((point) => point.label === said.label);
  if (own.length > 0) return least(own);
  // The named class is no finding: what made the film urgent nevertheless tells, or else what was nearest to it.
  const near = (point: Point) => (said.probabilities[point.label] ?? 0) / point.threshold;
  const nearest = [...able].sort((a, b) => near(b) - near(a))[0];
  return nearest ? least(able.filter((point) => point.label === nearest.label)) : (said.points[0] ?? null);
}

/** Return whether a film may have several findings, each with an operating point of its own. */
export const isSeveral = (said: Prediction) => said.points.some((point) => typeof point.undetermined === "boolean");

export type Presence = "present" | "absent" | "undetermined" | "unjudged";

/** Return what is said of one of several findings, as the PDF says it. */
export function presenceOf(said: Prediction, label: string): { presence: Presence; point: Point | null } {
  const own = said.points.filter((point) => point.label === label && shared.deciding_points.includes(point.name));
  const point = own.reduce<Point | null>((first, one) => (first && first.threshold <= one.threshold ? first : one), null);
  if (point === null) return { presence: "unjudged", point };
  return { presence: point.undetermined ? "undetermined" : point.positive ? "present" : "absent", point };
}

export function presenceText(presence: Presence): string {
  return table()[`finding_${presence}`];
}

/** Return what stands above the findings: which are there, which are in doubt, or that there is none. */
export function findingsText(said: Prediction): { lead: string; doubt: string; brief: string } {
  const labels = (presence: Presence, kept: (label: string) => boolean = () => true) =>
    Object.keys(said.probabilities)
      .filter((label) => kept(label) && presenceOf(said, label).presence === presence)
      .map(labelText);
  const present = labels("present", isFinding);
  const doubt = labels("undetermined", isFinding);
  return {
    brief: [...present, ...(present.length > 0 ? [] : doubt.map((label) => `${label}?`))].join(", ") || table().none_present,
    lead: present.length > 0 ? present.join(", ") : table().none_present,
    doubt: doubt.length > 0 ? fill(table().undetermined_list, { labels: doubt.join(", ") }) : "",
  };
}

export interface PointWords {
  side: string;
  meaning: string;
  caution: string;
}

/** Return what one side of an operating point means, in sentences. */
export function pointWords(point: Point): PointWords {
  const words = table();
  const label = labelText(point.label);
  const threshold = number(point.threshold, 2);
  const side = fill(point.positive ? words.positive : words.negative, { point: pointName(point.name), threshold, label });
  const found = measured(point.sensitivity, 1, words.found_all, words.found, label);
  const wrong = measured(complement(point.specificity), 0, words.false_none, words.false, label);
  const meaning = found && wrong ? `${found} ${wrong}` : "";
  return { side, meaning, caution: meaning ? words.where_measured : "" };
}

function measured(interval: Interval, extreme: number, whole: string, part: string, label: string): string {
  const { value, low, high } = interval;
  if (value === null || low === null || high === null) return "";
  if (value === extreme && low === high) return fill(whole, { label });
  return fill(part, { share: percent(value), low: percent(low), high: percent(high), label });
}

const complement = ({ value, low, high }: Interval): Interval => ({
  value: value === null ? null : 1 - value,
  low: high === null ? null : 1 - high,
  high: low === null ? null : 1 - low,
});

/** Return what the prediction set says; nothing where the model has none. */
export function setText(said: Prediction): string {
  const labels = said.prediction_set.map(labelText);
  if (labels.length === 0) return "";
  const last = labels[labels.length - 1]!;
  const listed = labels.length === 1 ? last : `${labels.slice(0, -1).join(", ")}${table().and}${last}`;
  return fill(labels.length === 1 ? table().set_one : table().set_many, { labels: listed });
}

export const heatText = (label: string) => fill(table().heat_map, { label: labelText(label) });

export function heatWarning(grade: string | null): string {
  return grade === "weak" ? t("heat_weak") : grade === "failed" ? t("heat_grade_failed") : "";
}

/** Return what was said; of several findings also those of the judged answer of which nothing was. */
export function feedbackText(said: Feedback, judged?: Prediction): string {
  const words = table();
  const { findings } = said;
  if (findings === null) {
    const text = said.agree ? words.agree : said.label === null ? words.disagree : words.correct;
    return fill(text, { actor: said.actor, label: said.label === null ? "" : labelText(said.label) });
  }
  const names = [...new Set([...Object.keys(judged?.probabilities ?? {}), ...Object.keys(findings)])];
  const listed = (text: string, wanted: boolean | undefined) => {
    const labels = names.filter((name) => findings[name] === wanted).map(labelText);
    return labels.length > 0 ? [fill(text, { labels: labels.join(", ") })] : [];
  };
  const first = fill(said.agree ? words.agree : words.disagree_findings, { actor: said.actor });
  return [first, ...listed(words.said_present, true), ...listed(words.said_absent, false), ...listed(words.said_unknown, undefined)].join(" ");
}

const capital = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);
