export function focusCorrection(): void {
  document.querySelector<HTMLElement>("#correction :is(input:checked, button)")?.focus();
}

/** Send the form of several findings, as a click does. */
export function pressSend(): void {
  document.querySelector<HTMLElement>("#correction [type=submit]")?.click();
}

export function focusComment(): void {
  document.querySelector<HTMLElement>("#comment")?.focus();
}
