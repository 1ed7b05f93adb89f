import { useRef } from "preact/hooks";
import { percent, t } from "../i18n";
import { studyHash } from "../route";
import { mayRead } from "../state";
import { type Upload, add, again, clear, fault, leftOut, mayHelp, uploads } from "../uploads";
import { Icon } from "./Icon";

export function AddButtons({ small }: { small?: boolean }) {
  const files = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  if (!mayRead.value) return null;
  const take = (input: HTMLInputElement, fromFolder: boolean) => {
    add([...(input.files ?? [])], fromFolder);
    input.value = "";
  };
  return (
    <div class={small ? "add small" : "add"}>
      <button type="button" class="main" onClick={() => files.current?.click()}>
        <Icon name="upload" /> {t("choose_files")}
      </button>
      <button type="button" class="plain" title={t("choose_folder")} onClick={() => folder.current?.click()}>
        <Icon name="folder" /> <span>{t("choose_folder")}</span>
      </button>
      <input ref={files} type="file" multiple hidden data-testid={small ? "files" : undefined} onChange={(event) => take(event.currentTarget, false)} />
      <input ref={folder} type="file" multiple hidden {...{ webkitdirectory: true }} onChange={(event) => take(event.currentTarget, true)} />
    </div>
  );
}

export function Uploads() {
  const all = uploads.value;
  if (all.length === 0 && leftOut.value === 0) return null;
  const failed = all.filter((one) => one.state === "failed");
  const done = all.filter((one) => one.state === "done").length;
  const left = all.length - failed.length - done;
  return (
    <section class="uploads" aria-label={t("uploads")}>
      <div class="uploads-head">
        <p role="status">
          {left > 0 ? t("uploads_left", { count: left }) : t("uploads_done", { count: done })}
          {failed.length > 0 ? `; ${t("uploads_failed", { count: failed.length })}` : ""}
          {leftOut.value > 0 ? `; ${t("uploads_left_out", { count: leftOut.value })}` : ""}
        </p>
        {left === 0 ? (
          <button type="button" class="plain" onClick={clear}>
            {t("upload_clear")}
          </button>
        ) : null}
      </div>
      {left > 0 ? <progress max={all.length} value={all.reduce((sum, one) => sum + (one.state === "failed" ? 1 : one.progress * 0.9 + (one.state === "done" ? 0.1 : 0)), 0)} aria-label={t("uploads")} /> : null}
      <ul class="faults" aria-live="assertive">
        {failed.map((one) => (
          <Fault key={one.id} one={one} />
        ))}
      </ul>
      {all.length - failed.length > 1 || left > 0 ? (
        <details>
          <summary>{t("upload_details")}</summary>
          <ul class="files">
            {all
              .filter((one) => one.state !== "failed")
              .map((one) => (
                <li key={one.id}>
                  {one.study === null ? <span class="name">{one.name}</span> : <a class="name" href={studyHash(one.study)}>{one.name}</a>}
                  <span>{t(`upload_${one.state as "waiting"}`, { share: percent(one.progress) })}</span>
                </li>
              ))}
          </ul>
        </details>
      ) : null}
    </section>
  );
}

function Fault({ one }: { one: Upload }) {
  const { sentence, detail } = fault(one);
  return (
    <li>
      <strong>{one.name}</strong>
      <p>{sentence}</p>
      {detail ? (
        <p class="detail" lang="en">
          {detail}
        </p>
      ) : null}
      {mayHelp(one) ? (
        <button type="button" class="plain" onClick={() => again(one.id)}>
          {t("upload_again")}
        </button>
      ) : null}
    </li>
  );
}
