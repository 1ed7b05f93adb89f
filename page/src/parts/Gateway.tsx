import { useEffect, useRef } from "preact/hooks";
import { type Row, gateway, gatewayPaused, gatewayProblem, giveUp, isStarted, rowsOf, stepName, tryAgain, tryAllAgain, watch } from "../gateway";
import { duration, number, t } from "../i18n";
import { explain, isAdmin, who } from "../state";
import type { Gateway, Letter, StepState } from "../types";
import { Icon } from "./Icon";
import { confirm } from "./dialogs";

const STATES: StepState[] = ["waiting", "leased", "done", "dead"];

/** For the operator: what came in, what waits where, and what a person must look at. */
export function GatewayDesk() {
  return (
    <div class="gateway">
      <h1>{t("gateway")}</h1>
      <p class="quiet">{t("gateway_text")}</p>
      {who.value === null ? null : isAdmin.value ? <Watched /> : <p>{t("feedback_admin")}</p>}
    </div>
  );
}

function Watched() {
  useEffect(watch, []);
  const found = gateway.value;
  const problem = gatewayProblem.value;
  return (
    <>
      {problem === null ? null : (
        <p class="note warn" role="alert">
          {problem.code === "not_found" ? t("gateway_no_store") : explain(problem)}
        </p>
      )}
      {gatewayPaused.value ? <p class="note warn">{t("gateway_paused")}</p> : null}
      {found === null ? (
        problem === null ? <p class="quiet">{t("gateway_loading")}</p> : null
      ) : isStarted(found) ? (
        <Going found={found} />
      ) : (
        <HowToStart />
      )}
    </>
  );
}

function HowToStart() {
  return (
    <section aria-labelledby="start">
      <h2 id="start">{t("gateway_none")}</h2>
      <p>{t("gateway_start")}</p>
      <pre class="command">
        <code>rentgen gateway run --config gateway.toml</code>
      </pre>
      <p class="quiet">{t("gateway_same_store")}</p>
    </section>
  );
}

function Going({ found }: { found: Gateway }) {
  const rows = rowsOf(found);
  const stuck = rows.reduce((sum, row) => sum + row.counts.dead, 0);
  return (
    <>
      <dl class="tiles">
        <Tile name={t("gateway_objects")} value={number(found.objects)} />
        <Tile name={t("gateway_open")} value={number(found.open_batches)} />
        <Tile name={t("gateway_delay")} value={found.oldest_s === null || found.oldest_s < 1 ? t("gateway_delay_none") : duration(found.oldest_s)} />
        <Tile name={t("gateway_stuck")} value={number(stuck)} bad={stuck > 0} />
      </dl>
      {found.conflicts > 0 ? <p class="note warn">{t("gateway_conflicts", { count: found.conflicts })}</p> : null}
      {rows.length === 0 ? <p class="quiet">{t("gateway_no_steps")}</p> : <Steps rows={rows} />}
      <Stuck letters={found.dead_letters} count={stuck} />
    </>
  );
}

function Tile({ name, value, bad = false }: { name: string; value: string; bad?: boolean }) {
  return (
    <div data-bad={bad}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function Steps({ rows }: { rows: Row[] }) {
  return (
    <section aria-labelledby="steps">
      <h2 id="steps">{t("gateway_steps")}</h2>
      <div class="scrolls" tabIndex={0} role="region" aria-labelledby="steps">
        <table class="steps">
          <thead>
            <tr>
              <th scope="col">{t("gateway_where")}</th>
              {STATES.map((state) => (
                <th key={state} scope="col" class="number">
                  <i class="swatch" data-state={state} aria-hidden="true" /> {t(`state_${state}`)}
                </th>
              ))}
              <td class="share-bar" aria-hidden="true" />
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={`${row.step} ${row.destination}`}>
                <th scope="row">{stepName(row.step, row.destination)}</th>
                {STATES.map((state) => (
                  <td key={state} class="number" data-state={state} data-none={row.counts[state] === 0}>
                    {number(row.counts[state])}
                  </td>
                ))}
                <td class="share-bar" aria-hidden="true">
                  <Bar row={row} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Bar({ row }: { row: Row }) {
  return (
    <span class="stack">
      {(["done", "leased", "waiting", "dead"] as const).map((state) => (row.counts[state] > 0 ? <i key={state} data-state={state} style={{ flexGrow: row.counts[state] }} /> : null))}
    </span>
  );
}

function Stuck({ letters, count }: { letters: Letter[]; count: number }) {
  const heading = useRef<HTMLHeadingElement>(null);
  // What was pressed is gone afterwards: the next thing to read is the list.
  const then = (done: Promise<void>) => void done.then(() => heading.current?.focus());
  const several = [...new Set(letters.map((one) => one.destination))].filter(
    (destination) => destination !== "" && letters.filter((one) => one.destination === destination).length > 1,
  );
  return (
    <section aria-labelledby="stuck">
      <h2 id="stuck" ref={heading} tabIndex={-1}>
        {t("gateway_stuck")}
      </h2>
      {count === 0 ? <p class="quiet">{t("gateway_stuck_none")}</p> : <p class="quiet">{t("gateway_stuck_text")}</p>}
      {several.length > 0 ? (
        <div class="choices">
          {several.map((destination) => (
            <button type="button" class="plain" key={destination} onClick={() => then(tryAllAgain(destination))}>
              <Icon name="again" /> {t("gateway_retry_all", { destination })}
            </button>
          ))}
        </div>
      ) : null}
      <ul class="letters">
        {letters.map((one) => (
          <Dead key={one.job_id} one={one} then={then} />
        ))}
      </ul>
      {count > letters.length ? <p class="quiet">{t("gateway_stuck_more", { count: count - letters.length })}</p> : null}
    </section>
  );
}

function Dead({ one, then }: { one: Letter; then: (done: Promise<void>) => void }) {
  const where = stepName(one.step, one.destination);
  const ask = () =>
    confirm({
      title: t("gateway_discard_title"),
      text: t(one.step === "deliver" ? "gateway_discard_delivery" : "gateway_discard_step", { where: one.step === "deliver" ? one.destination : where }),
      yes: t("gateway_discard"),
      act: () => then(giveUp(one)),
    });
  return (
    <li>
      <div>
        <p>
          <strong>{where}</strong> <span class="quiet">{t("gateway_attempts", { count: one.attempts })} · {t("gateway_job", { job: String(one.job_id) })}</span>
        </p>
        <p lang="en">{one.reason}</p>
      </div>
      <div class="choices">
        <button type="button" class="plain" aria-label={`${t("upload_again")}: ${where}, ${t("gateway_job", { job: String(one.job_id) })}`} onClick={() => then(tryAgain(one))}>
          <Icon name="again" /> {t("upload_again")}
        </button>
        <button type="button" class="plain" aria-label={`${t("gateway_discard")}: ${where}, ${t("gateway_job", { job: String(one.job_id) })}`} onClick={ask}>
          <Icon name="close" /> {t("gateway_discard")}
        </button>
      </div>
    </li>
  );
}
