/** Whether somebody is before the page: what asks again and again would keep a forgotten session alive for ever. */

import { who } from "./state";

const FORGOTTEN_MS = 15 * 60_000;

let touched = Date.now();
for (const name of ["pointerdown", "keydown", "wheel"]) addEventListener(name, () => (touched = Date.now()), { capture: true, passive: true });

export const isSeen = () => document.visibilityState === "visible";
export const isForgotten = () => who.peek()?.csrf != null && Date.now() - touched > FORGOTTEN_MS;
