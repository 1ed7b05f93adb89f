import { t } from "../i18n";
import { findingNames, modelSays, reading, sendReading, setFinding, stateText } from "../reading";
import { labelText } from "../words";
import { Icon } from "./Icon";

const STATES = [true, false, null] as const;

/** Each of several findings: present, absent, or nobody can tell. */
export function FindingsForm({ ask, stands, comment }: { ask: string; stands: boolean; comment: () => string }) {
  const said = reading.value;
  const send = (event: Event) => {
    event.preventDefault();
    void sendReading(comment());
  };
  return (
    <form id="correction" class="reading" aria-label={ask} onSubmit={send}>
      <p>
        {ask} <kbd>C</kbd>
      </p>
      {(findingNames.value ?? []).map((name, at) => {
        const model = modelSays.value[name] ?? null;
        const differs = stands && model !== null && said[name] !== model;
        return (
          <div class="finding" key={name} data-differs={differs}>
            <span id={`finding-${at}`}>
              {labelText(name)} {at < 9 ? <kbd>{at + 1}</kbd> : null}
              {differs ? <small>{t("reading_differs")}</small> : null}
            </span>
            <div class="three" role="radiogroup" aria-labelledby={`finding-${at}`}>
              {STATES.map((value) => (
                <label key={String(value)} title={value === null ? stateText(value) : undefined}>
                  <input type="radio" name={`finding-${at}`} aria-label={stateText(value)} checked={said[name] === value} onChange={() => setFinding(name, value)} />
                  <span aria-hidden="true">{value === null ? "?" : stateText(value)}</span>
                </label>
              ))}
            </div>
          </div>
        );
      })}
      <button type="submit" class="plain" aria-keyshortcuts="S">
        <Icon name="pencil" /> {t("reading_send")} <kbd>S</kbd>
      </button>
      <p class="quiet">
        {t("reading_note_unknown")} {stands ? t("reading_note") : null}
      </p>
    </form>
  );
}
