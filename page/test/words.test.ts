import { beforeEach, describe, expect, it, vi } from "vitest";
import en from "../src/words/en.json";
import uk from "../src/words/uk.json";

vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined });
vi.stubGlobal("navigator", { language: "en-GB" });
const { fill, language, percent, t } = await import("../src/i18n");
const words = await import("../src/words");
const { agreesWith, changed } = await import("../src/said");

const stem = (key: string) => key.replace(/_(one|few|many|other)$/, "");
const point = {
  name: "sensitivity_0.95",
  label: "PNEUMONIA",
  threshold: 0.8,
  positive: true,
  sensitivity: { value: 0.95, low: 0.93, high: 0.97 },
  specificity: { value: 1, low: 1, high: 1 },
};

beforeEach(() => {
  language.value = "en";
});

describe("both languages", () => {
  it("say the same things with the same values", () => {
    expect([...new Set(Object.keys(uk).map(stem))].sort()).toEqual([...new Set(Object.keys(en).map(stem))].sort());
    const slots = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map((found) => found[1]).sort();
    for (const [key, text] of Object.entries(en)) {
      const other = (uk as Record<string, string>)[key];
      if (other !== undefined) expect(slots(other), key).toEqual(slots(text));
    }
  });
  it("count as their grammar does", () => {
    language.value = "uk";
    expect([1, 3, 5, 21].map((count) => t("films", { count }))).toEqual(["1 знімок", "3 знімки", "5 знімків", "21 знімок"]);
  });
});

describe("sentences", () => {
  it("never round to certainty", () => {
    expect(percent(0.9999)).toBe(">\u200999\u00a0%");
    expect(percent(0.0001)).toBe("<\u20091\u00a0%");
    expect([percent(1), percent(0), percent(0.5)]).toEqual(["100\u00a0%", "0\u00a0%", "50\u00a0%"]);
  });
  it("leave a hole visible", () => {
    expect(fill("{a} {b}", { a: "x" })).toBe("x {b}");
  });
  it("tell what an operating point means", () => {
    const told = words.pointWords(point);
    expect(told.side).toContain("counts as positive for Pneumonia");
    expect(told.meaning).toContain("none of the measured films without it");
    expect(words.pointWords({ ...point, sensitivity: { value: null, low: null, high: null } }).meaning).toBe("");
  });
  it("tell several findings each by its own point", () => {
    const at = (label: string, positive: boolean, undetermined: boolean) => ({ ...point, label, positive, undetermined, name: "youden" });
    const said = {
      label: "EFFUSION",
      probabilities: { EFFUSION: 0.9, NODULE: 0.5, CARDIOMEGALY: 0.1, "No Finding": 0.1 },
      points: [at("EFFUSION", true, false), at("NODULE", true, true), at("CARDIOMEGALY", false, false), at("No Finding", false, true)],
    };
    type Said = Parameters<typeof words.findingsText>[0];
    expect(words.isSeveral(said as unknown as Said)).toBe(true);
    const told = words.findingsText(said as unknown as Said);
    expect(told.lead).toBe("Effusion");
    expect(told.doubt).toContain("Nodule");
    expect(told.doubt).not.toContain("No finding");
    const unsure = { ...said, points: said.points.slice(1) };
    expect(words.findingsText(unsure as unknown as Said).brief).toBe("Nodule?");
    expect(words.presenceOf(unsure as unknown as Said, "EFFUSION").presence).toBe("unjudged");
  });
  it("explain urgency by the finding, not by the most probable class", () => {
    const said = {
      label: "NORMAL",
      probabilities: { NORMAL: 0.7, PNEUMONIA: 0.3 },
      points: [
        { ...point, label: "NORMAL", threshold: 0.1 },
        { ...point, threshold: 0.2 },
      ],
    };
    expect(words.decidingPoint(said as never)?.label).toBe("PNEUMONIA");
  });
  it("translate reasons, and keep one that is not known", () => {
    language.value = "uk";
    expect(words.reasonText("not a radiograph: the image is noise")).toBe("Не рентгенівський знімок: зображення є шумом");
    expect(words.reasonText("something new")).toBe("Something new");
    expect(words.isTranslated("something new")).toBe(false);
  });
});

describe("what is said of several findings", () => {
  const said = { EFFUSION: true, NODULE: null, "Support Devices": true, "No Finding": false };
  it("never has a disease beside none, and a device may stay", () => {
    expect(changed(said, "No Finding", true)).toEqual({ EFFUSION: false, NODULE: null, "Support Devices": true, "No Finding": true });
    expect(changed({ ...said, EFFUSION: false, "No Finding": true }, "NODULE", true)).toEqual({ EFFUSION: false, NODULE: true, "Support Devices": true, "No Finding": false });
    expect(changed({ ...said, "No Finding": true }, "Support Devices", true)["No Finding"]).toBe(true);
    expect(changed(said, "NODULE", false)).toEqual({ ...said, NODULE: false });
  });
  it("agrees where all that the model is sure of is said", () => {
    expect(agreesWith(said, { EFFUSION: true, NODULE: null, "No Finding": false })).toBe(true);
    expect(agreesWith({ ...said, NODULE: true }, { EFFUSION: true, NODULE: null })).toBe(true);
    expect(agreesWith({ ...said, EFFUSION: null }, { EFFUSION: true })).toBe(false);
  });
  it("is told with what nobody could tell", () => {
    const feedback = { actor: "X", agree: false, label: null, findings: { EFFUSION: true, NODULE: false } };
    const judged = { probabilities: { NODULE: 0.1, EFFUSION: 0.9, HERNIA: 0.5 } };
    type Judged = Parameters<typeof words.feedbackText>;
    const told = words.feedbackText(...([feedback, judged] as unknown as Judged));
    expect(told).toBe("X does not agree. Present: Effusion. Absent: Nodule. Cannot tell: Hernia.");
    expect(words.feedbackText({ ...feedback, findings: null } as unknown as Judged[0])).toBe("X does not agree, and names no class.");
  });
});
