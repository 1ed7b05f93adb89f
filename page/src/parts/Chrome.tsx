/** What stands around everything: the head, the foot, and what is said in passing. */

import { link } from "../api";
import { type Language, language, setLanguage, t } from "../i18n";
import { route } from "../route";
import { health, isAdmin, leave, notice, who } from "../state";
import { disclaimer } from "../words";
import { Icon } from "./Icon";
import { openHelp } from "./dialogs";

export function Head() {
  const at = route.value.name;
  return (
    <header class="head">
      <button type="button" class="skip" onClick={() => document.getElementById("main")?.focus()}>
        {t("skip")}
      </button>
      <a class="brand" href="#/">
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <path d="M16 5v22M16 9c-5-1-9 2-10 6M16 9c5-1 9 2 10 6M16 14c-4 0-7 2-8 5M16 14c4 0 7 2 8 5M16 19c-3 0-5 1-6 4M16 19c3 0 5 1 6 4" />
        </svg>
        <strong>{t("app")}</strong>
        <span>{t("tagline")}</span>
      </a>
      <nav aria-label={t("nav")}>
        <Tab to="#/" here={at === "list" || at === "study"} name={t("nav_worklist")} />
        <Tab to="#/research" here={at === "research"} name={t("nav_research")} />
        {isAdmin.value && health.value?.store !== "off" ? <Tab to="#/gateway" here={at === "gateway"} name={t("nav_gateway")} /> : null}
      </nav>
      <div class="languages" role="group" aria-label={t("language")}>
        {(["en", "uk"] as Language[]).map((one) => (
          <button type="button" key={one} lang={one} aria-pressed={language.value === one} onClick={() => setLanguage(one)} aria-label={one === "en" ? "English" : "Українська"}>
            {one === "en" ? "EN" : "УКР"}
          </button>
        ))}
      </div>
      <button type="button" class="tool" title={`${t("help")} (?)`} aria-label={t("help")} onClick={() => openHelp()}>
        <Icon name="help" />
      </button>
      {who.value !== null && who.value.auth !== "none" && who.value.csrf !== null ? (
        <button type="button" class="plain" title={t("account", { name: who.value.name ?? "" })} onClick={() => void leave()}>
          {t("log_out")}
        </button>
      ) : null}
    </header>
  );
}

function Tab({ to, here, name }: { to: string; here: boolean; name: string }) {
  return (
    <a href={to} {...(here ? { "aria-current": "page" as const } : {})}>
      {name}
    </a>
  );
}

export function Foot() {
  return (
    <footer class="foot">
      <p class="disclaimer">
        <Icon name="urgent" /> {disclaimer()}
      </p>
      {health.value ? <p class="version">{t("pages", { version: health.value.version })}</p> : null}
    </footer>
  );
}

/** How the server is, where it is not well. */
export function LinkBar() {
  const state = link.value;
  return (
    <div class="link" role="status" data-link={state}>
      {state === "ok" ? null : <p>{t(`link_${state}`)}</p>}
    </div>
  );
}

export function Notice() {
  const said = notice.value;
  return (
    <div class="notice" role="status" aria-live="polite">
      {said === null ? null : <p class={said.tone}>{said.text}</p>}
    </div>
  );
}
