import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { t } from "../i18n";
import { Icon } from "./Icon";
import { dialog } from "./dialogs";

/** The browser's own dialog: it keeps the focus inside, closes on Escape and gives the focus back. */
export function Modal({ title, wide, children }: { title: string; wide?: boolean; children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    element.current?.showModal();
  }, []);
  // The browser says late that it has closed one: by then another may be open.
  const own = useRef(dialog.peek()?.id);
  const close = () => {
    if (dialog.value?.id === own.current) dialog.value = null;
  };
  return (
    <dialog
      ref={element}
      class={wide ? "modal wide" : "modal"}
      aria-labelledby="modal-title"
      onClose={close}
      onClick={(event) => event.target === element.current && element.current?.close()}
    >
      <div class="modal-body">
        <header>
          <h2 id="modal-title">{title}</h2>
          <button type="button" class="tool" aria-label={t("close")} onClick={() => element.current?.close()}>
            <Icon name="close" />
          </button>
        </header>
        <div class="modal-text" tabIndex={0} role="region" aria-label={title}>
          {children}
        </div>
      </div>
    </dialog>
  );
}
