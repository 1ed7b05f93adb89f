import { useSignal } from "@preact/signals";
import { t, when } from "../i18n";
import { agree, choose } from "../keys";
import { answer, film, judge, mayRead, models, study } from "../state";
import { agreeWithAll, findingNames } from "../reading";
import { feedbackText, labelText } from "../words";
import { FindingsForm } from "./Findings";
import { Icon } from "./Icon";

export function Verdict() {
  const comment = useSignal("");
  const said = answer.value;
  const image = film.value;
  if (image === null) return null;
  const given = (study.value?.feedback ?? []).filter((one) => one.image_id === image.id);
  const last = given[0];
  const before = given.find((one) => one.prediction_id === (said?.prediction_id ?? null));
  const classes = said && said.label !== null ? Object.keys(said.probabilities) : (models.value.find((one) => one.default)?.classes ?? []);
  const stands = said?.status === "ok" && said.label !== null;
  const several = findingNames.value !== null;
  const ask = t(!stands ? "what_seen" : several ? "correct_each" : "correct_to");
  const pass = () => {
    const text = comment.value;
    comment.value = "";
    return text;
  };
  return (
    <section class="verdict" aria-label={t("verdict")}>
      <h2>{t("verdict")}</h2>
      {mayRead.value ? (
        <>
          {stands ? (
            <button type="button" class="main agree" aria-keyshortcuts="A" aria-pressed={last?.agree === true} onClick={() => (several ? void agreeWithAll(pass()) : comment.value ? void judge(true, said!.label, pass()) : agree())}>
              <Icon name="check" /> {several ? t("agree_all") : t("agree_with", { label: labelText(said!.label!) })} <kbd>A</kbd>
            </button>
          ) : null}
          {several ? (
            <FindingsForm ask={ask} stands={stands} comment={pass} />
          ) : (
            <div id="correction" role="group" aria-label={ask}>
              <p>
                {ask} <kbd>C</kbd>
              </p>
              {classes.map((label, at) =>
                stands && label === said?.label ? null : (
                  <button type="button" class="plain" key={label} aria-pressed={last?.label === label && !(stands && last.agree)} onClick={() => choose(label, pass())}>
                    {labelText(label)} {at < 9 ? <kbd>{at + 1}</kbd> : null}
                  </button>
                ),
              )}
            </div>
          )}
          <label class="comment">
            <span>
              {t("comment")} <kbd>K</kbd>
            </span>
            <textarea
              id="comment"
              rows={2}
              maxLength={2000}
              placeholder={t("comment_hint")}
              value={comment.value}
              onInput={(event) => (comment.value = event.currentTarget.value)}
              onKeyDown={(event) => event.key === "Escape" && event.currentTarget.blur()}
            />
          </label>
          {comment.value.trim() ? (
            // A comment alone says nothing of the class: it repeats what was said last, or neither.
            <button type="button" class="plain" onClick={() => void judge(before?.agree ?? false, before?.label ?? null, pass(), before?.findings ?? null)}>
              {t("comment_send")}
            </button>
          ) : null}
        </>
      ) : null}
      {given.length > 0 ? (
        <ul class="given" aria-label={t("history")}>
          {given.map((one) => (
            <li key={one.id}>
              <Icon name={one.agree ? "check" : "pencil"} />
              <span>
                {feedbackText(one, study.value?.predictions.find((other) => other.prediction_id === one.prediction_id))} <time dateTime={one.created_at}>{when(one.created_at)}</time>
                {one.comment ? <q>{one.comment}</q> : null}
              </span>
            </li>
          ))}
        </ul>
      ) : null}
    </section>
  );
}
