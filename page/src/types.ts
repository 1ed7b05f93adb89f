/** What the service's REST interface gives, as the page uses it. */

export type Status = "ok" | "out_of_scope" | "abstain" | "error";
export type Urgency = "urgent" | "doubt" | "routine";

export interface Interval {
  value: number | null;
  low: number | null;
  high: number | null;
}

export interface Point {
  name: string;
  label: string;
  threshold: number;
  positive: boolean;
  sensitivity: Interval;
  specificity: Interval;
  /** Of several findings, whether this one is neither ruled out nor confirmed; null where a film has one class. */
  undetermined?: boolean | null;
}

export interface Prediction {
  prediction_id: string;
  image_id: string;
  model: string;
  bundle_id: string;
  created_at: string;
  status: Status;
  label: string | null;
  probabilities: Record<string, number>;
  reasons: string[];
  prediction_set: string[];
  distance: number | null;
  points: Point[];
  urgency: Urgency;
  heatmap_url: string | null;
}

export interface Film {
  id: string;
  name: string;
  source_format: string | null;
  rows: number | null;
  columns: number | null;
  bits: number | null;
  spacing_mm: [number, number] | null;
  modality: string | null;
  body_part_examined: string | null;
  view_position: string | null;
  notes: string[];
  received_at: string;
  viewable: boolean;
}

export interface Feedback {
  id: string;
  image_id: string;
  prediction_id: string | null;
  agree: boolean;
  label: string | null;
  /** Of several findings, each that is present or absent; of one that is left out nobody could tell. */
  findings: Record<string, boolean> | null;
  comment: string;
  actor: string;
  created_at: string;
}

export interface Study {
  id: string;
  received_at: string;
  urgency: Urgency;
  score: number;
  read_at: string | null;
  images: Film[];
  predictions: Prediction[];
  feedback: Feedback[];
}

export interface Worklist {
  studies: Study[];
  next: string | null;
}

export interface Added {
  studies: Study[];
  failed: { name: string; code: string; detail: string }[];
}

export interface Model {
  name: string;
  bundle_id: string | null;
  state: "ready" | "loading" | "failed";
  error?: string | null;
  title: string | null;
  classes: string[];
  positive: string | null;
  task: "multiclass" | "multilabel" | null;
  created: string | null;
  default: boolean;
}

export interface Health {
  status: "ready" | "loading" | "draining";
  version: string;
  models: number;
  queue: { waiting: number; limit: number };
  store: "ok" | "off" | "failed";
}

export interface Who {
  name: string | null;
  role: "reader" | "physician" | "admin" | null;
  auth: "none" | "keys" | "oidc" | "platform";
  csrf: string | null;
}

export type Step = "analyse" | "encode" | "deliver";
export type StepState = "waiting" | "leased" | "done" | "dead";

/** A step of the gateway that was given up until a person says otherwise. */
export interface Letter {
  job_id: number;
  step: Step;
  destination: string;
  attempts: number;
  reason: string;
}

/** What the gateway has in hand. */
export interface Gateway {
  objects: number;
  conflicts: number;
  open_batches: number;
  oldest_s: number | null;
  steps: { step: Step; destination: string; state: StepState; count: number }[];
  dead_letters: Letter[];
}

/** The parts of a bundle's card that the page shows; a part that a bundle lacks is null. */
export interface Card {
  name: string;
  created: string;
  classes: string[];
  positive: string | null;
  intended_use: string;
  licences: string[];
  counts: Record<string, Record<string, number>>;
  recipe?: { card?: { known_failures?: string[] } };
  known_failures?: string[];
  operating_points: Omit<Point, "positive">[];
  validation: Evaluation | null;
  test: Evaluation | null;
  audit: { findings: string[]; patient_source: string; n: number } | null;
  calibration: { method: string; fitted_on: string; after?: { ece: Interval } } | null;
  conformal: { coverage: number; measured: Interval; single: Interval } | null;
  scope: {
    modalities: string[];
    body_parts: string[];
    views: string[];
    min_age_years: number | null;
    max_age_years: number | null;
  } | null;
  robustness: { n: number; worst: string; rows: Stress[]; groups: Stress[] } | null;
  shortcuts: { passed: boolean | null; n: number; probes: Probe[] } | null;
  heat_maps: { grade: string; reasons: string[] } | null;
}

export type Evaluation = { n: number; patients: number; positive: string | null } & Record<string, unknown>;

export interface Stress {
  name: string;
  n: number;
  accuracy: Interval;
  auroc: Interval;
  ece: Interval;
}

export interface Probe extends Interval {
  name: string;
  measure: string;
  limit: string;
  passes: boolean | null;
  meaning: string;
}

export interface ComparedPoint {
  name: string;
  label: string;
  verdict: string;
  reasons: string[];
  promised: Omit<Point, "positive">;
  old: Omit<Point, "positive">;
  new: Omit<Point, "positive"> | null;
}

export interface Compared {
  passed: boolean;
  n: number;
  patients: number;
  agreement: Interval;
  only_old: number;
  only_new: number;
  mcnemar_p: number | null;
  auroc: Record<string, { old: Interval; new: Interval; difference: Interval; delong_p: number | null }>;
  points: ComparedPoint[];
  old_accuracy: Interval;
  new_accuracy: Interval;
  old_leak: { leaky: boolean } | null;
  new_leak: { leaky: boolean } | null;
}
