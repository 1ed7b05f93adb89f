import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { api } from "../api";
import { cardOf } from "../cards";
import { type Key, number, percent, t, when } from "../i18n";
import { explain, isAdmin, mayRead, models, say } from "../state";
import type { Compared, Interval, Model } from "../types";
import { labelText, pointName } from "../words";
import { shown } from "./CardDialog";
import { Icon } from "./Icon";
import { openCard } from "./dialogs";

interface Report {
  name: string;
  title: string;
  accuracy: Interval | null;
  auroc: Interval | null;
}

export function Research() {
  const reports = useSignal<Report[]>([]);
  const sets = useSignal<string[]>([]);
  useEffect(() => {
    const quiet = () => undefined;
    api.reports().then((found) => (reports.value = (found as { reports?: Report[] }).reports ?? []), quiet);
    api.sets().then((found) => (sets.value = ((found as { sets?: { name: string }[] }).sets ?? []).map((one) => one.name)), quiet);
  }, []);
  return (
    <div class="research">
      <h1>{t("research")}</h1>
      <p class="quiet">{t("research_text")}</p>
      <section aria-labelledby="bundles">
        <h2 id="bundles">{t("bundles")}</h2>
        <div class="bundles">
          {models.value.map((one) => (
            <Bundle key={one.name} one={one} />
          ))}
        </div>
      </section>
      <section aria-labelledby="reports">
        <h2 id="reports">{t("reports")}</h2>
        {reports.value.length === 0 ? <p class="quiet">{t("reports_none")}</p> : null}
        <ul class="reports">
          {reports.value.map((one) => (
            <li key={one.name}>
              <a href={`/v1/reports/${encodeURIComponent(one.name)}`} target="_blank" rel="noopener">
                <Icon name="pdf" /> {one.title}
              </a>
              <span class="quiet">
                {one.accuracy ? `${t("metric_accuracy")} ${shown(one.accuracy, true)}` : ""} {one.auroc ? `· AUROC ${shown(one.auroc, false)}` : ""}
              </span>
            </li>
          ))}
        </ul>
      </section>
      <Compare sets={sets.value} />
      <section aria-labelledby="feedback-set">
        <h2 id="feedback-set">{t("feedback_set")}</h2>
        <p>{t("feedback_text")}</p>
        {isAdmin.value ? (
          <a class="main" href="/v1/feedback/export" download="feedback.zip">
            <Icon name="download" /> {t("feedback_export")}
          </a>
        ) : (
          <p class="quiet">{t("feedback_admin")}</p>
        )}
      </section>
    </div>
  );
}

function Bundle({ one }: { one: Model }) {
  const card = one.state === "ready" ? cardOf(one.name) : null;
  const found = card?.test ?? card?.validation ?? null;
  return (
    <article class="bundle" data-state={one.state}>
      <h3>
        {one.title ?? one.name}
        {one.default ? <span class="tag">{t("bundle_default")}</span> : null}
        <span class="tag" data-positive={one.state === "failed"}>
          {t(`bundle_state_${one.state}`)}
        </span>
      </h3>
      {one.error ? <p lang="en">{one.error}</p> : null}
      <p class="quiet">
        {one.classes.map(labelText).join(", ")}
        {one.created ? ` · ${when(one.created)}` : ""}
      </p>
      {found === null ? null : (
        <dl class="figures">
          {(["accuracy", "auroc", "ece"] as const).map((name) => (
            <div key={name}>
              <dt>{t(`metric_${name}`)}</dt>
              <dd>{shown(found[name] as Interval, name !== "auroc")}</dd>
            </div>
          ))}
        </dl>
      )}
      {one.bundle_id ? (
        <p class="quiet id">
          {t("card_id")} <code>{one.bundle_id.slice(0, 12)}</code>
        </p>
      ) : null}
      {card ? (
        <button type="button" class="plain" onClick={() => openCard(one.name)}>
          <Icon name="card" /> {t("bundle_card")}
        </button>
      ) : null}
    </article>
  );
}

function Compare({ sets }: { sets: string[] }) {
  const result = useSignal<Compared | null>(null);
  const running = useSignal<number | null>(null);
  const ready = models.value.filter((one) => one.state === "ready");
  const can = ready.length > 1 && sets.length > 0 && mayRead.value;
  const start = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const text = (name: string) => String(form.get(name));
    result.value = null;
    running.value = 0;
    try {
      const { id } = await api.compare(text("old"), text("new"), text("set"));
      result.value = await wait(id, (share) => (running.value = share));
    } catch (error) {
      say(error instanceof Error && error.message === "failed" ? t("compare_failed") : explain(error), "bad");
    }
    running.value = null;
  };
  return (
    <section aria-labelledby="compare">
      <h2 id="compare">{t("compare")}</h2>
      <p class="quiet">{t("compare_text")}</p>
      {ready.length < 2 ? <p class="quiet">{t("compare_one_model")}</p> : null}
      {sets.length === 0 ? <p class="quiet">{t("compare_none")}</p> : null}
      {can ? (
        <form class="compare" onSubmit={start}>
          <Choice name="old" label={t("compare_old")} options={ready.map((one) => one.name)} />
          <Choice name="new" label={t("compare_new")} options={[...ready].reverse().map((one) => one.name)} />
          <Choice name="set" label={t("compare_set")} options={sets} />
          <button type="submit" class="main" disabled={running.value !== null}>
            {t("compare_start")}
          </button>
        </form>
      ) : null}
      <div role="status" aria-live="polite">
        {running.value === null ? null : (
          <>
            <p>{t("compare_running")}</p>
            <progress max={1} value={running.value} aria-label={t("compare")} />
          </>
        )}
        {result.value ? <Outcome found={result.value} /> : null}
      </div>
    </section>
  );
}

function Choice({ name, label, options }: { name: string; label: string; options: string[] }) {
  return (
    <label class="choice">
      <span>{label}</span>
      <select name={name}>
        {options.map((one) => (
          <option key={one}>{one}</option>
        ))}
      </select>
    </label>
  );
}

async function wait(id: string, progress: (share: number) => void): Promise<Compared> {
  for (;;) {
    const found = (await api.comparison(id)) as { state?: string; done?: number; total?: number; result?: Compared | null };
    if (found.state === "failed") throw new Error("failed");
    if (found.state === "done" && found.result) return found.result;
    if (found.total) progress((found.done ?? 0) / found.total);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function Outcome({ found }: { found: Compared }) {
  const leaky = found.old_leak?.leaky || found.new_leak?.leaky;
  return (
    <div class="outcome">
      <p class={found.passed ? "note good" : "note warn"}>{t(found.passed ? "compare_passed" : "compare_not_passed")}</p>
      {leaky ? <p class="note warn">{t("compare_leak")}</p> : null}
      <p>
        {t("compare_n", { films: found.n, patients: found.patients, agreement: percent(found.agreement.value ?? 0, 1) })}{" "}
        {found.mcnemar_p === null
          ? t("compare_right_findings", { old: found.only_old, fresh: found.only_new })
          : t("compare_right", { old: found.only_old, fresh: found.only_new, p: number(found.mcnemar_p, 3) })}
      </p>
      <div class="scrolls" tabIndex={0} role="region" aria-label={t("compare")}>
        <table>
          <thead>
            <tr>
              <th />
              <th scope="col">{t("compare_old")}</th>
              <th scope="col">{t("compare_new")}</th>
              <th />
            </tr>
          </thead>
          <tbody>
            <tr>
              <th scope="row">{t("metric_accuracy")}</th>
              <td>{shown(found.old_accuracy, true)}</td>
              <td>{shown(found.new_accuracy, true)}</td>
              <td />
            </tr>
            {Object.entries(found.auroc).map(([label, area]) => (
              <tr key={label}>
                <th scope="row">AUROC, {labelText(label)}</th>
                <td>{shown(area.old, false)}</td>
                <td>{shown(area.new, false)}</td>
                <td>{area.delong_p === null ? "" : `p = ${number(area.delong_p, 3)}`}</td>
              </tr>
            ))}
            {found.points.map((point) => (
              <tr key={`${point.name} ${point.label}`}>
                <th scope="row">
                  {labelText(point.label)}: {pointName(point.name)}
                </th>
                <td>
                  {shown(point.old.sensitivity, true)} / {shown(point.old.specificity, true)}
                </td>
                <td>{point.new ? `${shown(point.new.sensitivity, true)} / ${shown(point.new.specificity, true)}` : "–"}</td>
                <td>
                  <span class="tag" data-positive={point.verdict !== "holds"}>
                    {t(`verdict_${point.verdict}` as Key)}
                  </span>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </div>
  );
}
