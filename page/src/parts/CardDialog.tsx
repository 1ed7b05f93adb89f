import { cardOf } from "../cards";
import { type Key, number, t, when } from "../i18n";
import type { Card, Evaluation, Interval, Stress } from "../types";
import { labelText, pointName } from "../words";
import { Modal } from "./Modal";

/** Metrics in the table's order, and whether each is a share. */
const METRICS = [
  ["accuracy", true],
  ["recall", true],
  ["specificity", true],
  ["f1", true],
  ["auroc", false],
  ["ece", true],
  ["brier", false],
] as const;

export function CardDialog({ model }: { model: string }) {
  const card = cardOf(model);
  return (
    <Modal title={`${t("card")}: ${card?.name ?? model}`} wide>
      {card === null ? <p class="quiet">…</p> : <CardText card={card} />}
    </Modal>
  );
}

function CardText({ card }: { card: Card }) {
  const failures = card.known_failures ?? card.recipe?.card?.known_failures ?? [];
  const measured = card.test ?? card.validation;
  return (
    <div class="card-text">
      <h3>{t("card_intended")}</h3>
      <p lang="en" class="lead">
        {card.intended_use || t("card_missing")}
      </p>
      {failures.length > 0 ? (
        <>
          <h3>{t("card_failures")}</h3>
          <ul lang="en" class="failures">
            {failures.map((one) => (
              <li key={one}>{one}</li>
            ))}
          </ul>
        </>
      ) : null}
      <Scope card={card} />
      <h3>{t("card_figures")}</h3>
      {measured === null ? <p>{t("card_no_figures")}</p> : <Figures found={measured} />}
      <h3>{t("card_points")}</h3>
      <PointsTable card={card} />
      <h3>{t("card_calibration")}</h3>
      {card.calibration === null ? (
        <p>{t("card_none")}</p>
      ) : (
        <p>{t("card_calibration_text", { on: card.calibration.fitted_on, gap: shown(card.calibration.after?.ece, true) })}</p>
      )}
      <Shortcuts card={card} />
      <Robustness card={card} />
      {card.heat_maps === null ? null : (
        <>
          <h3>{t("card_heat")}</h3>
          <p>{t(`card_heat_${card.heat_maps.grade}` as Key)}</p>
          <ul lang="en" class="quiet">
            {card.heat_maps.reasons.map((one) => (
              <li key={one}>{one}</li>
            ))}
          </ul>
        </>
      )}
      <Made card={card} />
    </div>
  );
}

function Scope({ card }: { card: Card }) {
  const { scope } = card;
  if (scope === null) return null;
  const [low, high] = [scope.min_age_years, scope.max_age_years];
  const ages =
    low !== null && high !== null
      ? t("card_ages", { low, high })
      : high !== null
        ? t("card_ages_up_to", { high })
        : low !== null
          ? t("card_ages_from", { low })
          : "";
  const parts = [scope.modalities.join(", "), scope.body_parts.join(", "), scope.views.join(", "), ages].filter(Boolean);
  return parts.length === 0 ? null : (
    <>
      <h3>{t("card_scope")}</h3>
      <p>{parts.join("; ")}</p>
    </>
  );
}

function isInterval(value: unknown): value is Interval {
  return typeof value === "object" && value !== null && "value" in value && "low" in value;
}

export function shown(interval: Interval | undefined, share: boolean): string {
  if (interval === undefined || interval.value === null) return "–";
  const one = (value: number) => (share ? number(value * 100, 1) : number(value, 3));
  const { value, low, high } = interval;
  const range = low === null || high === null ? "" : ` (${one(low)}–${one(high)})`;
  return share ? `${number(value * 100, 1)}\u00a0%${range}` : `${one(value)}${range}`;
}

function Figures({ found }: { found: Evaluation }) {
  return (
    <>
      <p class="quiet">{t("card_figures_of", { films: found.n, patients: found.patients })}</p>
      <table>
        <tbody>
          {METRICS.map(([name, share]) => {
            const value = found[name];
            return isInterval(value) && value.value !== null ? (
              <tr key={name}>
                <th scope="row">{t(`metric_${name}`)}</th>
                <td>{shown(value, share)}</td>
              </tr>
            ) : null;
          })}
        </tbody>
      </table>
    </>
  );
}

function PointsTable({ card }: { card: Card }) {
  if (card.operating_points.length === 0) return <p>{t("card_missing")}</p>;
  return (
    <div class="scrolls" tabIndex={0} role="region" aria-label={t("card_points")}>
      <table>
        <thead>
          <tr>
            <th scope="col">{t("classes")}</th>
            <th scope="col">{t("threshold")}</th>
            <th scope="col">{t("sensitivity")}</th>
            <th scope="col">{t("specificity")}</th>
          </tr>
        </thead>
        <tbody>
          {card.operating_points.map((point) => (
            <tr key={`${point.name} ${point.label}`}>
              <th scope="row">
                {labelText(point.label)}: {pointName(point.name)}
              </th>
              <td>{number(point.threshold, 3)}</td>
              <td>{shown(point.sensitivity, true)}</td>
              <td>{shown(point.specificity, true)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Shortcuts({ card }: { card: Card }) {
  const { shortcuts } = card;
  if (shortcuts === null) return null;
  const verdict = shortcuts.passed === null ? "open" : shortcuts.passed ? "passed" : "failed";
  return (
    <>
      <h3>{t("card_shortcuts")}</h3>
      <p class={verdict === "failed" ? "note warn" : ""}>{t(`card_shortcuts_${verdict}`)}</p>
      <ul class="probes">
        {shortcuts.probes
          .filter((one) => one.passes !== null)
          .map((one) => (
            <li key={one.name}>
              <span lang="en">
                <strong>{one.name}</strong>: {shown(one, false)} ({one.limit}). {one.meaning}
              </span>{" "}
              <span class="tag" data-positive={one.passes === false}>
                {t(one.passes ? "card_passes" : "card_fails")}
              </span>
            </li>
          ))}
      </ul>
    </>
  );
}

function StressTable({ rows }: { rows: Stress[] }) {
  return (
    <table>
      <tbody>
        {rows.map((row) => (
          <tr key={row.name}>
            <th scope="row" lang="en">
              {row.name}
            </th>
            <td>{shown(row.accuracy, true)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Robustness({ card }: { card: Card }) {
  const { robustness } = card;
  if (robustness === null) return null;
  return (
    <>
      <h3>{t("card_robust")}</h3>
      <p>{t("card_robust_text", { count: number(robustness.n), worst: robustness.worst })}</p>
      <StressTable rows={robustness.rows} />
      {robustness.groups.length > 0 ? (
        <>
          <h4>{t("card_groups")}</h4>
          <StressTable rows={robustness.groups} />
        </>
      ) : null}
    </>
  );
}

function Made({ card }: { card: Card }) {
  const counts = Object.entries(card.counts["train"] ?? {});
  return (
    <>
      <h3>{t("card_data")}</h3>
      <p>{counts.map(([label, count]) => `${labelText(label)} ${number(count)}`).join(", ") || t("card_missing")}</p>
      {card.audit && card.audit.findings.length > 0 ? (
        <>
          <h4>{t("card_audit")}</h4>
          <ul lang="en">
            {card.audit.findings.map((one) => (
              <li key={one}>{one}</li>
            ))}
          </ul>
        </>
      ) : null}
      <h3>{t("card_licences")}</h3>
      <ul lang="en">
        {card.licences.map((one) => (
          <li key={one}>{one}</li>
        ))}
      </ul>
      <p class="quiet">{t("card_made", { time: when(card.created) })}</p>
    </>
  );
}
