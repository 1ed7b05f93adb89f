import { reportUrl } from "../api";
import { cardOf } from "../cards";
import { language, number, percent, t, when } from "../i18n";
import { answer, answers, film, modelName, models, putBack, mayRead, step, study } from "../state";
import type { Card, Point, Prediction } from "../types";
import { decidingPoint, doubtText, findingsText, heatText, isSeveral, isTranslated, labelText, pointName, pointWords, presenceOf, presenceText, reasonText, setText, statusText, urgencyText } from "../words";
import { Icon } from "./Icon";
import { Verdict } from "./Verdict";
import { openCard } from "./dialogs";
import * as desk from "../viewer/desk";

export function Result() {
  const said = answer.value;
  const image = film.value;
  if (study.value === null || image === null) return null;
  return (
    <section class="result" aria-label={t("result")}>
      <p class="hidden" role="status" aria-live="polite">
        {said === null ? t("result_pending") : summary(said)}
      </p>
      <Which />
      {said === null ? <p class="quiet">{t("result_pending")}</p> : <Answer said={said} card={cardOf(said.model)} />}
      <Verdict />
      <Doors />
      <AboutFilm />
    </section>
  );
}

/** Return what a screen reader says first: the doubt before any class. */
function summary(said: Prediction): string {
  const several = isSeveral(said) ? findingsText(said) : null;
  const named = several !== null ? `${several.lead} ${several.doubt}` : said.label === null ? "" : `${labelText(said.label)}, ${percent(said.probabilities[said.label] ?? 0)}.`;
  if (said.status === "ok") return `${urgencyText(said.urgency)}. ${named}`;
  return `${statusText(said.status)}. ${doubtText(said.status)} ${said.reasons.map(reasonText).join(". ")}`;
}

function Which() {
  const several = answers.value;
  if (several.length < 2) return null;
  return (
    <label class="choice which">
      <span>{t("other_model")}</span>
      <select value={answer.value?.model ?? ""} onChange={(event) => (modelName.value = event.currentTarget.value)}>
        {several.map((one) => (
          <option key={one.model}>{one.model}</option>
        ))}
      </select>
    </label>
  );
}

function Answer({ said, card }: { said: Prediction; card: Card | null }) {
  const stands = said.status === "ok";
  return (
    <div class="answer" data-status={said.status} data-urgency={said.urgency}>
      {stands ? null : <Doubt said={said} />}
      {said.label === null ? null : stands ? (
        isSeveral(said) ? (
          <Findings said={said} />
        ) : (
          <Standing said={said} card={card} />
        )
      ) : (
        <details class="behind">
          <summary>{t("behind_doubt")}</summary>
          <p class="note">{t("behind_doubt_note")}</p>
          <Bars said={said} />
        </details>
      )}
    </div>
  );
}

function Doubt({ said }: { said: Prediction }) {
  return (
    <section class="doubt" aria-label={t("reasons_list")}>
      <p class="eyebrow">
        <Icon name="doubt" /> {t("doubt_first")}
      </p>
      <h2>{statusText(said.status)}</h2>
      {said.status === "abstain" ? null : <p class="lead">{doubtText(said.status)}</p>}
      <ul>
        {said.reasons.map((reason) => (
          <li key={reason} {...(isTranslated(reason) ? {} : { lang: "en" })}>
            {reasonText(reason)}
          </li>
        ))}
      </ul>
    </section>
  );
}

function Standing({ said, card }: { said: Prediction; card: Card | null }) {
  const label = said.label!;
  const probability = said.probabilities[label] ?? 0;
  const point = decidingPoint(said);
  const set = setText(said);
  const calibrated = card === null || card.calibration !== null;
  return (
    <>
      <p class="eyebrow urgency">
        <Icon name={said.urgency} /> {urgencyText(said.urgency)}
      </p>
      {said.urgency === "urgent" && point !== null && point.label !== label ? (
        <p class="note warn">{t("urgent_nevertheless", { label: labelText(label), finding: labelText(point.label), share: percent(said.probabilities[point.label] ?? 0) })}</p>
      ) : null}
      <h2 class="class">{labelText(label)}</h2>
      <p class="probability">
        <strong>{percent(probability)}</strong> <span>{t(calibrated ? "probability_of" : "probability_raw_of", { label: labelText(label) })}</span>
      </p>
      <Bars said={said} point={point} />
      {point === null ? null : <PointText point={point} />}
      {set ? <p>{set}</p> : null}
      {desk.heatOn.value && said.heatmap_url !== null ? <p class="quiet">{heatText(desk.heatLabel.value ?? label)}</p> : null}
      {said.points.length > 1 ? <Points said={said} /> : null}
    </>
  );
}

/** Several findings: each with its probability, its operating point and what it says. */
function Findings({ said }: { said: Prediction }) {
  const words = findingsText(said);
  return (
    <>
      <p class="eyebrow urgency">
        <Icon name={said.urgency} /> {urgencyText(said.urgency)}
      </p>
      <h2 class="class">{words.lead}</h2>
      {words.doubt ? <p class="note">{words.doubt}</p> : null}
      <dl class="bars" aria-label={t("probabilities")}>
        {Object.entries(said.probabilities).map(([label, value]) => {
          const { presence, point } = presenceOf(said, label);
          return (
            <div key={label} data-first={presence === "present"} data-presence={presence}>
              <dt>
                {labelText(label)} <span class="tag" data-positive={presence === "present"}>{presenceText(presence)}</span>
              </dt>
              <dd>
                <span class="track" aria-hidden="true">
                  <i style={{ width: `${(value * 100).toFixed(2)}%` }} />
                  {point === null ? null : <b style={{ left: `${(point.threshold * 100).toFixed(2)}%` }} title={`${t("threshold_mark")} ${number(point.threshold, 2)}`} />}
                </span>
                <span class="share">{percent(value)}</span>
              </dd>
            </div>
          );
        })}
      </dl>
      {desk.heatOn.value && said.heatmap_url !== null ? <p class="quiet">{heatText(desk.heatLabel.value ?? said.label!)}</p> : null}
      <Points said={said} />
    </>
  );
}

function PointText({ point }: { point: Point }) {
  const words = pointWords(point);
  return (
    <div class="point">
      <p>{words.side}</p>
      {words.meaning ? (
        <p class="quiet">
          {words.meaning} {words.caution}
        </p>
      ) : null}
    </div>
  );
}

function Bars({ said, point = null }: { said: Prediction; point?: Point | null }) {
  return (
    <dl class="bars" aria-label={t("probabilities")}>
      {Object.entries(said.probabilities).map(([label, value]) => (
        <div key={label} data-first={label === said.label}>
          <dt>{labelText(label)}</dt>
          <dd>
            <span class="track" aria-hidden="true">
              <i style={{ width: `${(value * 100).toFixed(2)}%` }} />
              {point?.label === label ? <b style={{ left: `${(point.threshold * 100).toFixed(2)}%` }} title={`${t("threshold_mark")} ${number(point.threshold, 2)}`} /> : null}
            </span>
            <span class="share">{percent(value)}</span>
          </dd>
        </div>
      ))}
    </dl>
  );
}

function Points({ said }: { said: Prediction }) {
  return (
    <details>
      <summary>{t("points")}</summary>
      {said.points.map((point) => {
        const words = pointWords(point);
        return (
          <div class="point" key={`${point.name} ${point.label}`}>
            <h3>
              {pointName(point.name)}
              <span class="tag" data-positive={point.positive}>
                {labelText(point.label)}: {t(point.positive ? "point_above" : "point_below")}
              </span>
            </h3>
            <p class="quiet">
              {t("point_table", { threshold: number(point.threshold, 2), probability: number(said.probabilities[point.label] ?? 0, 2) })}. {words.meaning}
            </p>
          </div>
        );
      })}
    </details>
  );
}

/** The ways on from here. */
function Doors() {
  const open = study.value!;
  const said = answer.value;
  const title = models.value.find((one) => one.name === said?.model)?.title ?? said?.model;
  return (
    <div class="doors">
      {said === null ? null : (
        <button type="button" class="plain" aria-keyshortcuts="M" onClick={() => openCard(said.model)}>
          <Icon name="card" /> {t("card_open")}
          <span class="quiet">{title}</span>
        </button>
      )}
      <div class="row">
        <a class="plain" href={reportUrl(open.id, language.value)} target="_blank" rel="noopener" aria-label={`${t("report")}, ${t("report_pdf")}`}>
          <Icon name="pdf" /> {t("report")} {t("report_pdf")}
        </a>
        <button type="button" class="plain" onClick={() => print()}>
          <Icon name="print" /> {t("print")}
        </button>
        {mayRead.value ? (
          <button type="button" class="plain" onClick={() => void putBack(open.read_at === null)}>
            <Icon name={open.read_at === null ? "check" : "list"} /> {t(open.read_at === null ? "mark_read" : "mark_waiting")}
          </button>
        ) : null}
      </div>
      <div class="row steps">
        <button type="button" class="plain" aria-keyshortcuts="P" onClick={() => step(-1)}>
          <Icon name="previous" /> {t("previous")} <kbd>P</kbd>
        </button>
        <button type="button" class="plain" aria-keyshortcuts="N" onClick={() => step(1)}>
          {t("next")} <kbd>N</kbd> <Icon name="next" />
        </button>
      </div>
    </div>
  );
}

function AboutFilm() {
  const image = film.value!;
  const kind = [image.source_format?.toUpperCase(), image.modality, image.body_part_examined, image.view_position].filter(Boolean).join(" · ");
  const rows: [string, string][] = [
    [t("about_name"), image.name],
    [t("about_size"), image.rows === null || image.columns === null ? "" : t("about_size_value", { columns: String(image.columns), rows: String(image.rows), bits: image.bits ?? "?" })],
    [t("about_spacing"), image.spacing_mm ? `${number(image.spacing_mm[1], 3)} × ${number(image.spacing_mm[0], 3)} mm` : ""],
    [t("about_kind"), kind],
    [t("about_received"), when(image.received_at)],
    [t("about_notes"), image.notes.join("; ")],
  ];
  return (
    <details class="about">
      <summary>{t("about_film")}</summary>
      <dl>
        {rows
          .filter(([, value]) => value !== "")
          .map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
      </dl>
    </details>
  );
}
