import { useEffect, useRef } from "preact/hooks";
import { thumbnailUrl } from "../api";
import { ago, percent, t } from "../i18n";
import { studyHash } from "../route";
import { type Filter, choose, cursor, filter, more, now, studies, study } from "../state";
import type { Prediction, Study } from "../types";
import { decidingPoint, findingsText, isSeveral, labelText, statusText, urgencyText } from "../words";
import { Icon } from "./Icon";
import { AddButtons, Uploads } from "./Uploads";

const FILTERS: Filter[] = ["waiting", "read", "all"];

export function Worklist() {
  const list = studies.value;
  return (
    <aside class="rail" aria-label={t("worklist")}>
      <div class="rail-head">
        <h1>{t("worklist")}</h1>
        <AddButtons small />
        <div class="filter" role="group" aria-label={t("filter")}>
          {FILTERS.map((one) => (
            <button type="button" key={one} aria-pressed={filter.value === one} onClick={() => choose(one)}>
              {t(`filter_${one}`)}
            </button>
          ))}
        </div>
      </div>
      <Uploads />
      <div class="rail-list" role="region" tabIndex={-1} aria-label={t(`filter_${filter.value}`)}>
        {list === null ? <p class="quiet">{t("loading_list")}</p> : null}
        {list !== null && list.length === 0 ? <p class="quiet">{t(`empty_${filter.value}`)}</p> : null}
        <ol class="studies">
          {(list ?? []).map((one) => (
            <Row key={one.id} one={one} open={study.value?.id === one.id} />
          ))}
        </ol>
        {cursor.value !== null ? (
          <button type="button" class="plain" onClick={() => void more()}>
            {t("more")}
          </button>
        ) : null}
      </div>
    </aside>
  );
}

/** Return why a study stands where it stands, shortly. */
function finding(said: Prediction): string {
  if (said.status !== "ok" || said.label === null) return statusText(said.status);
  if (isSeveral(said)) return findingsText(said).brief;
  const label = said.urgency === "urgent" ? (decidingPoint(said)?.label ?? said.label) : said.label;
  return `${labelText(label)} ${percent(said.probabilities[label] ?? 0)}`;
}

function Row({ one, open }: { one: Study; open: boolean }) {
  const link = useRef<HTMLAnchorElement>(null);
  useEffect(() => {
    if (open) link.current?.scrollIntoView({ block: "nearest" });
  }, [open]);
  const image = one.images[0];
  const said = one.predictions[0];
  const name = image?.name || t("unknown_film");
  return (
    <li>
      <a ref={link} href={studyHash(one.id)} class="study" data-urgency={one.urgency} data-read={one.read_at !== null} {...(open ? { "aria-current": "true" as const } : {})}>
        <span class="thumb">{image?.viewable ? <img src={thumbnailUrl(image.id)} alt="" loading="lazy" /> : <Icon name="film" />}</span>
        <span class="study-words">
          <span class="urgency" title={t(`urgency_${one.urgency}_means`)}>
            <Icon name={one.urgency} />
            {urgencyText(one.urgency)}
          </span>
          <span class="finding">{said ? finding(said) : t("no_answer")}</span>
          <span class="name">{name}</span>
          <span class="time">
            {one.images.length > 1 ? `${t("films", { count: one.images.length })} · ` : ""}
            {ago(one.received_at, now.value)}
            {one.read_at !== null ? ` · ${t("read")}` : ""}
          </span>
        </span>
      </a>
    </li>
  );
}
