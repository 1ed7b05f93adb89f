import { render } from "preact";
import { App } from "./parts/App";
import { start } from "./state";
import "./style.css";
import "./print.css";

render(<App />, document.getElementById("page")!);
void start();
