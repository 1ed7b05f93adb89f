import { t } from "../i18n";
import { Modal } from "./Modal";
import type { Question } from "./dialogs";

/** A question before something that cannot be taken back. */
export function Confirm({ asked }: { asked: Question }) {
  // The browser's own closing gives the focus back.
  const close = (event: MouseEvent) => (event.currentTarget as HTMLElement).closest("dialog")?.close();
  return (
    <Modal title={asked.title}>
      <p>{asked.text}</p>
      <div class="choices">
        <button type="button" class="plain" onClick={close}>
          {t("cancel")}
        </button>
        <button
          type="button"
          class="main grave"
          onClick={(event) => {
            close(event);
            asked.act();
          }}
        >
          {asked.yes}
        </button>
      </div>
    </Modal>
  );
}
