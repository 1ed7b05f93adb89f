import { t } from "../i18n";
import { health, mayRead, studies, who } from "../state";
import { Icon } from "./Icon";
import { AddButtons } from "./Uploads";

/** What stands where the film will be. */
export function Welcome() {
  const some = (studies.value?.length ?? 0) > 0;
  return (
    <section class="welcome">
      <Icon name="film" />
      <h2>{t("welcome")}</h2>
      {health.value?.store === "off" ? <p class="note warn">{t("welcome_store_off")}</p> : null}
      {mayRead.value ? <p>{t("welcome_text")}</p> : who.value ? <p>{t("reader_only")}</p> : null}
      <AddButtons />
      {some ? <p class="quiet by-key">{t("welcome_pick")}</p> : null}
      <p class="quiet">{t("welcome_private")}</p>
    </section>
  );
}
