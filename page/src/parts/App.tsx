import { useEffect } from "preact/hooks";
import { useSignal, useSignalEffect } from "@preact/signals";
import { locked } from "../api";
import { language, t } from "../i18n";
import { onKey } from "../keys";
import { route } from "../route";
import { explain, film, mayRead, study, studyProblem } from "../state";
import { add, droppedFiles } from "../uploads";
import { Viewer } from "../viewer/Viewer";
import { disclaimer } from "../words";
import { CardDialog } from "./CardDialog";
import { Foot, Head, LinkBar, Notice } from "./Chrome";
import { Confirm } from "./Confirm";
import { GatewayDesk } from "./Gateway";
import { Help } from "./Help";
import { Icon } from "./Icon";
import { LogIn } from "./LogIn";
import { Research } from "./Research";
import { Result } from "./Result";
import { Welcome } from "./Welcome";
import { Worklist } from "./Worklist";
import { dialog } from "./dialogs";

export function App() {
  useSignalEffect(() => {
    document.documentElement.lang = language.value;
    document.title = t("app");
  });
  useEffect(() => {
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  const open = dialog.value;
  return (
    <div class="page" data-route={locked.value ? "login" : route.value.name}>
      <Head />
      <LinkBar />
      <main id="main" tabIndex={-1}>
        {locked.value ? <LogIn /> : <Body />}
      </main>
      <Foot />
      <Notice />
      <DropZone />
      {open?.name === "help" ? <Help key={open.id} /> : null}
      {open?.name === "confirm" ? <Confirm key={open.id} asked={open} /> : null}
      {open?.name === "card" ? <CardDialog key={open.id} model={open.model} /> : null}
    </div>
  );
}

function Body() {
  const at = route.value;
  if (at.name === "research") return <Research />;
  if (at.name === "gateway") return <GatewayDesk />;
  return (
    <>
      <Worklist />
      {at.name === "list" ? <Welcome /> : studyProblem.value !== null ? <Missing /> : study.value !== null ? <Open /> : <div class="open" />}
    </>
  );
}

function Open() {
  return (
    <div class="open">
      <a class="plain back" href="#/">
        <Icon name="previous" /> {t("back_to_list")}
      </a>
      <Viewer />
      <Result />
      <p class="print-only">
        {film.value?.name} · {disclaimer()}
      </p>
    </div>
  );
}

function Missing() {
  return (
    <section class="welcome" role="alert">
      <Icon name="film" />
      <p>{explain(studyProblem.value)}</p>
      <a class="main" href="#/">
        {t("back_to_list")}
      </a>
    </section>
  );
}

/** The whole page takes films. */
function DropZone() {
  const over = useSignal(false);
  useEffect(() => {
    let depth = 0;
    const stop = new AbortController();
    const on = (name: "dragenter" | "dragover" | "dragleave" | "drop", what: (event: DragEvent) => void) =>
      addEventListener(
        name,
        (event) => {
          if (!event.dataTransfer?.types.includes("Files")) return;
          event.preventDefault();
          what(event);
        },
        { signal: stop.signal },
      );
    on("dragenter", () => {
      depth += 1;
      over.value = mayRead.value;
    });
    on("dragover", (event) => (event.dataTransfer!.dropEffect = mayRead.value ? "copy" : "none"));
    on("dragleave", () => {
      depth -= 1;
      if (depth <= 0) over.value = false;
    });
    on("drop", (event) => {
      depth = 0;
      over.value = false;
      if (mayRead.value) void droppedFiles(event.dataTransfer!).then(({ files, fromFolder }) => add(files, fromFolder));
    });
    return () => stop.abort();
  }, []);
  return over.value ? (
    <div class="drop">
      <p>
        <Icon name="upload" /> {t("drop_now")}
      </p>
    </div>
  ) : null;
}
