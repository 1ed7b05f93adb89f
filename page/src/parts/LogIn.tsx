import { useSignal } from "@preact/signals";
import { Problem, api, setCsrf } from "../api";
import { t } from "../i18n";
import { enter, explain } from "../state";

export function LogIn() {
  const wrong = useSignal("");
  const busy = useSignal(false);
  const send = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    busy.value = true;
    try {
      const { csrf } = await api.logIn(String(new FormData(form).get("key") ?? "").trim());
      setCsrf(csrf);
      form.reset();
      await enter();
    } catch (error) {
      const code = error instanceof Problem ? error.code : "";
      wrong.value = code === "unauthorised" ? t("login_wrong") : code === "rate_limited" ? t("login_later") : explain(error);
    }
    busy.value = false;
  };
  return (
    <form class="login" onSubmit={send}>
      <h1>{t("login")}</h1>
      <p>{t("login_text")}</p>
      <label>
        {t("login_key")}
        <input name="key" type="password" autocomplete="current-password" required spellcheck={false} aria-describedby="login-wrong" />
      </label>
      <p id="login-wrong" class="note warn" role="alert" hidden={wrong.value === ""}>
        {wrong.value}
      </p>
      <button type="submit" class="main" disabled={busy.value}>
        {t("login_go")}
      </button>
    </form>
  );
}
