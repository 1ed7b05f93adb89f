import { t } from "../i18n";
import { keysOn, setKeysOn } from "../keys";
import { Modal } from "./Modal";

const KEYS = [
  ["A", "key_agree"],
  ["C", "key_correct"],
  ["1 … 9", "key_class"],
  ["⇧ 1 … 9", "key_unknown"],
  ["S", "key_send"],
  ["K", "key_comment"],
  ["N", "key_next"],
  ["P", "key_previous"],
  ["H", "key_heat"],
  ["I", "key_invert"],
  ["B", "key_preset"],
  ["F", "key_fit"],
  ["0", "key_native"],
  ["R", "key_reset"],
  ["W", "key_window"],
  ["V", "key_pan"],
  ["+  −", "key_zoom"],
  ["← ↑", "key_move"],
  ["⇧ ← ↑", "key_level"],
  ["M", "key_card"],
  ["D", "key_report"],
  ["L", "key_list"],
  ["?", "key_help"],
] as const;

export function Help() {
  return (
    <Modal title={t("help_title")}>
      <dl class="keys">
        {KEYS.map(([key, words]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{t(words)}</dd>
          </div>
        ))}
      </dl>
      <label class="switch">
        <input type="checkbox" checked={keysOn.value} onChange={(event) => setKeysOn(event.currentTarget.checked)} />
        {t("help_keys_on")}
      </label>
      <h3>{t("help_mouse")}</h3>
      <p>{t("help_mouse_text")}</p>
      <h3>{t("help_reading")}</h3>
      <p>{t("help_reading_text")}</p>
    </Modal>
  );
}
